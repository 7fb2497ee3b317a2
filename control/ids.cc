#include "control/ids.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace hutch::control {
namespace {

constexpr std::string_view kAlphabet = "0123456789abcdefghjkmnpqrstuvwxyz";
constexpr size_t kIdSize = 20;
constexpr std::string_view kSandbox = "sbx", kSnapshot = "snp";

std::string new_id(std::string_view kind, std::string_view region) {
  std::string id = fmt::format("{}_{}_", kind, region);
  size_t end = id.size() + kIdSize;
  // Bytes above the last whole multiple of the alphabet would favour its first characters.
  constexpr size_t kFair = 256 / kAlphabet.size() * kAlphabet.size();
  while (id.size() < end)
    for (unsigned char byte : random_bytes(end - id.size()))
      if (byte < kFair) id += kAlphabet[byte % kAlphabet.size()];
  return id;
}

bool is_id(std::string_view kind, std::string_view text) {
  if (text.size() != 8 + kIdSize || !text.starts_with(kind) || text[3] != '_' || text[7] != '_')
    return false;
  std::string_view rest = text.substr(8);
  return is_region(text.substr(4, 3)) &&
         rest.find_first_not_of(kAlphabet) == std::string_view::npos;
}

}  // namespace

std::vector<unsigned char> random_bytes(size_t count) {
  std::vector<unsigned char> bytes(count);
  for (size_t done = 0; done < count;) {
    ssize_t got = ::getrandom(bytes.data() + done, count - done, 0);
    if (got < 0 && errno != EINTR)
      throw std::system_error(errno, std::generic_category(), "reading random bytes");
    if (got > 0) done += static_cast<size_t>(got);
  }
  return bytes;
}

std::string random_hex(size_t bytes) {
  std::string text;
  for (unsigned char byte : random_bytes(bytes)) text += fmt::format("{:02x}", byte);
  return text;
}

bool is_region(std::string_view text) {
  return text.size() == 3 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= 'a' && c <= 'z'; });
}

std::string new_sandbox_id(std::string_view region) {
  return new_id(kSandbox, region);
}

bool is_sandbox_id(std::string_view text) {
  return is_id(kSandbox, text);
}

std::string new_snapshot_id(std::string_view region) {
  return new_id(kSnapshot, region);
}

bool is_snapshot_id(std::string_view text) {
  return is_id(kSnapshot, text);
}

uint64_t new_stream_base() {
  for (;;) {
    uint64_t number = 0;
    for (unsigned char byte : random_bytes(4)) number = number << 8 | byte;
    number &= (uint64_t{1} << 30) - 1;
    if (number != 0) return number * kStreamsPerConnection;
  }
}

}  // namespace hutch::control
