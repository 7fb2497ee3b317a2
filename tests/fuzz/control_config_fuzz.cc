// The request header x-deno-sandbox-config, as it arrives, and as the base64 of a document. Besides
// memory errors, this looks for another exception than a Problem and for values out of their range.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "control/problem.h"
#include "control/sandbox_config.h"

namespace {

using namespace hutch::control;  // NOLINT: one room

std::string base64(std::string_view bytes) {
  constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  uint32_t bits = 0;
  int count = 0;
  for (char c : bytes) {
    bits = bits << 8 | static_cast<unsigned char>(c);
    for (count += 8; count >= 6; count -= 6) text += kAlphabet[bits >> (count - 6) & 63];
  }
  if (count > 0) text += kAlphabet[bits << (6 - count) & 63];
  return text;
}

void check(const std::string& header) {
  Config config;
  try {
    SandboxConfig wanted = parse_sandbox_config(header, config);
    if (wanted.memory_mb < config.memory_min_mb || wanted.memory_mb > config.memory_max_mb)
      std::abort();
    check_labels(wanted.labels);
  } catch (const Problem& problem) {
    if (problem.status() < 400 || problem.code().empty() || problem.json().empty()) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  check(bytes);
  check(base64(bytes));
  return 0;
}
