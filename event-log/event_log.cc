#include "event-log/event_log.h"

#include <openssl/sha.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/sys.h"

namespace hutch::event_log {
namespace {

constexpr size_t kHashSize = 2 * SHA256_DIGEST_LENGTH;
// A line ends with its hash: ,"hash":"<64>"}
constexpr std::string_view kHashKey = ",\"hash\":\"";
constexpr size_t kTail = kHashKey.size() + kHashSize + 2;
// Before the first line.
const std::string kNoHash(kHashSize, '0');

std::string hash_of(std::string_view before, std::string_view line) {
  std::string text = std::string(before) + std::string(line);
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  std::string hex;
  for (unsigned char byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

// The parts of a line: what is hashed, and the hash.
Result<std::pair<std::string_view, std::string_view>> split(std::string_view line) {
  if (line.size() < kTail || line.size() > EventLog::kMaxLine ||
      line.substr(line.size() - kTail, kHashKey.size()) != kHashKey || !line.ends_with("\"}"))
    return fail("is no line of an event log");
  return std::pair{line.substr(0, line.size() - kTail),
                   line.substr(line.size() - kHashSize - 2, kHashSize)};
}

}  // namespace

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (char c : text) result += c >= ' ' && c <= '~' && c != '"' && c != '\\' ? c : '?';
  return result + "\"";
}

Result<EventLog> EventLog::open(Fd file, uint64_t max_bytes) {
  uint64_t size = TRY(file_size(file.get()));
  if (size == 0) return EventLog(std::move(file), 0, max_bytes, kNoHash);
  std::string end(std::min<uint64_t>(size, kMaxLine), '\0');
  TRY(read_exactly_at(file.get(), std::as_writable_bytes(std::span(end)), size - end.size()));
  if (!end.ends_with('\n')) {
    // The last line was cut by a crash; it stays, and ends here.
    if (::write(file.get(), "\n", 1) != 1) return fail_errno(errno, "writing the event log");
    return EventLog(std::move(file), size + 1, max_bytes, kNoHash);
  }
  end.pop_back();
  size_t start = end.rfind('\n');
  std::string_view line = std::string_view(end).substr(start == std::string::npos ? 0 : start + 1);
  Result<std::pair<std::string_view, std::string_view>> parts = split(line);
  return EventLog(std::move(file), size, max_bytes, parts ? std::string(parts->second) : kNoHash);
}

Result<void> EventLog::append(uint64_t unix_ms, std::string_view members) {
  if (is_full_) return fail("the event log is full");
  // The room that the last line needs is kept.
  constexpr size_t kReserve = 512;
  if (max_bytes_ != 0 && size_ + members.size() + kTail + kReserve > max_bytes_) {
    is_full_ = true;
    TRY(write_line(unix_ms, fmt::format(R"("event":"full","limit":{})", max_bytes_)));
    return fail("the event log is full");
  }
  return write_line(unix_ms, members);
}

Result<void> EventLog::write_line(uint64_t unix_ms, std::string_view members) {
  std::string line = fmt::format(R"({{"time":{},{})", unix_ms, members);
  std::string hash = hash_of(last_hash_, line);
  line += fmt::format("{}{}\"}}\n", kHashKey, hash);
  TRY(write_all(file_.get(), std::as_bytes(std::span(line))));
  size_ += line.size();
  last_hash_ = std::move(hash);
  return {};
}

Result<Verified> verify(std::string_view text) {
  Verified verified{0, kNoHash};
  while (!text.empty()) {
    size_t end = text.find('\n');
    uint64_t number = verified.lines + 1;
    if (end == std::string_view::npos) return fail(fmt::format("line {} has no end", number));
    auto parts = split(text.substr(0, end));
    if (!parts) return fail(fmt::format("line {} {}", number, parts.error().message));
    if (hash_of(verified.last_hash, parts->first) != parts->second)
      return fail(
          fmt::format("line {} does not follow from the one before: it, or one before it, "
                      "was changed, removed or put in",
                      number));
    verified.last_hash = parts->second;
    verified.lines = number;
    text.remove_prefix(end + 1);
  }
  return verified;
}

}  // namespace hutch::event_log
