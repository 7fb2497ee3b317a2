#include "vmm/instruction.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace hutch::vmm {
namespace {

struct KnownInstruction {
  const char* name;
  uint8_t prefix;  // mandatory prefix, 0 for none
  uint8_t escape;  // 0x0f for two-byte opcodes, 0 for one-byte
  uint8_t opcode;
  int extension = -1;  // the reg field of ModRM, -1 when it does not matter
};

constexpr KnownInstruction kKnown[] = {
    {"int3", 0, 0, 0xcc},
    {"popcnt", 0xf3, 0x0f, 0xb8},
    {"tzcnt", 0xf3, 0x0f, 0xbc},
    {"lzcnt", 0xf3, 0x0f, 0xbd},
    {"cmpxchg8b/16b", 0, 0x0f, 0xc7, 1},
    {"rdrand", 0, 0x0f, 0xc7, 6},
    {"rdseed", 0, 0x0f, 0xc7, 7},
    {"xsave", 0, 0x0f, 0xae, 4},
    {"xrstor", 0, 0x0f, 0xae, 5},
    {"ud2", 0, 0x0f, 0x0b},
    {"hlt", 0, 0, 0xf4},
    {"wrmsr", 0, 0x0f, 0x30},
    {"rdmsr", 0, 0x0f, 0x32},
    {"cpuid", 0, 0x0f, 0xa2},
    {"iretq", 0, 0, 0xcf},
    {"swapgs/invlpg/lgdt", 0, 0x0f, 0x01},
};

const char* find_name(std::span<const uint8_t> bytes) {
  uint8_t prefix = 0;
  size_t at = 0;
  // Prefixes: lock, operand size, repeat, then REX.
  while (at < bytes.size() &&
         (bytes[at] == 0xf0 || bytes[at] == 0x66 || bytes[at] == 0xf2 || bytes[at] == 0xf3)) {
    if (bytes[at] == 0xf2 || bytes[at] == 0xf3) prefix = bytes[at];
    at++;
  }
  if (at < bytes.size() && (bytes[at] & 0xf0) == 0x40) at++;
  uint8_t escape = 0;
  if (at < bytes.size() && bytes[at] == 0x0f) {
    escape = 0x0f;
    at++;
  }
  if (at >= bytes.size()) return nullptr;
  int extension = at + 1 < bytes.size() ? (bytes[at + 1] >> 3) & 7 : -1;
  const auto* found = std::find_if(std::begin(kKnown), std::end(kKnown), [&](const auto& known) {
    return known.escape == escape && known.opcode == bytes[at] &&
           (known.prefix == 0 || known.prefix == prefix) &&
           (known.extension < 0 || known.extension == extension);
  });
  return found == std::end(kKnown) ? nullptr : found->name;
}

}  // namespace

std::string describe_instruction(std::span<const uint8_t> bytes) {
  if (bytes.empty()) return "an instruction that could not be read";
  std::string hex = fmt::format("{:02x}", fmt::join(bytes, " "));
  const char* name = find_name(bytes);
  return name == nullptr ? fmt::format("the instruction {}", hex)
                         : fmt::format("{} ({})", name, hex);
}

}  // namespace hutch::vmm
