// The report of --timings.
#include "cli/timings.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

using namespace hutch::cli;
using Json = nlohmann::json;

TEST_CASE("marks are microseconds since the start, and null when they were not reached") {
  Timings timings;
  timings.start_ns = 1'000'000;
  timings.first_run_ns = 1'500'000;
  timings.reply_ns = 3'000'999;
  Json marks = Json::parse(timings.json())["marks_us"];
  CHECK(marks["first_run"] == 500);
  CHECK(marks["reply"] == 2000);
  CHECK(marks["init"].is_null());
  CHECK(marks.size() == 6);
}

TEST_CASE("counters with parts become a total and its parts") {
  Timings timings;
  timings.counters = {{"user_exits_until_init", 5},
                      {"user_exits_until_init/port/0x3f8", 3},
                      {"user_exits_until_init/mmio/0xd0000070", 2},
                      {"kernel_exits/exits", 100},
                      {"kernel_exits/halt_exits", 40},
                      {"start_ns/create_vm", 7},
                      {"start_ns/load", 8},
                      {"pages_touched", 12}};
  Json counts = Json::parse(timings.json())["counts"];
  CHECK(counts["user_exits_until_init"]["total"] == 5);
  CHECK(counts["user_exits_until_init"]["by_address"]["mmio/0xd0000070"] == 2);
  CHECK(counts["kernel_exits"]["total"] == 100);
  CHECK(counts["kernel_exits"]["by_reason"] == Json{{"halt_exits", 40}});
  CHECK(counts["start_ns"]["total"] == 15);
  CHECK(counts["pages_touched"] == 12);
  CHECK(counts["syscalls_until_first_run"].is_null());
}

TEST_CASE("what the VMM counts so far is the count until the reply") {
  hutch_counter counters[] = {{"user_exits", 9}, {"user_exits/port/0x60", 4}};
  hutch_event event{};
  event.counters = counters;
  event.counter_count = 2;
  Timings timings;
  timings.set_counters(event);
  Json counts = Json::parse(timings.json())["counts"];
  CHECK(counts["user_exits_until_reply"]["total"] == 9);
  CHECK(counts["user_exits_until_reply"]["by_address"]["port/0x60"] == 4);
}

TEST_CASE("every key of the report is there without a single counter") {
  Json report = Json::parse(Timings().json());
  CHECK(report["path"] == "boot");
  CHECK(report["vmm_kib"].is_null());
  for (const char* name : {"user_exits_until_init", "user_exits_until_reply", "kernel_exits",
                           "pages_touched", "syscalls_until_first_run", "waits_until_first_run"})
    CHECK(report["counts"].contains(name));
}

TEST_CASE("resident memory is read from a process's mappings") {
  std::optional<uint64_t> kib = vmm_resident_kib(::getpid(), {});
  REQUIRE(kib);
  CHECK(*kib > 100);
  CHECK(*kib < 1'000'000);
}

TEST_CASE("a process that does not exist has no resident memory") {
  CHECK_FALSE(vmm_resident_kib(0x7ffffff0, {{"pages_touched", 0}}));
}
