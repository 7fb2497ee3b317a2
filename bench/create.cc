#include "bench/create.h"

#include <fmt/format.h>
#include <time.h>

#include "artefacts/artefacts.h"
#include "base/sys.h"
#include "bench/interrupt.h"
#include "bench/results.h"
#include "bench/subject.h"
#include "bench/turns.h"

namespace hutch::bench {
namespace {

using nlohmann::json;

constexpr const char* kRow = "reply_create";
constexpr const char *kFork = "fork", *kBoot = "boot";
// Until a template is there, at most.
constexpr uint64_t kTemplateNs = 300'000'000'000;
constexpr uint64_t kMillisecond = 1'000'000;
constexpr long kPauseNs = 200'000'000;

// The sandbox ends outside the clock; it has to come to be by `path`.
Values create(const Server& server, const char* path, uint64_t handicap_ns) {
  // As long as the pool takes to be full again.
  timespec pause{.tv_sec = 0, .tv_nsec = kPauseNs};
  ::nanosleep(&pause, nullptr);
  uint64_t start = monotonic_ns();
  if (handicap_ns > 0) {
    timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(handicap_ns)};
    ::nanosleep(&time, nullptr);
  }
  std::unique_ptr<Subject> sandbox = make_daemon_subject(server);
  sandbox->echo();
  Values values{{kRow, static_cast<double>(monotonic_ns() - start) / 1e6}};
  if (sandbox->path() != path)
    throw BenchFailure(
        fmt::format("a sandbox came to be by a {} and not by a {}: the server's log "
                    "says why",
                    sandbox->path(), path));
  return values;
}

// Until the first one has left its template behind.
void leave_template(const Server& server) {
  for (uint64_t end = monotonic_ns() + kTemplateNs; monotonic_ns() < end;) {
    throw_if_interrupted();
    std::unique_ptr<Subject> sandbox = make_daemon_subject(server);
    sandbox->echo();
    if (sandbox->path() == kFork) return;
  }
  throw BenchFailure("the server makes no template; its log says why");
}

}  // namespace

bool measure_create(const CreateOptions& options) {
  ExecOptions server_options;
  server_options.image = options.image;
  show_progress("starting two servers");
  Server forking(server_options), booting(server_options, false);
  leave_template(forking);
  uint64_t handicap_ms = artefacts::is_in_machine() ? 100 : 1;
  std::vector<Side> sides{{"fork", [&] { return create(forking, kFork, 0); }, {}},
                          {"cold boot", [&] { return create(booting, kBoot, 0); }, {}},
                          {"fork again", [&] { return create(forking, kFork, 0); }, {}},
                          {"fork with a handicap",
                           [&] { return create(forking, kFork, handicap_ms * kMillisecond); },
                           {}}};
  take_turns(sides, options.count);
  json list = json::array(
      {result_entry(kRow, "ms", sides[0].of(kRow), sides[1].of(kRow), "cold boot (no templates)")});
  print_place();
  fmt::print(
      "from the request for a sandbox to its first answer, image {}; ours: path fork in a process "
      "of the pool\n\n",
      options.image);
  print_entries(list);
  fmt::print("\n{} of {} ms\n", show_controls(kRow, sides[0], sides[2], sides[3]), handicap_ms);
  if (!options.json_file.empty()) write_results(list, options.json_file);
  if (std::string failure = controls_failure(kRow, sides[0], sides[2], sides[3]); !failure.empty())
    throw BenchFailure(failure);
  return print_gates({{kRow, 1.0 / 8}}, list);
}

}  // namespace hutch::bench
