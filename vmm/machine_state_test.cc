// Machines that stand still, are saved, and go on elsewhere: tiny guests on this host's KVM.
#include <doctest/doctest.h>

#include <map>
#include <thread>

#include "snapshot/state.h"
#include "tests/tiny_guest.h"
#include "vmm/layered_disk.h"

using namespace hutch;
using namespace hutch::tests;
using namespace hutch::protocol::vmm;

// The guests, in 64-bit mode; the addresses are those of boot/layout.h.
asm(R"(
.pushsection .rodata
.macro state_guest name
.global guest_\name, guest_\name\()_end
guest_\name:
.endm
.macro state_guest_end name
guest_\name\()_end:
.endm

# Counts in memory and in registers; each STEP-th step goes out as a '.'. After COUNT of
# them it says whether both agree, and powers itself off.
state_guest counts
  mov $0x1800000, %ebx
  xor %r8, %r8
  mov $0x3f8, %dx
1: mov $STEP, %ecx
2: inc %r8
  incq (%rbx)
  dec %ecx
  jnz 2b
  mov $'.', %al
  out %al, %dx
  cmp $(STEP * COUNT), %r8
  jb 1b
  mov $'=', %al
  cmp %r8, (%rbx)
  je 3f
  mov $'!', %al
3: out %al, %dx
  mov $0xd0001000, %ebx
  movl $1, (%rbx)
4: jmp 4b
state_guest_end counts
# One write across the end of a page of devices is two exits: the first one's answer is the second.
state_guest straddles
  mov $0xd0000ffc, %ebx
  mov $0x3f8, %dx
1: movq $0, (%rbx)
  mov $'.', %al
  out %al, %dx
  jmp 1b
state_guest_end straddles
.set COUNT, 400
.set STEP, 200
.popsection
)");

extern "C" {
extern const std::byte guest_counts[], guest_counts_end[];
extern const std::byte guest_straddles[], guest_straddles_end[];
}

namespace {

constexpr SavedKey kKey{std::byte{1}, std::byte{2}};

struct Files {
  Fd memory{::memfd_create("memory", MFD_CLOEXEC)};
  Fd state{::memfd_create("state", MFD_CLOEXEC)};

  Save to_save() const { return {Fd(::dup(memory.get())), Fd(::dup(state.get())), kKey}; }
  Restore to_restore() const { return {Fd(::dup(memory.get())), Fd(::dup(state.get())), kKey}; }
  std::vector<std::byte> state_bytes() const {
    std::vector<std::byte> bytes(file_size(state.get()).value());
    REQUIRE(read_exactly_at(state.get(), bytes, 0));
    return bytes;
  }
  void set_state(std::span<const std::byte> bytes) const {
    REQUIRE(::ftruncate(state.get(), 0) == 0);
    REQUIRE(::lseek(state.get(), 0, SEEK_SET) == 0);
    REQUIRE(write_all(state.get(), bytes));
  }
};

// A VMM in a process of its own, and what it says.
class Subject {
 public:
  explicit Subject(Start start) {
    auto [here, there] = socket_pair(SOCK_SEQPACKET).value();
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    control_ = std::move(here);
    console_ = Fd(ends[0]);
    start.console_output = Fd(ends[1]);
    start.kvm = Fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (start.memory == Start().memory) start.memory = kMinMemory;
    child_ = ::fork();
    if (child_ == 0) {
      control_.reset();
      console_.reset();
      start = {};
      ::_exit(hutch::vmm::serve_control(std::move(there), open_page_map().value()));
    }
    there.reset();
    Packet packet = encode(start);
    REQUIRE(send_message(control_.get(), packet.bytes, packet.fds));
  }
  ~Subject() {
    control_.reset();
    int status = 0;
    ::waitpid(child_, &status, 0);
    // Not by a signal: that would be a call outside its table, or a fault.
    CHECK(WIFEXITED(status));
  }
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;

