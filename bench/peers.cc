#include "bench/peers.h"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "bench/subject.h"

namespace hutch::bench {
namespace {

using nlohmann::json;

// protocol/agent.h, which the guest's agent follows: kHostPort, kBootMarkPort.
constexpr uint32_t kAgentPort = 1024;
constexpr uint32_t kBootMarkPort = 0x2e0;

struct Known {
  PeerKind kind;
  const char* word;
  const char* name;
};
constexpr Known kKnown[] = {
    {PeerKind::kQemu, "qemu", "QEMU microvm"},
    {PeerKind::kFirecracker, "firecracker", "Firecracker"},
    {PeerKind::kCloudHypervisor, "cloud-hypervisor", "Cloud Hypervisor"},
};

std::string vsock_path(const PeerMachine& machine) {
  return machine.folder + "/vsock";
}

// A comma ends a value; two are one.
std::string value(const std::string& text) {
  std::string result;
  for (char c : text) result += c == ',' ? ",," : std::string(1, c);
  return result;
}

// docs: system/i386/microvm. The interrupt controllers of old and the serial port are left out, and
// with them what the guest would look for there. The kernel is entered by PVH.
PeerStart start_qemu(const Peer& peer, const PeerMachine& machine) {
  PeerStart start;
  start.shows_init = true;
  start.words = {peer.program,
                 "-nodefaults",
                 "-no-user-config",
                 "-display",
                 "none",
                 "-no-reboot",
                 "-M",
                 "microvm,pit=off,pic=off,rtc=off,acpi=off,isa-serial=off,x-option-roms=off",
                 "-accel",
                 "kvm",
                 "-cpu",
                 "host",
                 "-smp",
                 "1",
                 "-m",
                 fmt::format("{}M", machine.memory_mib),
                 "-kernel",
                 machine.kernel,
                 "-initrd",
                 machine.initramfs,
                 "-append",
                 machine.kernel_words};
  const std::pair<const char*, std::string> more[] = {
      {"-chardev", "stdio,id=mark,signal=off"},
      {"-device", fmt::format("isa-debugcon,iobase={},chardev=mark", kBootMarkPort)},
      {"-drive",
       fmt::format("if=none,id=root,format=raw,readonly=on,file={}", value(machine.image))},
      {"-drive",
       fmt::format("if=none,id=layer,format=raw,cache=unsafe,file={}", value(machine.layer))},
      // It tells the kernel of the last place first, and the kernel names disks as they come.
      {"-device", "virtio-blk-device,drive=root,bus=virtio-mmio-bus.1"},
      {"-device", "virtio-blk-device,drive=layer,bus=virtio-mmio-bus.0"},
      {"-device",
       fmt::format("vhost-vsock-device,guest-cid={},bus=virtio-mmio-bus.2", machine.guest_cid)},
  };
  for (const auto& [option, text] : more) {
    start.words.emplace_back(option);
    start.words.push_back(text);
  }
  return start;
}

// docs/getting-started.md and docs/vsock.md of Firecracker. It has no device on the boot mark's
// port.
PeerStart start_firecracker(const Peer& peer, const PeerMachine& machine) {
  PeerStart start;
  auto drive = [](const char* id, const std::string& path, bool read_only) {
    return json{{"drive_id", id},
                {"path_on_host", path},
                {"is_root_device", false},
                {"is_read_only", read_only}};
  };
  json config{
      {"boot-source",
       {{"kernel_image_path", machine.kernel},
        {"initrd_path", machine.initramfs},
        {"boot_args", machine.kernel_words}}},
      {"drives", {drive("root", machine.image, true), drive("layer", machine.layer, false)}},
      {"machine-config", {{"vcpu_count", 1}, {"mem_size_mib", machine.memory_mib}}},
      {"vsock", {{"guest_cid", machine.guest_cid}, {"uds_path", vsock_path(machine)}}}};
  start.config = config.dump(2);
  start.words = {peer.program, "--no-api", "--config-file", config_path(machine)};
  start.agent_socket = fmt::format("{}_{}", vsock_path(machine), kAgentPort);
  return start;
}

// docs/vsock.md and docs/debug-port.md of Cloud Hypervisor.
PeerStart start_cloud_hypervisor(const Peer& peer, const PeerMachine& machine) {
  PeerStart start;
  start.shows_init = true;
  start.words = {peer.program,
                 "--cpus",
                 "boot=1",
                 "--memory",
                 fmt::format("size={}M", machine.memory_mib),
                 "--kernel",
                 machine.kernel,
                 "--initramfs",
                 machine.initramfs,
                 "--cmdline",
                 machine.kernel_words,
                 "--disk",
                 fmt::format("path={},readonly=on", machine.image),
                 fmt::format("path={}", machine.layer),
                 "--vsock",
                 fmt::format("cid={},socket={}", machine.guest_cid, vsock_path(machine)),
                 "--console",
                 "off",
                 "--serial",
                 "off",
                 "--debug-console",
                 fmt::format("tty,iobase={:#x}", kBootMarkPort)};
  start.agent_socket = fmt::format("{}_{}", vsock_path(machine), kAgentPort);
  return start;
}

}  // namespace

const char* Peer::name() const {
  for (const Known& known : kKnown)
    if (known.kind == kind) return known.name;
  return "";
}

Peer parse_peer(const std::string& text) {
  size_t equals = text.find('=');
  std::string word = text.substr(0, equals);
  for (const Known& known : kKnown) {
    if (word != known.word) continue;
    std::string program = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (program.empty())
      throw BenchFailure(fmt::format("--peer {0} needs its program: --peer {0}=PATH", word));
    if (program.find('/') != std::string::npos && ::access(program.c_str(), X_OK) != 0)
      throw BenchFailure(
          fmt::format("--peer {}: {} is no program that can be run; give the path of its binary",
                      word, program));
    return {known.kind, program};
  }
  throw BenchFailure(fmt::format(
      "--peer {}: known are qemu, firecracker and cloud-hypervisor, each as NAME=PATH", text));
}

std::string config_path(const PeerMachine& machine) {
  return machine.folder + "/config.json";
}

PeerStart peer_start(const Peer& peer, const PeerMachine& machine) {
  switch (peer.kind) {
    case PeerKind::kQemu:
      return start_qemu(peer, machine);
    case PeerKind::kFirecracker:
      return start_firecracker(peer, machine);
    case PeerKind::kCloudHypervisor:
      return start_cloud_hypervisor(peer, machine);
  }
  return {};
}

}  // namespace hutch::bench
