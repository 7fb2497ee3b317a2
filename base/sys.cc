#include "base/sys.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace hutch {

Result<Fd> open_file(const std::string& path, int flags, mode_t mode) {
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) return fail_errno(errno, fmt::format("opening {}", path));
  return fd;
}

Result<uint64_t> file_size(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) < 0) return fail_errno(errno, "reading a file's size");
  if (S_ISBLK(status.st_mode)) {
    uint64_t bytes = 0;
    if (::ioctl(fd, BLKGETSIZE64, &bytes) < 0)
      return fail_errno(errno, "reading a block device's size");
    return bytes;
  }
  if (!S_ISREG(status.st_mode)) return fail("not a regular file or block device");
  return static_cast<uint64_t>(status.st_size);
}

Result<void> read_exactly_at(int fd, std::span<std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    ssize_t count = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(errno, "reading a file");
    if (count == 0) return fail(fmt::format("the file ends at byte {}, too early", offset));
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return {};
}

Result<void> write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(errno, "writing");
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return {};
}

Result<std::string> read_file(const std::string& path, size_t limit) {
  Fd fd = TRY(open_file(path, O_RDONLY));
  std::string text;
  std::array<char, 16384> buffer;
  for (;;) {
    ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(errno, fmt::format("reading {}", path));
    if (count == 0) return text;
    if (text.size() + static_cast<size_t>(count) > limit)
      return fail(fmt::format("{} is larger than {} bytes", path, limit));
    text.append(buffer.data(), static_cast<size_t>(count));
  }
}

Result<void> set_nonblocking(int fd) {
  int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
    return fail_errno(errno, "making a descriptor non-blocking");
  return {};
}

Result<std::pair<Fd, Fd>> socket_pair(int type) {
  int pair[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) < 0)
    return fail_errno(errno, "creating a pair of sockets");
  return std::pair(Fd(pair[0]), Fd(pair[1]));
}

namespace {
constexpr size_t kDescriptorsPerMessage = 96;
}

Result<uint16_t> free_local_port() {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (!socket || ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size) < 0 ||
      ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) < 0)
    return fail_errno(errno, "finding a free port");
  return ntohs(address.sin_port);
}

Result<void> send_message(int fd, std::span<const std::byte> bytes, std::span<const int> fds) {
  if (fds.size() > kDescriptorsPerMessage)
    return fail(
        fmt::format("{} descriptors in one message; {} fit", fds.size(), kDescriptorsPerMessage));
  iovec vector{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * kDescriptorsPerMessage)>
      control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  for (;;) {
    ssize_t count = ::sendmsg(fd, &message, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(errno, "sending a message");
    return {};
  }
}

Result<ReceivedMessage> receive_message(int fd, size_t limit) {
  ReceivedMessage received;
  // Most messages are much shorter than they may be: the memory for the longest is kept, and only
  // what has come is copied.
  static thread_local std::vector<std::byte> buffer;
  if (buffer.size() < limit) buffer.resize(limit);
  iovec vector{buffer.data(), limit};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * kDescriptorsPerMessage)>
      control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t count;
  do {
    count = ::recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    // ECONNRESET is said once, when the peer has closed without reading all: what it sent before,
    // and then its end, is still to be read.
  } while (count < 0 && (errno == EINTR || errno == ECONNRESET));
  if (count < 0) return fail_errno(errno, "receiving a message");
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    size_t descriptors = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < descriptors; i++) {
      int descriptor;
      std::memcpy(&descriptor, CMSG_DATA(header) + i * sizeof(int), sizeof descriptor);
      received.fds.emplace_back(descriptor);
    }
  }
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
    return fail(fmt::format("a message is longer than {} bytes or {} descriptors", limit,
                            kDescriptorsPerMessage));
  received.bytes.assign(buffer.begin(), buffer.begin() + count);
  return received;
}

uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace hutch