  void send(const Packet& packet) { REQUIRE(try_send(packet)); }
  // False: the VMM has ended.
  bool try_send(const Packet& packet) {
    return send_message(control_.get(), packet.bytes, packet.fds).has_value();
  }
  // The next message that is no mark. Nothing: the VMM has ended without a word.
  std::vector<std::byte> receive() {
    for (;;) {
      Result<ReceivedMessage> message = receive_message(control_.get(), kMaxMessage);
      if (!message || message->bytes.empty()) return {};
      if (type_of(message->bytes) != MessageType::kMark) return message->bytes;
    }
  }
  bool receive(MessageType type) {
    std::vector<std::byte> bytes = receive();
    return !bytes.empty() && type_of(bytes) == type;
  }
  // Until `count` bytes have come.
  void wait_for_console(size_t count) {
    while (console.size() < count && read_console()) {
    }
  }
  Ended finish() {
    Ended ended = decode_ended(receive()).value();
    while (read_console()) {
    }
    return ended;
  }
  Saved save(const Files& files) {
    send(encode(files.to_save()));
    return decode_saved(receive()).value();
  }

  std::string console;

 private:
  bool read_console() {
    char bytes[4096];
    ssize_t count = ::read(console_.get(), bytes, sizeof bytes);
    if (count <= 0) return false;
    console.append(bytes, static_cast<size_t>(count));
    return true;
  }
  Fd control_, console_;
  pid_t child_ = -1;
};

std::span<const std::byte> counts() {
  return {guest_counts, guest_counts_end};
}

Start boot(uint32_t cpus = 1) {
  Start start;
  start.cpus = cpus;
  start.kernel = tiny_kernel(counts());
  start.description = Description::kDeviceTree;
  return start;
}

Start from(const Files& files, uint32_t cpus = 1) {
  Start start;
  start.cpus = cpus;
  start.restore = files.to_restore();
  return start;
}

// A machine that has been saved in the middle of its work, after `printed` characters.
Files saved_counter(size_t& printed, uint32_t cpus = 1) {
  Files files;
  Subject subject(boot(cpus));
  subject.wait_for_console(20);
  subject.send(encode_plain(MessageType::kPause));
  REQUIRE(subject.receive(MessageType::kPaused));
  Saved saved = subject.save(files);
  REQUIRE(saved.problem == "");
  CHECK(saved.memory_bytes > 0);
  CHECK(saved.memory_bytes < 1 << 20);
  subject.send(encode_plain(MessageType::kStop));
  subject.finish();
  printed = subject.console.size();
  return files;
}

}  // namespace

TEST_CASE("a machine stands still while it is paused, and goes on") {
  if (!have_kvm()) return;
  Subject subject(boot());
  subject.wait_for_console(5);
  for (int round = 0; round < 20; round++) {
    subject.send(encode_plain(MessageType::kPause));
    REQUIRE(subject.receive(MessageType::kPaused));
    subject.send(encode_plain(MessageType::kResume));
    REQUIRE(subject.receive(MessageType::kResumed));
  }
  Ended ended = subject.finish();
  CHECK(ended.reason == EndReason::kPowerOff);
  CHECK(subject.console == std::string(400, '.') + "=");
}

TEST_CASE("a processor stands still between the halves of an access, too") {
  if (!have_kvm()) return;
  Start start = boot();
  start.kernel = tiny_kernel({guest_straddles, guest_straddles_end});
  Subject subject(std::move(start));
  subject.wait_for_console(5);
  for (int round = 0; round < 200; round++) {
    subject.send(encode_plain(MessageType::kPause));
    REQUIRE(subject.receive(MessageType::kPaused));
    subject.send(encode_plain(MessageType::kResume));
    REQUIRE(subject.receive(MessageType::kResumed));
  }
  subject.send(encode_plain(MessageType::kStop));
  CHECK(subject.finish().reason == EndReason::kStopped);
}

