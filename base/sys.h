// System calls with a Result instead of errno, for the callers that would only pass the error on.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace hutch {

// Opens `path` with `flags` (close-on-exec is added).
Result<Fd> open_file(const std::string& path, int flags, mode_t mode = 0);
// The size in bytes of a regular file or block device.
Result<uint64_t> file_size(int fd);
// Fills `bytes` from `offset` (bytes from the start of the file); a short file is an error.
Result<void> read_exactly_at(int fd, std::span<std::byte> bytes, uint64_t offset);
// Writes all of `bytes`, to a blocking descriptor; interrupted and short writes go on.
Result<void> write_all(int fd, std::span<const std::byte> bytes);
// The whole of a small file; larger than `limit` bytes is an error.
Result<std::string> read_file(const std::string& path, size_t limit);
Result<void> set_nonblocking(int fd);
// A connected pair of Unix sockets, close-on-exec. `type` is SOCK_STREAM or SOCK_SEQPACKET.
Result<std::pair<Fd, Fd>> socket_pair(int type);
// A TCP port of 127.0.0.1 that nothing listens on now.
Result<uint16_t> free_local_port();

// Sends one message with file descriptors over a Unix SOCK_SEQPACKET socket. The descriptors stay
// the caller's.
Result<void> send_message(int fd, std::span<const std::byte> bytes, std::span<const int> fds);
struct ReceivedMessage {
  std::vector<std::byte> bytes;  // empty: the peer has closed
  std::vector<Fd> fds;
};
// Receives one message of at most `limit` bytes and 96 descriptors; a longer one is an error.
Result<ReceivedMessage> receive_message(int fd, size_t limit);

// Nanoseconds of CLOCK_MONOTONIC.
uint64_t monotonic_ns();

}  // namespace hutch
