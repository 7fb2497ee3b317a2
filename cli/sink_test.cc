// Sink: output that never waits and never changes the descriptor that others share.
#include "cli/sink.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

using hutch::Fd;
using hutch::cli::Sink;

namespace {

struct Pipe {
  Fd reader, writer;
  Pipe() {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    reader = Fd(ends[0]);
    writer = Fd(ends[1]);
  }
};

std::vector<std::byte> bytes(size_t size) {
  return std::vector<std::byte>(size, std::byte{'x'});
}

size_t drain(int fd) {
  std::vector<std::byte> buffer(1 << 20);
  ssize_t count = ::read(fd, buffer.data(), buffer.size());
  return count > 0 ? static_cast<size_t>(count) : 0;
}

}  // namespace

TEST_CASE("a full pipe keeps what does not fit, and takes it once there is room") {
  Pipe pipe;
  Sink sink(pipe.writer.get());
  sink.push(bytes(200'000));
  sink.flush();
  CHECK_FALSE(sink.is_empty());
  size_t total = 0;
  for (int i = 0; i < 20 && total < 200'000; i++) {
    total += drain(pipe.reader.get());
    sink.flush();
  }
  CHECK(total == 200'000);
  CHECK(sink.is_empty());
}

TEST_CASE("the shared descriptor stays in blocking mode") {
  Pipe pipe;
  Sink sink(pipe.writer.get());
  sink.push(bytes(10));
  sink.flush();
  CHECK((::fcntl(pipe.writer.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("a socket is written without waiting") {
  int pair[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
  Fd ours(pair[0]), theirs(pair[1]);
  Sink sink(ours.get());
  sink.push(bytes(4 << 20));
  sink.flush();
  CHECK_FALSE(sink.is_empty());
  CHECK((::fcntl(ours.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("without a reader everything is discarded") {
  ::signal(SIGPIPE, SIG_IGN);
  Pipe pipe;
  Sink sink(pipe.writer.get());
  pipe.reader.reset();
  sink.push(bytes(10));
  sink.flush();
  CHECK(sink.is_broken());
  sink.push(bytes(10));
  CHECK(sink.is_empty());
}

TEST_CASE("a descriptor that is closed is as good as one without a reader") {
  Sink sink(1023);
  CHECK(sink.is_broken());
}

TEST_CASE("a file is written at the place where it stands") {
  char name[] = "/tmp/hutch-sink-test-XXXXXX";
  Fd file(::mkostemp(name, O_CLOEXEC));
  REQUIRE(file);
  ::unlink(name);
  REQUIRE(::write(file.get(), "before", 6) == 6);
  Sink sink(file.get());
  sink.push(bytes(4));
  sink.flush();
  CHECK(::lseek(file.get(), 0, SEEK_CUR) == 10);
}
