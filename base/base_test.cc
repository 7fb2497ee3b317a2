#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "base/log.h"
#include "base/loop.h"
#include "base/result.h"
#include "base/sys.h"
#include "base/token_bucket.h"
#include "base/wire.h"

namespace hutch {
namespace {

Result<int> half(int value) {
  if (value % 2 != 0) return fail(fmt::format("{} is odd", value), "pass an even number");
  return value / 2;
}

Result<int> quarter(int value) {
  return TRY(half(TRY(half(value))));
}

TEST_CASE("TRY passes values on and returns the first error") {
  CHECK(quarter(12).value() == 3);
  Result<int> failed = quarter(6);
  REQUIRE(!failed);
  CHECK(failed.error().text() == "3 is odd (pass an even number)");
}

TEST_CASE("an error of a system call carries its number, its text and what the caller adds") {
  Result<Fd> opened = open_file("/nonexistent/file", O_RDONLY);
  REQUIRE(!opened);
  CHECK(opened.error().number == ENOENT);
  Error error = std::move(opened).error().context("reading the kernel");
  CHECK(error.message ==
        "reading the kernel: opening /nonexistent/file: No such file or directory");
}

TEST_CASE("wire integers are little-endian at any alignment") {
  struct Wire {
    uint8_t pad;
    le32 value;
  };
  static_assert(sizeof(Wire) == 5);
  Wire wire{0, 0x01020304};
  CHECK(reinterpret_cast<const uint8_t*>(&wire)[1] == 4);
  CHECK(static_cast<uint32_t>(wire.value) == 0x01020304);
}

TEST_CASE("a descriptor is closed once, by its last owner") {
  auto [left, right] = socket_pair(SOCK_STREAM).value();
  int number = left.get();
  Fd moved = std::move(left);
  CHECK(!left.is_open());
  CHECK(moved.get() == number);
  moved.reset();
  char byte;
  CHECK(::read(right.get(), &byte, 1) == 0);
}

TEST_CASE("messages carry descriptors, and a longer one than allowed is an error") {
  auto [left, right] = socket_pair(SOCK_SEQPACKET).value();
  std::array<std::byte, 3> bytes{std::byte{1}, std::byte{2}, std::byte{3}};
  int fd = left.get();
  REQUIRE(send_message(left.get(), bytes, std::span(&fd, 1)));
  ReceivedMessage received = receive_message(right.get(), 64).value();
  CHECK(received.bytes.size() == 3);
  CHECK(received.fds.size() == 1);
  REQUIRE(send_message(left.get(), bytes, {}));
  CHECK(!receive_message(right.get(), 2));
}

TEST_CASE("a loop that lingers ends that when something comes, and else sleeps") {
  using std::chrono::steady_clock, std::chrono::milliseconds;
  std::unique_ptr<Loop> loop = Loop::create().value();
  std::pair<Fd, Fd> ends = socket_pair(SOCK_STREAM).value();
  int readable = 0;
  char byte = 'x';
  Watch watch = loop->watch(ends.second.get(), EPOLLIN,
                            [&](uint32_t) {
                              readable++;
                              REQUIRE(::read(ends.second.get(), &byte, 1) == 1);
                            })
                    .value();
  REQUIRE(write_all(ends.first.get(), std::as_bytes(std::span(&byte, 1))));
  loop->linger(std::chrono::hours(1));
  REQUIRE(loop->run_once(-1));
  CHECK(readable == 1);
  // Nothing comes: for no longer than asked, and the sleep is as long as it would be without.
  loop->linger(milliseconds(5));
  steady_clock::time_point start = steady_clock::now();
  REQUIRE(loop->run_once(40));
  CHECK(steady_clock::now() - start >= milliseconds(44));
  // It was for one round.
  loop->linger(milliseconds(300));
  REQUIRE(loop->run_once(0));
  start = steady_clock::now();
  REQUIRE(loop->run_once(1));
  CHECK(steady_clock::now() - start < milliseconds(300));
  CHECK(readable == 1);
}

TEST_CASE("the last message of a peer that closes without reading all is not lost") {
  auto [left, right] = socket_pair(SOCK_SEQPACKET).value();
  std::array<std::byte, 1> word{std::byte{7}};
  REQUIRE(send_message(right.get(), word, {}));
  REQUIRE(send_message(left.get(), word, {}));
  right.reset();
  Result<ReceivedMessage> last = receive_message(left.get(), 64);
  REQUIRE(last);
  CHECK(last->bytes == std::vector(1, std::byte{7}));
  CHECK(receive_message(left.get(), 64).value().bytes.empty());
}

TEST_CASE("a loop runs watches, timers and posted functions until it is stopped") {
  std::unique_ptr<Loop> loop = Loop::create().value();
  EventFd event = EventFd::create().value();
  int events = 0, timers = 0;
  Watch watch = loop->watch(event.get(), EPOLLIN,
                            [&](uint32_t) {
                              event.drain();
                              events++;
                              if (timers > 0) loop->stop();
                            })
                    .value();
  Watch cancelled = loop->after(std::chrono::milliseconds(1), [&](uint32_t) { timers += 100; });
  cancelled.reset();
  Watch timer = loop->after(std::chrono::milliseconds(2), [&](uint32_t) {
    timers++;
    if (events > 0) loop->stop();
  });
  std::thread other([&] { loop->post([&] { event.signal(); }); });
  REQUIRE(loop->run());
  other.join();
  CHECK(events == 1);
  CHECK(timers == 1);
}

TEST_CASE("a watch that drops itself and its neighbour in a callback is safe") {
  std::unique_ptr<Loop> loop = Loop::create().value();
  EventFd first = EventFd::create().value();
  EventFd second = EventFd::create().value();
  int calls = 0;
  Watch one, two;
  auto drop_both = [&](uint32_t) {
    calls++;
    one.reset();
    two.reset();
  };
  one = loop->watch(first.get(), EPOLLIN, drop_both).value();
  two = loop->watch(second.get(), EPOLLIN, drop_both).value();
  first.signal();
  second.signal();
  REQUIRE(loop->run_once(0));
  REQUIRE(loop->run_once(0));
  CHECK(calls == 1);
}

TEST_CASE("a call on a running loop runs on its thread, after what was posted before") {
  std::unique_ptr<Loop> loop = Loop::create().value();
  std::thread::id loop_thread, call_thread, nested_thread;
  int order = 0, posted_at = 0, called_at = 0;
  std::atomic<bool> is_running{false};
  loop->post([&] { is_running = true; });
  std::thread runner([&] { REQUIRE(loop->run()); });
  while (!is_running) std::this_thread::yield();
  loop->post([&] {
    loop_thread = std::this_thread::get_id();
    posted_at = ++order;
  });
  loop->run_on_loop([&] {
    call_thread = std::this_thread::get_id();
    called_at = ++order;
    loop->run_on_loop([&] { nested_thread = std::this_thread::get_id(); });
  });
  CHECK(call_thread == loop_thread);
  CHECK(nested_thread == loop_thread);
  CHECK(posted_at == 1);
  CHECK(called_at == 2);
  loop->stop();
  runner.join();
}

TEST_CASE("a call on a loop that nobody runs runs at once, and not beside another") {
  std::unique_ptr<Loop> loop = Loop::create().value();
  int sum = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; i++) {
    callers.emplace_back([&] {
      for (int j = 0; j < 5'000; j++) loop->run_on_loop([&] { sum++; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(sum == 15'000);
}

TEST_CASE("calls from other threads all return while a loop starts and ends") {
  int sum = 0;
  for (int i = 0; i < 200; i++) {
    std::unique_ptr<Loop> loop = Loop::create().value();
    std::vector<std::thread> callers;
    for (int j = 0; j < 2; j++) {
      callers.emplace_back([&] {
        for (int k = 0; k < 50; k++) loop->run_on_loop([&] { sum++; });
      });
    }
    std::thread runner([&] { REQUIRE(loop->run()); });
    std::this_thread::yield();
    loop->stop();
    for (std::thread& caller : callers) caller.join();
    runner.join();
  }
  CHECK(sum == 200 * 2 * 50);
}

TEST_CASE("a token bucket gives its capacity at once and its rate after that") {
  constexpr uint64_t kSecond = 1'000'000'000;
  TokenBucket bucket(100, 10);
  CHECK(bucket.take(70, kSecond) == 70);
  CHECK(bucket.take(70, kSecond) == 30);
  CHECK(bucket.take(1, kSecond) == 0);
  CHECK(bucket.until(1) > std::chrono::milliseconds(99));
  CHECK(bucket.until(1) < std::chrono::milliseconds(101));
  CHECK(bucket.until(1'000'000) < std::chrono::seconds(11));
  // Fractions of a token are not lost to frequent looks.
  for (uint64_t i = 1; i <= 1000; i++) bucket.available(kSecond + i * kSecond / 1000);
  CHECK(bucket.available(2 * kSecond) == 10);
  CHECK(bucket.available(UINT64_MAX) == 100);
  CHECK(bucket.available(0) == 100);
}

TEST_CASE("a rate limit lets a burst through and counts the rest") {
  RateLimit limit(3);
  int allowed = 0;
  for (int i = 0; i < 1000; i++) allowed += limit.allow();
  CHECK(allowed >= 3);
  CHECK(allowed <= 5);
  CHECK(limit.suppressed() == static_cast<uint64_t>(1000 - allowed));
}

}  // namespace
}  // namespace hutch
