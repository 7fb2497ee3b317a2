#include "broker/decision_log.h"

#include <openssl/sha.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/sys.h"

namespace hutch::broker {
namespace {

constexpr size_t kHashSize = 2 * SHA256_DIGEST_LENGTH;
// A line ends with its hash: ,"hash":"<64>"}
constexpr std::string_view kHashKey = ",\"hash\":\"";
constexpr size_t kTail = kHashKey.size() + kHashSize + 2;
constexpr size_t kMaxLine = 4096;
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

// As a JSON string; what is not plain ASCII becomes a question mark.
std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (char c : text) result += c >= ' ' && c <= '~' && c != '"' && c != '\\' ? c : '?';
  return result + "\"";
}

// The parts of a line: what is hashed, and the hash.
Result<std::pair<std::string_view, std::string_view>> split(std::string_view line) {
  if (line.size() < kTail || line.size() > kMaxLine ||
      line.substr(line.size() - kTail, kHashKey.size()) != kHashKey || !line.ends_with("\"}"))
    return fail("is no line of a decision log");
  return std::pair{line.substr(0, line.size() - kTail),
                   line.substr(line.size() - kHashSize - 2, kHashSize)};
}

}  // namespace

Result<DecisionLog> DecisionLog::open(Fd file) {
  uint64_t size = TRY(file_size(file.get()));
  if (size == 0) return DecisionLog(std::move(file), kNoHash);
  std::string end(std::min<uint64_t>(size, kMaxLine), '\0');
  TRY(read_exactly_at(file.get(), std::as_writable_bytes(std::span(end)), size - end.size()));
  if (!end.ends_with('\n')) {
    // The last line was cut by a crash; it stays, and ends here.
    if (::write(file.get(), "\n", 1) != 1) return fail_errno(errno, "writing the decision log");
    return DecisionLog(std::move(file), kNoHash);
  }
  end.pop_back();
  size_t start = end.rfind('\n');
  std::string_view line = std::string_view(end).substr(start == std::string::npos ? 0 : start + 1);
  Result<std::pair<std::string_view, std::string_view>> parts = split(line);
  return DecisionLog(std::move(file), parts ? std::string(parts->second) : kNoHash);
}

Result<void> DecisionLog::write(const Decision& decision, uint64_t unix_ms) {
  std::string line = fmt::format(
      R"({{"time":{},"event":{},"flow":{},"name":{},"address":{},"port":{},"rule":{},"reason":{},)"
      R"("sent":{},"received":{})",
      unix_ms, quoted(decision.event), decision.flow, quoted(decision.name),
      quoted(decision.address), decision.port, quoted(decision.rule), quoted(decision.reason),
      decision.sent, decision.received);
  std::string hash = hash_of(last_hash_, line);
  line += fmt::format("{}{}\"}}\n", kHashKey, hash);
  TRY(write_all(file_.get(), std::as_bytes(std::span(line))));
  last_hash_ = std::move(hash);
  return {};
}

Result<uint64_t> verify_decision_log(std::string_view text) {
  std::string before = kNoHash;
  uint64_t number = 0;
  while (!text.empty()) {
    size_t end = text.find('\n');
    number++;
    if (end == std::string_view::npos) return fail(fmt::format("line {} has no end", number));
    auto parts = split(text.substr(0, end));
    if (!parts) return fail(fmt::format("line {} {}", number, parts.error().message));
    if (hash_of(before, parts->first) != parts->second)
      return fail(
          fmt::format("line {} does not follow from the one before: it, or one before it, "
                      "was changed, removed or put in",
                      number));
    before = parts->second;
    text.remove_prefix(end + 1);
  }
  return number;
}

}  // namespace hutch::broker
