// The chain of an event log: what was done to it shows.
#include "event-log/event_log.h"

#include <doctest/doctest.h>
#include <sys/mman.h>

#include "base/sys.h"

using namespace hutch;
using namespace hutch::event_log;

namespace {

std::string content(const Fd& file) {
  std::string text(file_size(file.get()).value(), '\0');
  REQUIRE(read_exactly_at(file.get(), std::as_writable_bytes(std::span(text)), 0).has_value());
  return text;
}

EventLog open_log(const Fd& file, uint64_t max_bytes = 0) {
  return EventLog::open(file.duplicate().value(), max_bytes).value();
}

}  // namespace

TEST_CASE("an event log is a chain that shows what was done to it") {
  Fd file(::memfd_create("log", MFD_CLOEXEC));
  {
    EventLog log = open_log(file);
    for (uint64_t i = 0; i < 3; i++)
      REQUIRE(log.append(1000 + i, R"("event":"open","name":)" + quoted("a\"b\\c\n.test")));
  }
  // Another one goes on with it.
  REQUIRE(open_log(file).append(2000, R"("event":"close")"));
  std::string text = content(file);
  CHECK(verify(text)->lines == 4);
  CHECK(text.find(verify(text)->last_hash) == text.size() - 64 - 3);
  CHECK(verify("")->lines == 0);
  CHECK(verify("")->last_hash == std::string(64, '0'));
  CHECK(text.starts_with(R"({"time":1000,"event":"open","name":"a?b?c?.test","hash":")"));
  size_t second = text.find('\n') + 1, third = text.find('\n', second) + 1;
  CHECK_FALSE(verify(text.substr(0, second) + text.substr(third)));
  CHECK_FALSE(verify(text.substr(second)));
  CHECK_FALSE(verify(text.substr(0, third) + text.substr(second)));
  CHECK_FALSE(verify(text.substr(0, text.size() - 1)));
  for (size_t at = 0; at < text.size(); at += 7) {
    std::string changed = text;
    changed[at] = changed[at] == 'x' ? 'y' : 'x';
    CHECK_FALSE(verify(changed));
  }
}

TEST_CASE("a line that a crash has cut ends there, and the chain says so") {
  Fd file(::memfd_create("log", MFD_CLOEXEC));
  REQUIRE(open_log(file).append(1, R"("event":"a")"));
  REQUIRE(write_all(file.get(), std::as_bytes(std::span(std::string_view("{\"time\":2,\"ev")))));
  REQUIRE(open_log(file).append(3, R"("event":"c")"));
  Result<Verified> verified = verify(content(file));
  REQUIRE_FALSE(verified);
  CHECK(verified.error().message == "line 2 is no line of an event log");
}

TEST_CASE("an event log takes no more than its limit, and its last line says so") {
  Fd file(::memfd_create("log", MFD_CLOEXEC));
  EventLog log = open_log(file, 4000);
  unsigned count = 0;
  while (log.append(count, R"("event":"open")")) count++;
  CHECK(count > 20);
  CHECK_FALSE(log.append(count, R"("event":"open")"));
  std::string text = content(file);
  CHECK(text.size() <= 4000);
  CHECK(verify(text)->lines == count + 1);
  CHECK(text.find(R"("event":"full","limit":4000)") != std::string::npos);
  // Opened again it still is.
  CHECK_FALSE(open_log(file, 4000).append(9, R"("event":"open")"));
}
