#include "bench/setup.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "artefacts/artefacts.h"
#include "bench/child.h"
#include "bench/first_byte.h"
#include "bench/results.h"
#include "bench/subject.h"
#include "bench/turns.h"

namespace hutch::bench {
namespace {

using nlohmann::json;

constexpr uint64_t kHandicapNs = 1'000'000;
constexpr double kNsInMs = 1e6;
constexpr const char* kIrqchipFirst = "irqchip first";
constexpr const char* kQemu = "QEMU microvm";

template <typename T>
T value_of(Result<T> result) {
  if (!result) throw BenchFailure(result.error().text());
  return *std::move(result);
}

// In a process of its own: what one turn leaves behind in the kernel must not be in the next.
Values setup_turn(const std::string& program, const char* order, uint64_t handicap_ns) {
  json given{{"what", "setup_turn"}, {"order", order}, {"handicap_ns", handicap_ns}};
  Child child = start_child({program, given.dump()});
  std::string text = read_to_end(child.output);
  if (wait_for(child) != 0) throw BenchFailure("setting KVM up failed, as said above");
  json turn = json::parse(text);
  return {{"kvm_setup", turn.at("ready_ns").get<double>() / kNsInMs},
          {"kvm_first_exit", turn.at("exit_ns").get<double>() / kNsInMs}};
}

constexpr const char* kWithoutQueue = "monotonic less run queue";

struct Group {
  std::vector<Side> sides;  // ours, the peer, ours again, ours with the handicap
  const char* peer_name;
  const char* clock;
  std::vector<std::string> rows;  // the first one has the controls
};

// Adds the rows to `list`; what the controls say against them.
std::string measure(Group& group, uint32_t count, json& list) {
  take_turns(group.sides, count);
  const std::vector<Side>& sides = group.sides;
  for (const std::string& row : group.rows) {
    list.push_back(result_entry(row, "ms", sides[0].of(row), sides[1].of(row), group.peer_name));
    list.back()["clock"] = group.clock;
  }
  const std::string& row = group.rows.front();
  fmt::print("{}\n", show_controls(row, sides[0], sides[2], sides[3]));
  return controls_failure(row, sides[0], sides[2], sides[3]);
}

}  // namespace

bool measure_setup(const SetupOptions& options) {
  std::string self = value_of(artefacts::executable_path());
  std::string vmm = value_of(artefacts::find_program(artefacts::kVmmProgram));
  json list = json::array();
  std::vector<Gate> gates{{"kvm_setup", 1.0 / 5}};
  std::vector<std::string> failures;
  print_place();
  fmt::print("\n");

  auto turn = [&](const char* order, uint64_t handicap) {
    return [&self, order, handicap] { return setup_turn(self, order, handicap); };
  };
  Group setup{{{"ours", turn("ours", 0), {}},
               {kIrqchipFirst, turn("irqchip_first", 0), {}},
               {"ours again", turn("ours", 0), {}},
               {"ours with 1 ms more", turn("ours", kHandicapNs), {}}},
              kIrqchipFirst,
              kWithoutQueue,
              {"kvm_setup", "kvm_first_exit"}};
  failures.push_back(measure(setup, options.count, list));

  FirstByteGuest guest;
  if (!options.qemu.empty()) {
    auto start = [&](uint64_t handicap) {
      return [&guest, &vmm, handicap] {
        return Values{
            {"first_run", static_cast<double>(hutch_first_byte(guest, vmm, handicap)) / kNsInMs}};
      };
    };
    Group run{
        {{"ours", start(0), {}},
         {kQemu,
          [&] {
            return Values{
                {"first_run", static_cast<double>(qemu_first_byte(guest, options.qemu)) / kNsInMs}};
          },
          {}},
         {"ours again", start(0), {}},
         {"ours with 1 ms more", start(kHandicapNs), {}}},
        kQemu,
        "monotonic",
        {"first_run"}};
    failures.push_back(measure(run, options.run_count, list));
    gates.push_back({"first_run", 1.0 / 10});
  }
  fmt::print("\n");
  print_entries(list);
  fmt::print("\n");
  if (options.qemu.empty()) fmt::print("QEMU is not in it: give --qemu its program.\n");
  if (!options.json_file.empty()) write_results(list, options.json_file);
  for (const std::string& failure : failures)
    if (!failure.empty()) throw BenchFailure(failure);
  return print_gates(gates, list);
}

}  // namespace hutch::bench
