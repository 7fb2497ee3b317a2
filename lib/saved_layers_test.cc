// Which layers a launcher has of a disk, after what a VMM says that it goes on with.
#include <doctest/doctest.h>
#include <hutch.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/fd.h"

namespace {

using hutch::Fd;

ino_t file_of(int fd) {
  struct stat status {};
  REQUIRE(::fstat(fd, &status) == 0);
  return status.st_ino;
}

// A machine with a plain disk and one of three frozen layers, whose VMM answers with `words`.
class Machine {
 public:
  explicit Machine(const std::string& words) {
    hutch_disk plain{}, layered{};
    plain.size = layered.size = sizeof plain;
    plain.path = "/dev/null";
    plain.read_only = 1;
    layered.path = "/dev/null";
    layered.layered = 1;
    std::array<int, 3> numbers;
    for (int& number : numbers) {
      frozen_.emplace_back(::memfd_create("layer", MFD_CLOEXEC));
      number = frozen_.back().get();
    }
    layered.layers = numbers.data();
    layered.layer_count = numbers.size();
    const hutch_disk* disks[] = {&plain, &layered};
    hutch_vm_options options{};
    options.size = sizeof options;
    options.kernel = "/dev/null";
    options.command_line = words.c_str();
    options.disks = disks;
    options.disk_count = 2;
    options.scratch_directory = "/tmp";
    options.vmm_path = ::getenv("HUTCH_FAKE_VMM");
    options.kvm_path = "/dev/null";
    options.no_agent = 1;
    REQUIRE(hutch_vm_start(&options, &vm_, nullptr) == HUTCH_OK);
  }
  ~Machine() { hutch_vm_free(vm_); }

  // Saves it; what comes of it, or of the machine.
  std::string save() {
    const Fd memory(::memfd_create("memory", MFD_CLOEXEC)), state(::dup(memory.get()));
    const std::array<uint8_t, 16> key{};
    REQUIRE(hutch_vm_save(vm_, memory.get(), state.get(), key.data(), nullptr) == HUTCH_OK);
    std::string result;
    for (int i = 0; i < 200 && result.empty(); i++) {
      hutch_event* event = nullptr;
      REQUIRE(hutch_vm_next_event(vm_, &event, nullptr) == HUTCH_OK);
      pollfd poll{.fd = hutch_vm_event_fd(vm_), .events = POLLIN, .revents = 0};
      if (event == nullptr) ::poll(&poll, 1, 100);
      if (event != nullptr && event->kind == HUTCH_EVENT_SAVED) result = "saved";
      if (event != nullptr && event->kind == HUTCH_EVENT_ENDED) result = event->message;
      hutch_event_free(event);
    }
    return result;
  }
  std::vector<ino_t> layers() const {
    const int* fds = nullptr;
    size_t count = 0;
    REQUIRE(hutch_vm_disk_layers(vm_, 1, &fds, &count, nullptr) == HUTCH_OK);
    std::vector<ino_t> files;
    for (size_t i = 0; i < count; i++) files.push_back(file_of(fds[i]));
    return files;
  }
  ino_t given(size_t index) const { return file_of(frozen_[index].get()); }

 private:
  std::vector<Fd> frozen_;
  hutch_vm* vm_ = nullptr;
};

}  // namespace

TEST_CASE("a launcher has the layers that a disk goes on with") {
  {
    // As they are, and the private one.
    Machine machine("fake.saved=1:3:1");
    REQUIRE(machine.save() == "saved");
    std::vector<ino_t> layers = machine.layers();
    REQUIRE(layers.size() == 4);
    CHECK(layers[2] == machine.given(2));
    // The next private one, over those three.
    REQUIRE(machine.save() == "saved");
    REQUIRE(machine.layers().size() == 4);
    CHECK(machine.layers()[2] == machine.given(2));
    CHECK(machine.layers()[3] != layers[3]);
  }
  {
    // Two have left, and what was private has what they had.
    Machine machine("fake.saved=1:1:1");
    REQUIRE(machine.save() == "saved");
    REQUIRE(machine.layers().size() == 2);
    CHECK(machine.layers()[0] == machine.given(0));
  }
  {
    // Nothing was written.
    Machine machine("fake.saved=1:3:0");
    REQUIRE(machine.save() == "saved");
    CHECK(machine.layers() ==
          std::vector<ino_t>{machine.given(0), machine.given(1), machine.given(2)});
  }
  {
    Machine machine("");
    REQUIRE(machine.save() == "saved");
    CHECK(machine.layers().size() == 3);
  }
}

TEST_CASE("a VMM that makes layers up is not listened to any more") {
  for (const char* words : {"fake.saved=1:4:1", "fake.saved=0:0:1", "fake.saved=7:0:1",
                            "fake.saved=1:3:1 fake.saved=1:4:1"}) {
    CAPTURE(words);
    Machine machine(words);
    CHECK(machine.save().find("hutch-vmm sent what it may not: the layers of disk") !=
          std::string::npos);
  }
}
