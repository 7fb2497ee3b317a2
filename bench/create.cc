#include "bench/create.h"

#include <fmt/format.h>
#include <time.h>

#include "artefacts/artefacts.h"
#include "base/sys.h"
#include "bench/results.h"
#include "bench/subject.h"
#include "bench/turns.h"

namespace hutch::bench {
namespace {

using nlohmann::json;

constexpr const char* kRow = "reply_create";
constexpr uint64_t kMillisecond = 1'000'000;

// The sandbox ends outside the clock.
Values create(const Server& server, uint64_t handicap_ns) {
  uint64_t start = monotonic_ns();
  if (handicap_ns > 0) {
    timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(handicap_ns)};
    ::nanosleep(&time, nullptr);
  }
  std::unique_ptr<Subject> sandbox = make_daemon_subject(server);
  sandbox->echo();
  return {{kRow, static_cast<double>(monotonic_ns() - start) / 1e6}};
}

}  // namespace

bool measure_create(const CreateOptions& options) {
  ExecOptions server_options;
  server_options.image = options.image;
  show_progress("starting two servers");
  Server forking(server_options), booting(server_options, false);
  // The first one leaves the template behind.
  create(forking, 0);
  uint64_t handicap_ms = artefacts::is_in_machine() ? 100 : 1;
  std::vector<Side> sides{
      {"fork", [&] { return create(forking, 0); }, {}},
      {"cold boot", [&] { return create(booting, 0); }, {}},
      {"fork again", [&] { return create(forking, 0); }, {}},
      {"fork with a handicap", [&] { return create(forking, handicap_ms * kMillisecond); }, {}}};
  take_turns(sides, options.count);
  json list = json::array(
      {result_entry(kRow, "ms", sides[0].of(kRow), sides[1].of(kRow), "cold boot (no templates)")});
  print_place();
  fmt::print("from the request for a sandbox to its first answer, image {}; ours: path fork\n\n",
             options.image);
  print_entries(list);
  fmt::print("\n{} of {} ms\n", show_controls(kRow, sides[0], sides[2], sides[3]), handicap_ms);
  if (!options.json_file.empty()) write_results(list, options.json_file);
  if (std::string failure = controls_failure(kRow, sides[0], sides[2], sides[3]); !failure.empty())
    throw BenchFailure(failure);
  return print_gates({{kRow, 1.0 / 8}}, list);
}

}  // namespace hutch::bench
