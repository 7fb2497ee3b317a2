#include "bench/boot.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "artefacts/artefacts.h"
#include "base/sys.h"
#include "bench/kvm_trace.h"
#include "bench/machine.h"
#include "bench/marks.h"
#include "bench/peer_run.h"
#include "bench/results.h"
#include "bench/staged_root.h"
#include "bench/subject.h"
#include "bench/turns.h"

namespace hutch::bench {
namespace {

using nlohmann::json;

constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint32_t kPeerCid = 42;
constexpr const char* kReply = "reply_boot";

// What all turns share.
struct Bench {
  artefacts::Parts parts;
  uint64_t memory_mib;
  std::string folder;
  std::unique_ptr<KvmTrace> trace;
  std::vector<uint64_t> layer_extents;  // where the layer has data; empty: its file system tells

  ~Bench() {
    std::error_code error;
    std::filesystem::remove_all(folder, error);
  }
  void add_trace(Values& values, uint64_t start) const {
    if (!trace) return;
    if (std::optional<uint64_t> entry = trace->first_entry_ns())
      values[kFirstRun] = ms_since(start, *entry);
    if (std::optional<uint64_t> exits = trace->user_exits())
      values["user_exits"] = static_cast<double>(*exits);
  }
};

Values boot_ours(Bench& bench, uint64_t handicap_ns) {
  Values values;
  if (bench.trace) bench.trace->begin();
  uint64_t start = monotonic_ns();
  if (handicap_ns > 0) {
    timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(handicap_ns)};
    ::nanosleep(&time, nullptr);
  }
  uint64_t replied = 0;
  {
    Machine machine(bench.parts, bench.memory_mib << 20, nullptr, 1);
    machine.echo();
    replied = monotonic_ns();
    values[kReply] = ms_since(start, replied);
    add_marks(values, machine, start);
    bench.add_trace(values, start);
    replied = monotonic_ns();
  }
  values["gone"] = ms_since(replied, monotonic_ns());
  return values;
}

Values boot_peer(Bench& bench, const Peer& peer) {
  Values values;
  PeerMachine machine{
      .kernel = bench.parts.kernel,
      .initramfs = bench.parts.initramfs,
      .image = bench.parts.image,
      .layer = bench.folder + "/layer",
      .kernel_words = fmt::format("{} {}", artefacts::kKernelWords, artefacts::kRootWords),
      .memory_mib = bench.memory_mib,
      .folder = bench.folder,
      .guest_cid = kPeerCid};
  // Before the clock, though ours makes its copy behind it.
  copy_sparse(bench.parts.layer, machine.layer, bench.layer_extents);
  PeerRun run(peer, machine);
  if (bench.trace) bench.trace->begin();
  uint64_t start = monotonic_ns();
  run.start_and_echo();
  uint64_t replied = monotonic_ns();
  values[kReply] = ms_since(start, replied);
  if (run.init_ns()) values["init"] = ms_since(start, *run.init_ns());
  values["agent"] = ms_since(start, *run.agent_ns());
  bench.add_trace(values, start);
  replied = monotonic_ns();
  run.end();
  values["gone"] = ms_since(replied, monotonic_ns());
  return values;
}

std::string make_folder(const std::string& where) {
  std::string name = where + "/hutch-bench-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr)
    throw BenchFailure(fmt::format("no folder can be made in {}", where));
  return name;
}

void stage(const artefacts::Parts& parts, std::vector<uint64_t>& layer_extents,
           std::vector<Peer>& peers) {
  show_progress("copying files to the machine's memory");
  StagedRoot root;
  root.add_parts(parts, layer_extents);
  // The copy's file system can tell.
  layer_extents.clear();
  for (Peer& peer : peers) {
    peer.program = root.add_program(peer.program);
    if (peer.kind != PeerKind::kQemu) continue;
    for (const char* folder : {"/usr/share/qemu/", "/usr/share/seabios/"})
      for (const char* name : {"bios-microvm.bin", "qboot.rom", "kvmvapic.bin", "pvh.bin"})
        if (std::string path = std::string(folder) + name; ::access(path.c_str(), R_OK) == 0)
          root.add(path);
  }
  root.enter();
}

}  // namespace

bool measure_boot(const BootOptions& options) {
  Result<artefacts::Parts> parts =
      artefacts::find_parts(options.image, *artefacts::find_shared(artefacts::kLayerFile));
  if (!parts) throw BenchFailure(parts.error().text());
  std::vector<Peer> peers;
  for (const std::string& text : options.peers) peers.push_back(parse_peer(text));
  // Opened before the root is another.
  std::string json_file = options.json_file;
  Fd results = open_results(json_file);
  Result<std::vector<uint64_t>> extents = artefacts::layer_extents();
  if (!extents) throw BenchFailure(extents.error().text());
  if (artefacts::is_in_machine()) stage(*parts, *extents, peers);
  Bench bench{*parts, options.memory_mib, make_folder(parts->scratch), KvmTrace::create(),
              *extents};

  // Where software emulates the processor, a millisecond is less than it makes of itself.
  // In virtual time: a tick of the machine's kernel, whose KVM_CREATE_VM waits for one, and so
  // swallows less.
  uint64_t handicap_ms = is_virtual_time() ? 4 : artefacts::is_in_machine() ? 100 : 1;
  double tolerance = is_virtual_time() ? 0.005 : 0;
  std::vector<Side> sides{
      {"ours", [&] { return boot_ours(bench, 0); }, {}},
      {"ours again", [&] { return boot_ours(bench, 0); }, {}},
      {"ours with a handicap", [&] { return boot_ours(bench, handicap_ms * kMillisecond); }, {}}};
  for (const Peer& peer : peers)
    sides.push_back({peer.name(), [&bench, &peer] { return boot_peer(bench, peer); }, {}});
  take_turns(sides, options.count);

  const Side& ours = sides[0];
  json list = json::array();
  for (size_t i = 0; i < peers.size(); i++)
    for (const char* row : {kFirstRun, "init", kReply, "gone", "user_exits"})
      if (const Side& peer = sides[3 + i]; ours.values.contains(row) && peer.values.contains(row))
        list.push_back(result_entry(row, row == std::string_view("user_exits") ? "exits" : "ms",
                                    ours.of(row), peer.of(row), peers[i].name()));
  // Without a peer ours is beside itself with the handicap: what a regression would look like.
  if (peers.empty())
    for (const auto& [row, values] : ours.values)
      if (!is_step(row))
        list.push_back(result_entry(row, row.starts_with("user_exits") ? "exits" : "ms", values,
                                    sides[2].of(row), "itself with a handicap"));
  print_place();
  fmt::print("{} MiB, 1 CPU, image {}, {} turns each\n\n", options.memory_mib, options.image,
             options.count);
  print_marks(ours, kReply);
  fmt::print("\n");
  print_entries(list);
  fmt::print("\n{} of {} ms\n", show_controls(kFirstRun, ours, sides[1], sides[2]), handicap_ms);
  if (!bench.trace)
    fmt::print("The peers' first KVM_RUN and exits are not in it: tracefs needs root.\n");
  if (!json_file.empty()) write_results(list, json_file);
  if (std::string failure = controls_failure(kFirstRun, ours, sides[1], sides[2], tolerance);
      !failure.empty())
    throw BenchFailure(failure);
  if (peers.empty() || peers[0].kind != PeerKind::kQemu) return true;
  return print_gates({{kFirstRun, 1.0 / 10}, {"init", 1.0 / 3}}, list);
}

}  // namespace hutch::bench
