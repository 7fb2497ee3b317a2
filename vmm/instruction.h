// Names the few instructions on which KVM is known to give up, for the error message.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace hutch::vmm {

// "popcnt (f3 0f b8 c1)" for what is known, else the bytes alone. `bytes` is guest-controlled and
// may be cut short or empty.
std::string describe_instruction(std::span<const uint8_t> bytes);

}  // namespace hutch::vmm
