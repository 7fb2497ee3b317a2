#include "bench/peers.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bench/kvm_trace.h"
#include "bench/subject.h"

using hutch::bench::BenchFailure;
using hutch::bench::first_entry_in;
using hutch::bench::hits_in;
using hutch::bench::parse_peer;
using hutch::bench::Peer;
using hutch::bench::peer_start;
using hutch::bench::PeerKind;
using hutch::bench::PeerMachine;
using hutch::bench::PeerStart;

namespace {

const PeerMachine kMachine{.kernel = "/k",
                           .initramfs = "/i",
                           .image = "/root,1.erofs",
                           .layer = "/layer",
                           .kernel_words = "quiet hutch.root=/dev/vda",
                           .memory_mib = 512,
                           .folder = "/run/b",
                           .guest_cid = 42};

bool has(const PeerStart& start, const std::string& option, const std::string& value) {
  for (size_t i = 0; i + 1 < start.words.size(); i++)
    if (start.words[i] == option && start.words[i + 1] == value) return true;
  return false;
}

}  // namespace

TEST_CASE("a peer is a known name and a program that can be run") {
  Peer peer = parse_peer("firecracker=/bin/sh");
  CHECK(peer.kind == PeerKind::kFirecracker);
  CHECK(peer.program == "/bin/sh");
  CHECK(parse_peer("qemu=qemu-system-x86_64").program == "qemu-system-x86_64");
  CHECK_THROWS_WITH_AS(parse_peer("xen=/bin/sh"), doctest::Contains("known are"), BenchFailure);
  CHECK_THROWS_WITH_AS(parse_peer("firecracker"), doctest::Contains("firecracker=PATH"),
                       BenchFailure);
  CHECK_THROWS_WITH_AS(parse_peer("cloud-hypervisor=/no/such/file"),
                       doctest::Contains("no program that can be run"), BenchFailure);
}

TEST_CASE("QEMU gets the disks in the kernel's order, vsock, and a device for the boot mark") {
  PeerStart start = peer_start({PeerKind::kQemu, "/q"}, kMachine);
  CHECK(start.words.front() == "/q");
  CHECK(has(start, "-append", kMachine.kernel_words));
  CHECK(has(start, "-drive", "if=none,id=root,format=raw,readonly=on,file=/root,,1.erofs"));
  CHECK(has(start, "-device", "virtio-blk-device,drive=root,bus=virtio-mmio-bus.1"));
  CHECK(has(start, "-device", "vhost-vsock-device,guest-cid=42,bus=virtio-mmio-bus.2"));
  CHECK(has(start, "-device", "isa-debugcon,iobase=736,chardev=mark"));
  CHECK(start.shows_init);
  CHECK(start.agent_socket.empty());
}

TEST_CASE("Firecracker gets a configuration, and its guest's agent comes to a Unix socket") {
  PeerStart start = peer_start({PeerKind::kFirecracker, "/f"}, kMachine);
  CHECK(start.words ==
        std::vector<std::string>{"/f", "--no-api", "--config-file", "/run/b/config.json"});
  nlohmann::json config = nlohmann::json::parse(start.config);
  CHECK(config["boot-source"]["initrd_path"] == "/i");
  CHECK(config["drives"][0]["is_read_only"] == true);
  CHECK(config["drives"][1]["path_on_host"] == "/layer");
  CHECK(config["machine-config"]["mem_size_mib"] == 512);
  CHECK(config["vsock"]["uds_path"] == "/run/b/vsock");
  CHECK(start.agent_socket == "/run/b/vsock_1024");
  CHECK(!start.shows_init);
}

TEST_CASE("Cloud Hypervisor shows the boot mark on its debug console") {
  PeerStart start = peer_start({PeerKind::kCloudHypervisor, "/c"}, kMachine);
  CHECK(has(start, "--kernel", "/k"));
  CHECK(has(start, "--vsock", "cid=42,socket=/run/b/vsock"));
  CHECK(has(start, "--debug-console", "tty,iobase=0x2e0"));
  CHECK(start.agent_socket == "/run/b/vsock_1024");
  CHECK(start.shows_init);
}

TEST_CASE("the first entry into a guest is read from the kernel's trace") {
  const char* trace =
      "# tracer: nop\n#\n"
      " hutch-vmm-147     [000] d....    60.954946: kvm_entry: vcpu 0, rip 0x1000000\n"
      " hutch-vmm-147     [000] d....    60.955000: kvm_entry: vcpu 0, rip 0x1000001\n";
  CHECK(first_entry_in(trace) == 60'954'946'000);
  CHECK(!first_entry_in("# tracer: nop\n"));
  CHECK(hits_in("{ reason: 2 } hitcount: 3\n\nTotals:\n    Hits: 157\n    Entries: 2\n") == 157);
  CHECK(!hits_in(""));
}
