// What people write on the command line: sizes, durations, environments and disks.
//
// Each function throws std::invalid_argument with a sentence that names the value and what is
// accepted.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hutch::cli {

// "768MiB", "768M", "768MB" (all 2^20), "1.5G", "1048576": bytes.
uint64_t parse_size(std::string_view text);
// "30s", "500ms", "5m", "1h30m", "90": seconds without a unit. Above zero.
std::chrono::nanoseconds parse_duration(std::string_view text);

// "NAME=value", or "NAME" for the value that the variable has here; then nothing when it has none.
std::vector<std::string> parse_environment(std::string_view text);
// The lines of an --env-file: as above; empty lines and lines that start with # are skipped. Values
// are taken as they stand, without quotes or expansion.
std::vector<std::string> parse_environment_file(std::string_view content);

struct DiskArgument {
  std::string path;
  bool read_only = false;
};
// "FILE", "FILE:ro" or "FILE:rw".
DiskArgument parse_disk(std::string_view text);

}  // namespace hutch::cli
