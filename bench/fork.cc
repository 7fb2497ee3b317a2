#include "bench/fork.h"

#include <fmt/format.h>
#include <time.h>

#include <vector>

#include "base/sys.h"
#include "bench/marks.h"
#include "bench/results.h"
#include "bench/staged_root.h"
#include "bench/statistics.h"
#include "bench/subject.h"
#include "bench/turns.h"

namespace hutch::bench {
namespace {

using nlohmann::json;

constexpr const char* kBoot = "cold boot";
constexpr const char* kReply = "reply_fork";  // from before the VMM's process to the answer
constexpr const char* kReplyNew = "reply_fork_new_process";  // the same without a pool
constexpr const char* kReplyBare = "reply_fork_no_pages";    // each when it is written to
constexpr const char* kPrivate = "private_kib_per_fork";
constexpr const char* kExits = "user_exits_per_fork";
constexpr const char* kAgain = "echo_again";
constexpr uint64_t kMillisecond = 1'000'000;

// How one comes to be.
struct Way {
  const SavedMachine* saved = nullptr;
  bool has_shell = false;  // in a process that was made ahead, as those of the server's pool
  bool has_pages = false;  // with copies of those that the first command writes to
};

Values make_one(const artefacts::Parts& parts, uint64_t memory, const Way& way,
                uint64_t handicap_ns) {
  Prepared prepared{way.has_shell ? ready_shell(parts) : nullptr, way.has_pages};
  uint64_t start = monotonic_ns();
  if (handicap_ns > 0) {
    timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(handicap_ns)};
    ::nanosleep(&time, nullptr);
  }
  Machine machine(parts, memory, way.saved, 2, prepared);
  if (hutch_vm_was_prepared(machine.vm()) != (way.has_shell ? 1 : 0))
    throw BenchFailure("a process that was made ahead had ended");
  machine.echo();
  Values values{{kReply, ms_since(start, monotonic_ns())}};
  values[kPrivate] = static_cast<double>(machine.private_kib());
  values[kExits] = static_cast<double>(machine.counters()["user_exits"]);
  add_marks(values, machine, start);
  // With all pages there.
  values[kAgain] = ms_since(0, machine.echo());
  return values;
}

}  // namespace

bool measure_fork(const ForkOptions& options) {
  Result<artefacts::Parts> parts =
      artefacts::find_parts(options.image, *artefacts::find_shared(artefacts::kLayerFile));
  if (!parts) throw BenchFailure(parts.error().text());
  uint64_t memory = uint64_t{options.memory_mib} << 20;
  // Opened before the root is another.
  std::string json_file = options.json_file;
  Fd results = open_results(json_file);
  if (artefacts::is_in_machine()) {
    show_progress("copying files to the machine's memory");
    Result<std::vector<uint64_t>> extents = artefacts::layer_extents();
    if (!extents) throw BenchFailure(extents.error().text());
    StagedRoot root;
    root.add_parts(*parts, *extents);
    root.enter();
  }
  show_progress("saving a machine");
  SavedMachine saved;
  double paused_ms = 0;
  {
    Machine original(*parts, memory);
    original.echo();
    saved = original.save(parts->scratch);
    paused_ms = static_cast<double>(original.paused_ns()) / 1e6;
    original.echo();  // it goes on
  }
  // Where software emulates the processor, a millisecond is less than it makes of itself.
  uint64_t handicap_ms = artefacts::is_in_machine() ? 200 : 1;
  {
    Machine first(*parts, memory, &saved);
    first.echo();
    saved.pages = first.record_pages(parts->scratch);
  }
  auto side = [&](const char* name, const Way& way, uint64_t handicap_ns = 0) {
    return Side{
        name,
        [&parts, memory, way, handicap_ns] { return make_one(*parts, memory, way, handicap_ns); },
        {}};
  };
  const Way best{&saved, true, true};
  std::vector<Side> sides{side("fork", best),
                          side(kBoot, {}),
                          side("fork again", best),
                          side("fork with a handicap", best, handicap_ms * kMillisecond),
                          side("fork in a new process", {&saved, false, true}),
                          side("fork without its pages", {&saved, true, false})};
  take_turns(sides, options.count);
  json list = json::array();
  for (auto [row, unit] : {std::pair{kReply, "ms"}, {kPrivate, "KiB"}, {kExits, "exits"}})
    list.push_back(result_entry(row, unit, sides[0].of(row), sides[1].of(row), kBoot));
  list.push_back(result_entry(kReplyNew, "ms", sides[4].of(kReply), sides[1].of(kReply), kBoot));
  list.push_back(result_entry(kReplyBare, "ms", sides[5].of(kReply), sides[1].of(kReply), kBoot));
  print_place();
  fmt::print(
      "{} MiB, 2 CPUs, image {}, {} turns each; the template: {:.1f} MiB, made in {:.1f} ms\n\n",
      options.memory_mib, options.image, options.count,
      static_cast<double>(saved.memory_bytes) / 1048576, paused_ms);
  fmt::print("path: pool, then fork\n");
  print_marks(sides[0], kReply);
  fmt::print("the same command once more: {:.3f} ms\n\n", median(sides[0].of(kAgain)));
  print_entries(list);
  fmt::print("\n{} of {} ms\n", show_controls(kReply, sides[0], sides[2], sides[3]), handicap_ms);
  if (!json_file.empty()) write_results(list, json_file);
  if (std::string failure = controls_failure(kReply, sides[0], sides[2], sides[3]);
      !failure.empty())
    throw BenchFailure(failure);
  return print_gates({{kReply, 1.0 / 8}, {kPrivate, 4096, true}}, list);
}

}  // namespace hutch::bench