TEST_CASE("a saved machine goes on elsewhere, as often as one likes") {
  if (!have_kvm()) return;
  for (uint32_t cpus : {1u, 2u}) {
    CAPTURE(cpus);
    size_t printed = 0;
    Files files = saved_counter(printed, cpus);
    REQUIRE(printed < 400);
    for (int copy = 0; copy < 2; copy++) {
      Subject subject(from(files, cpus));
      Ended ended = subject.finish();
      CHECK(ended.message == "the guest powered itself off");
      // Each character once: also one that was on its way when it was saved.
      CHECK(subject.console == std::string(400 - printed, '.') + "=");
    }
  }
}

TEST_CASE("a machine goes on after it was saved, and a restored one is saved again") {
  if (!have_kvm()) return;
  size_t printed = 0;
  Files first = saved_counter(printed), second;
  Subject subject(from(first));
  subject.wait_for_console(20);
  subject.send(encode_plain(MessageType::kPause));
  REQUIRE(subject.receive(MessageType::kPaused));
  CHECK(subject.save(second).problem == "");
  Files none;
  none.memory = Fd(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  CHECK(subject.save(none).problem != "");
  subject.send(encode_plain(MessageType::kResume));
  REQUIRE(subject.receive(MessageType::kResumed));
  CHECK(subject.finish().reason == EndReason::kPowerOff);
  CHECK(subject.console == std::string(400 - printed, '.') + "=");
  Subject last(from(second));
  CHECK(last.finish().reason == EndReason::kPowerOff);
  CHECK(last.console.size() > 1);
  CHECK(last.console.size() < 400 - printed);
  CHECK(last.console.back() == '=');
}

TEST_CASE(
    "which pages a restored machine has written to is recorded, and brought into the next one") {
  if (!have_kvm()) return;
  size_t printed = 0;
  Files files = saved_counter(printed);
  Fd pages(::memfd_create("pages", MFD_CLOEXEC));
  RecordPages wanted{pages.duplicate().value()};
  {
    Subject subject(from(files));
    subject.wait_for_console(1);
    subject.send(encode(wanted));
    PagesRecorded recorded = decode_pages_recorded(subject.receive()).value();
    CHECK(recorded.problem == "");
    // At least the page in which it counts.
    CHECK(recorded.bytes >= 4096);
    CHECK(file_size(pages.get()).value() > 0);
    CHECK(subject.finish().reason == EndReason::kPowerOff);
  }
  Start start = from(files);
  start.restore->pages = pages.duplicate().value();
  {
    Subject subject(std::move(start));
    Ended ended = subject.finish();
    CHECK(ended.reason == EndReason::kPowerOff);
    CHECK(subject.console == std::string(400 - printed, '.') + "=");
    uint64_t steps = 0;
    for (const Counter& counter : ended.report.counters) steps += counter.name == "start_ns/pages";
    CHECK(steps == 1);
  }
  REQUIRE(::pwrite(pages.get(), "\xff\xff\xff\xff\xff\xff\xff", 7, 0) == 7);
  start = from(files);
  start.restore->pages = pages.duplicate().value();
  {
    Subject subject(std::move(start));
    Ended ended = subject.finish();
    CHECK(ended.reason == EndReason::kHostError);
    CHECK(ended.message.starts_with("the list of pages: "));
  }
  Subject booted(boot());
  booted.wait_for_console(1);
  booted.send(encode(wanted));
  CHECK(decode_pages_recorded(booted.receive()).value().problem != "");
  CHECK(booted.finish().reason == EndReason::kPowerOff);
}

TEST_CASE("a paused machine can be stopped, and what is not paused not be saved") {
  if (!have_kvm()) return;
  {
    Subject subject(boot());
    subject.send(encode_plain(MessageType::kPause));
    REQUIRE(subject.receive(MessageType::kPaused));
    subject.send(encode_plain(MessageType::kStop));
    CHECK(subject.finish().reason == EndReason::kStopped);
  }
  {
    Subject subject(boot());
    subject.wait_for_console(1);
    Files files;
    subject.send(encode(files.to_save()));
    CHECK(subject.finish().message == "only a paused machine can be saved");
  }
  {
    Subject subject(boot());
    subject.wait_for_console(1);
    subject.send(encode_plain(MessageType::kResume));
    CHECK(subject.finish().message == "the machine is not paused");
  }
}

TEST_CASE("a saved machine of another shape, key or host is refused before it runs") {
  if (!have_kvm()) return;
  size_t printed = 0;
  Files files = saved_counter(printed);
  auto refused = [](Start start) {
    Subject subject(std::move(start));
    Ended ended = subject.finish();
    CHECK(subject.console == "");
    CHECK(ended.reason == EndReason::kHostError);
    return ended.message;
  };
  Start start = from(files);
  start.cpus = 2;
  CHECK(refused(std::move(start)) == "the saved machine: it has 1 CPUs, 2 were asked for");
  start = from(files);
  start.memory = 256 << 20;
  start.memory += 1 << 20;
  CHECK(refused(std::move(start)) ==
        "the saved machine: it has 128 MiB of memory, 257 were asked for");
  start = from(files);
  start.restore->key = {};
  CHECK(refused(std::move(start)).find("its keyed hash is wrong") != std::string::npos);
  start = from(files);
  start.disks.push_back({Fd(::memfd_create("disk", MFD_CLOEXEC)), false, "test"});
  REQUIRE(::ftruncate(start.disks[0].file.get(), 1 << 20) == 0);
  CHECK(refused(std::move(start)) == "the saved machine: it has 1 devices, 2 were given");
  start = from(files);
  start.restore->memory = Fd(::memfd_create("short", MFD_CLOEXEC));
  CHECK(refused(std::move(start)).find("the saved memory has 0 bytes") != std::string::npos);
  std::vector<std::byte> bytes = files.state_bytes();
  files.set_state(std::span(bytes).first(bytes.size() / 2));
  CHECK(refused(from(files)).find("it was not written to its end") != std::string::npos);
  auto body = snapshot::open_sealed(bytes, kKey).value();
  auto machine = snapshot::decode_machine(snapshot::Fields::parse(body).value()).value();
  machine.cpuid[20] ^= std::byte{4};
  files.set_state(snapshot::seal(snapshot::encode(machine), kKey));
  CHECK(refused(from(files)) ==
        "the saved machine: its processors have other features than this host gives");
}

// Whoever has the key can write what he likes; it must still be refused, or run as some guest.
TEST_CASE("a saved machine with wrong values is refused or runs, and harms nobody") {
  if (!have_kvm()) return;
  size_t printed = 0;
  Files files = saved_counter(printed);
  std::vector<std::byte> bytes = files.state_bytes();
  auto body = snapshot::open_sealed(bytes, kKey).value();
  std::vector<std::byte> wrong(body.begin(), body.end());
  uint32_t random = 1;
  auto next = [&] { return random = random * 1664525 + 1013904223; };
  std::map<std::string, int> endings;
  for (int round = 0; round < 100; round++) {
    std::vector<std::byte> changed = wrong;
    for (uint32_t i = 0; i <= next() % 4; i++) {
      size_t at = (next() >> 8) % changed.size();
      changed[at] = round % 2 == 0 ? std::byte(0xff) : changed[at] ^ std::byte(1 << (next() >> 29));
    }
    // In the place of the body: the fields may be nonsense as well.
    files.set_state(snapshot::seal_body(changed, kKey));
    Subject subject(from(files));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    subject.try_send(encode_plain(MessageType::kStop));
    std::vector<std::byte> last;
    for (std::vector<std::byte> message; !(message = subject.receive()).empty();) last = message;
    REQUIRE(!last.empty());
    auto ended = decode_ended(last);
    REQUIRE(ended);
    endings[name(ended->reason)]++;
  }
  CHECK(endings["host_error"] > 15);
  CHECK(endings.size() > 1);
}

namespace {

// A disk of layers, as a launcher has it.
struct Layers {
  Fd base{::memfd_create("base", MFD_CLOEXEC)};
  std::vector<Fd> frozen;
  Fd top = empty();

  Layers() { REQUIRE(::ftruncate(base.get(), 1 << 20) == 0); }
  static Fd empty() { return Fd(::memfd_create("layer", MFD_CLOEXEC)); }
  static Fd view(const Fd& file) {
    return open_file("/proc/self/fd/" + std::to_string(file.get()), O_RDONLY).value();
  }
  Disk disk(Fd delta) const {
    Disk disk{.file = view(base), .read_only = false, .id = "test", .delta = {}, .layers = {}};
    for (const Fd& layer : frozen) disk.layers.push_back(view(layer));
    disk.delta = std::move(delta);
    return disk;
  }
  // Says that it is saved; the private layer is the last frozen one then.
  Saved save(Subject& subject, const Files& files) {
    Fd fresh = empty();
    Save save = files.to_save();
    save.disks.push_back({.disk = 0, .frozen = view(top), .fresh = fresh.duplicate().value()});
    subject.send(encode(save));
    Saved saved = decode_saved(subject.receive()).value();
    for (const DiskLayers& each : saved.disks) {
      frozen.erase(frozen.begin() + each.kept, frozen.end());
      if (each.is_frozen) frozen.push_back(std::exchange(top, std::move(fresh)));
    }
    return saved;
  }
  // As a guest does that writes a cluster, before a machine starts.
  void write(uint64_t at, char value) {
    top = empty();
    auto opened = vmm::open_layered(disk(top.duplicate().value()));
    REQUIRE(opened);
    std::vector<std::byte> bytes(4096, static_cast<std::byte>(value));
    iovec buffer{bytes.data(), bytes.size()};
    REQUIRE((*opened)->write(std::span(&buffer, 1), at));
    REQUIRE((*opened)->flush());
  }
};

Start layered_start(Start start, const Layers& layers, Fd delta) {
  start.disks.push_back(layers.disk(std::move(delta)));
  return start;
}

}  // namespace

TEST_CASE("saving freezes a disk's layer, and only with the same layers the machine goes on") {
  if (!have_kvm()) return;
  Layers layers;
  layers.write(0, '1');
  Files files, again;
  Subject subject(layered_start(boot(), layers, layers.top.duplicate().value()));
  subject.wait_for_console(20);
  subject.send(encode_plain(MessageType::kPause));
  REQUIRE(subject.receive(MessageType::kPaused));
  // Without a file to go on with it is not saved.
  Files none;
  CHECK(subject.save(none).problem.find("no file to go on with") != std::string::npos);
  Saved saved = layers.save(subject, files);
  CHECK(saved.problem == "");
  CHECK(saved.disks == std::vector<DiskLayers>{{.disk = 0, .kept = 0, .is_frozen = true}});
  Layers first;
  first.base = layers.base.duplicate().value();
  first.frozen.push_back(layers.frozen[0].duplicate().value());
  // Nothing has been written since: no other layer.
  CHECK(layers.save(subject, again).problem == "");
  REQUIRE(layers.frozen.size() == 1);
  subject.send(encode_plain(MessageType::kResume));
  REQUIRE(subject.receive(MessageType::kResumed));
  CHECK(subject.finish().reason == EndReason::kPowerOff);
  again = Files();
  layers.write(4096, '2');
  {
    Subject second(layered_start(from(files), layers, layers.top.duplicate().value()));
    second.send(encode_plain(MessageType::kPause));
    REQUIRE(second.receive(MessageType::kPaused));
    CHECK(layers.save(second, again).problem == "");
    second.send(encode_plain(MessageType::kStop));
    second.finish();
  }
  REQUIRE(layers.frozen.size() == 2);

  auto ending = [](Start start) {
    Subject other(std::move(start));
    return other.finish().message;
  };
  CHECK(ending(layered_start(from(files), first, Layers::empty())) ==
        "the guest powered itself off");
  CHECK(ending(layered_start(from(again), layers, Layers::empty())) ==
        "the guest powered itself off");
  CHECK(ending(layered_start(from(again), first, Layers::empty())) ==
        "the saved machine: disk 0: a disk has other layers than the machine was saved with");
  CHECK(ending(layered_start(from(files), layers, Layers::empty())) ==
        "the saved machine: disk 0: a disk has other layers than the machine was saved with");
  std::swap(layers.frozen[0], layers.frozen[1]);
  CHECK(ending(layered_start(from(again), layers, Layers::empty())).find("over another one") !=
        std::string::npos);
  Start plain = from(files);
  plain.disks.push_back({.file = Layers::view(layers.base),
                         .read_only = true,
                         .id = "test",
                         .delta = {},
                         .layers = {}});
  CHECK(ending(std::move(plain)) == "the saved machine: disk 0 had layers, and is given none");
}

TEST_CASE("a machine is saved 70 times in a row, each time over what was saved before") {
  if (!have_kvm()) return;
  Layers layers;
  Files files;
  size_t most = 0;
  std::string problem;
  for (int i = 0; i < 70 && problem.empty(); i++) {
    layers.write(static_cast<uint64_t>(i) * 4096, static_cast<char>('0' + i));
    Start start = from(files);
    if (i == 0) {
      start = boot();
      start.kernel = tiny_kernel({guest_straddles, guest_straddles_end});
    }
    Subject subject(layered_start(std::move(start), layers, layers.top.duplicate().value()));
    subject.wait_for_console(1);
    subject.send(encode_plain(MessageType::kPause));
    REQUIRE(subject.receive(MessageType::kPaused));
    files = Files();
    problem = layers.save(subject, files).problem;
    most = std::max(most, layers.frozen.size());
    subject.send(encode_plain(MessageType::kStop));
    CHECK(subject.finish().reason == EndReason::kStopped);
  }
  CHECK(problem == "");
  CHECK(most == 32);
  auto disk = vmm::open_layered(layers.disk(Layers::empty())).value();
  for (uint64_t i = 0; i < 70; i++) {
    std::vector<std::byte> bytes(4096);
    iovec buffer{bytes.data(), bytes.size()};
    REQUIRE(disk->read(std::span(&buffer, 1), i * 4096));
    CHECK(bytes == std::vector<std::byte>(4096, static_cast<std::byte>('0' + i)));
  }
}

TEST_CASE("a disk is frozen once, and only one that has layers") {
  if (!have_kvm()) return;
  Layers layers;
  layers.write(0, '1');
  Subject subject(layered_start(boot(), layers, layers.top.duplicate().value()));
  subject.wait_for_console(20);
  subject.send(encode_plain(MessageType::kPause));
  REQUIRE(subject.receive(MessageType::kPaused));
  Files files;
  Save strange = files.to_save();
  strange.disks.push_back(
      {.disk = 7, .frozen = Layers::view(layers.top), .fresh = Layers::empty()});
  subject.send(encode(strange));
  Saved saved = decode_saved(subject.receive()).value();
  CHECK(saved.problem.find("disk 7 cannot be frozen") != std::string::npos);
  CHECK(saved.disks.empty());
  // A file that is none of its.
  Save other = files.to_save();
  other.disks.push_back({.disk = 0, .frozen = Layers::empty(), .fresh = Layers::empty()});
  subject.send(encode(other));
  saved = decode_saved(subject.receive()).value();
  CHECK(saved.problem.find("disk 0") != std::string::npos);
  CHECK(saved.disks == std::vector<DiskLayers>{{.disk = 0, .kept = 0, .is_frozen = false}});
  subject.send(encode_plain(MessageType::kStop));
  subject.finish();
}
