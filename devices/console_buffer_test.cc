#include "devices/console_buffer.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string_view>

#include "base/sys.h"

namespace hutch {
namespace {

std::span<const uint8_t> bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::pair<Fd, Fd> make_pipe() {
  int ends[2] = {-1, -1};
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  return {Fd(ends[0]), Fd(ends[1])};
}

std::string read_some(int fd) {
  std::string text(1 << 20, '\0');
  ssize_t count = ::read(fd, text.data(), text.size());
  text.resize(count > 0 ? static_cast<size_t>(count) : 0);
  return text;
}

TEST_CASE("the tail is the last lines, an unfinished one included") {
  ConsoleBuffer buffer;
  CHECK(buffer.tail(5).empty());
  buffer.write(bytes("one\ntwo\nthree\n"));
  CHECK(buffer.tail(0).empty());
  CHECK(buffer.tail(1) == "three\n");
  CHECK(buffer.tail(2) == "two\nthree\n");
  CHECK(buffer.tail(9) == "one\ntwo\nthree\n");
  buffer.write(bytes("panic"));
  CHECK(buffer.tail(1) == "panic");
  CHECK(buffer.tail(2) == "three\npanic");
}

TEST_CASE("V24: control characters and escape sequences of the guest do not reach a terminal") {
  auto shown = [](std::string_view text) { return printable_text(bytes(text)); };
  CHECK(shown("plain\ttext\r\n") == "plain\ttext\n");
  CHECK(shown("\x1b[31mred\x1b[0m \x1b[2J\x1b[1;1Hhome") == "red home");
  CHECK(shown("\x1b]0;title\x07"
              "after") == "after");
  CHECK(shown("\x1b]52;c;cGFzdGU=\x1b\\after") == "after");
  CHECK(shown("\x1bP1;2|data\x1b\\after") == "after");
  CHECK(shown("\x1b(0box\x1b"
              "Mup\x1b=k\x1b#8x") == "boxupkx");
  CHECK(shown("\x07\x08\x7f\x0e bell") == " bell");
  CHECK(shown("\x9b"
              "31m \xc2\x9b \xf0\x9f\x90\xa7") == "?31m ?? ????");
  CHECK(shown("\x1b]never ends\nnext line") == "\nnext line");
  CHECK(shown("\x1b") == "");
  for (int byte = 0; byte < 256; byte++) {
    for (int second = 0; second < 256; second++) {
      uint8_t pair[] = {0x1b, static_cast<uint8_t>(byte), static_cast<uint8_t>(second), 'x'};
      for (char c : printable_text(pair))
        CHECK((c == '\n' || c == '\t' || (c >= 0x20 && c < 0x7f)));
    }
  }
}

TEST_CASE("V24: a guest that prints a gigabyte leaves 64 KiB and a count") {
  ConsoleBuffer buffer;
  std::string line(1023, 'x');
  line += '\n';
  constexpr uint64_t kGigabyte = 1 << 30;
  for (uint64_t printed = 0; printed < kGigabyte; printed += line.size()) buffer.write(bytes(line));
  buffer.write(bytes("the end"));
  CHECK(buffer.printed() == kGigabyte + 7);
  CHECK(buffer.overwritten() == kGigabyte + 7 - ConsoleBuffer::kCapacity);
  CHECK(buffer.tail(SIZE_MAX).size() == ConsoleBuffer::kCapacity);
  CHECK(buffer.tail(2) == line + "the end");
}

TEST_CASE("one write longer than the ring keeps its end") {
  ConsoleBuffer buffer;
  std::string text(200'000, 'a');
  text += "end";
  buffer.write(bytes(text));
  CHECK(buffer.printed() == text.size());
  CHECK(buffer.tail(1) == text.substr(text.size() - ConsoleBuffer::kCapacity));
}

TEST_CASE("output is passed on as it is") {
  ConsoleBuffer buffer;
  buffer.write(bytes("before"));
  auto [reader, writer] = make_pipe();
  buffer.pass_on_to(std::move(writer));
  buffer.write(bytes("\x1b[1mbold"));
  CHECK(read_some(reader.get()) == "\x1b[1mbold");
  CHECK(buffer.dropped() == 0);
}

TEST_CASE("V24: a descriptor that takes nothing blocks nobody, and what is lost is counted") {
  for (bool blocking : {true, false}) {
    ConsoleBuffer buffer;
    auto [reader, writer] = make_pipe();
    if (!blocking) REQUIRE(set_nonblocking(writer.get()));
    buffer.pass_on_to(std::move(writer), 1 << 30);
    std::string block(10'000, 'b');
    for (int i = 0; i < 100; i++) buffer.write(bytes(block));
    CHECK(buffer.dropped() > 0);
    uint64_t received = 0;
    bool done = false;
    while (!done) {
      received += read_some(reader.get()).size();
      done = buffer.flush();
    }
    received += read_some(reader.get()).size();
    CHECK(received >= ConsoleBuffer::kBacklog);
    CHECK(received + buffer.dropped() == 1'000'000);
    // With room again, output flows again.
    buffer.write(bytes("later"));
    CHECK(read_some(reader.get()) == "later");
  }
}

TEST_CASE("a reader that is late gets all of it, in order") {
  ConsoleBuffer buffer;
  // A socket takes a few hundred single bytes before it is full.
  auto [left, right] = socket_pair(SOCK_STREAM).value();
  int backlogs = 0;
  buffer.pass_on_to(std::move(left), 1 << 30, [&] { backlogs++; });
  std::string sent, received;
  for (size_t round = 0; round < 3; round++) {
    for (size_t i = 0; i < 20'000; i++) {
      sent += static_cast<char>('a' + (i + round) % 26);
      buffer.write(bytes(std::string_view(sent).substr(sent.size() - 1)));
    }
    while (!buffer.flush()) received += read_some(right.get());
  }
  while (received.size() < sent.size()) received += read_some(right.get());
  CHECK(received == sent);
  CHECK(backlogs == 3);
  CHECK(buffer.dropped() == 0);
}

TEST_CASE("V24: what is passed on is limited per second") {
  ConsoleBuffer buffer;
  auto [reader, writer] = make_pipe();
  buffer.pass_on_to(std::move(writer), 1000);
  buffer.write(bytes(std::string(30'000, 'b')));
  CHECK(read_some(reader.get()).size() == 1000);
  CHECK(buffer.dropped() == 29'000);
}

TEST_CASE("a reader that has gone is no error") {
  ConsoleBuffer buffer;
  auto [left, right] = socket_pair(SOCK_STREAM).value();
  buffer.pass_on_to(std::move(left));
  right.reset();
  // A write to it now would raise SIGPIPE.
  buffer.write(bytes("nobody"));
  CHECK(buffer.dropped() == 6);
  CHECK(buffer.tail(1) == "nobody");
}

}  // namespace
}  // namespace hutch
