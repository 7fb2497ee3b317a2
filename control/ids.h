// Random values and the ids made of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hutch::control {

// `count` bytes of the kernel's generator.
std::vector<unsigned char> random_bytes(size_t count);
std::string random_hex(size_t bytes);

// Three lower-case letters.
bool is_region(std::string_view text);
// sbx_REG_ and 20 characters of 0-9 and a-z without i, l and o: 100 random bits.
std::string new_sandbox_id(std::string_view region);
bool is_sandbox_id(std::string_view text);
// The same with snp.
std::string new_snapshot_id(std::string_view region);
bool is_snapshot_id(std::string_view text);

// Where the stream numbers of a connection begin: a random multiple of 2^20, not 0, below 2^50.
// Clients keep the streams of all their sandboxes in one table, so no two connections may share
// numbers.
constexpr uint64_t kStreamsPerConnection = uint64_t{1} << 20;
uint64_t new_stream_base();

}  // namespace hutch::control
