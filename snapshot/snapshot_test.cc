#include <doctest/doctest.h>

#include <string>

#include "snapshot/state.h"

using namespace hutch;
using namespace hutch::snapshot;

namespace {

constexpr Key kKey{std::byte{7}};

Bytes bytes(std::string_view text) {
  auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

SavedMachine some_machine() {
  SavedMachine machine;
  machine.memory = 256 << 20;
  machine.cpuid = bytes("cpuid");
  machine.clock = bytes("clock");
  machine.interrupt_controllers = {bytes("one"), bytes("two"), bytes("three")};
  SavedVcpu vcpu;
  vcpu.registers = bytes("registers");
  vcpu.events = bytes("events");
  vcpu.run_state = 3;
  vcpu.msrs = {{0x10, 1}, {0xc0000080, UINT64_MAX}};
  machine.vcpus = {vcpu, SavedVcpu()};
  machine.serial.input = bytes("typed");
  machine.serial.divisor = 0xfffe;
  SavedDevice device;
  device.name = "disk";
  device.transport.status = 15;
  device.transport.driver_features = 1ull << 32;
  device.transport.queues = {{256, 0x1000, 0x2000, 0x3000, true, true, 65535, 65534}, {}};
  machine.devices = {device, SavedDevice()};
  machine.network.names = {{"one.example", 5}, {"two.example", 6}};
  machine.network.flows = {{bytes("addr"), 443, 40000, 0xffffffff, 1},
                           {bytes("sixteen bytes..."), 80, 65535, 0, 0x80000000}};
  return machine;
}

Result<SavedMachine> read(std::span<const std::byte> file, const Key& key = kKey) {
  return decode_machine(TRY(Fields::parse(TRY(open_sealed(file, key)))));
}

}  // namespace

TEST_CASE("SipHash-2-4 gives the values of its authors") {
  // The paper's appendix A: key 00 to 0f, input 00 to 0e; and the first of its reference vectors.
  Key key;
  std::vector<std::byte> input;
  for (size_t i = 0; i < key.size(); i++) key[i] = std::byte(i);
  CHECK(siphash(key, input) == 0x726fdb47dd0e0e31);
  for (size_t i = 0; i < 15; i++) input.push_back(std::byte(i));
  CHECK(siphash(key, input) == 0xa129ca6149be45e5);
}

TEST_CASE("a saved machine is read as it was written") {
  SavedMachine machine = some_machine();
  std::vector<std::byte> file = seal(encode(machine), kKey);
  Result<SavedMachine> again = read(file);
  REQUIRE(again);
  CHECK((*again == machine));
}

TEST_CASE("fields that are not known are skipped, those that are missing are named") {
  FieldWriter writer = encode(some_machine());
  writer.u64(9999, 5).text(10000, "from the future");
  Result<SavedMachine> again = read(seal(writer, kKey));
  REQUIRE(again);
  CHECK((*again == some_machine()));
  Result<SavedMachine> empty = read(seal(FieldWriter(), kKey));
  REQUIRE(!empty);
  CHECK(empty.error().message == "field 1 is missing");
}

TEST_CASE("a file with any bit flipped, cut short or of another's key is refused") {
  std::vector<std::byte> file = seal(encode(some_machine()), kKey);
  size_t refused = 0;
  for (size_t at = 0; at < file.size(); at++) {
    for (int bit = 0; bit < 8; bit++) {
      file[at] ^= std::byte(1 << bit);
      refused += !read(file);
      file[at] ^= std::byte(1 << bit);
    }
  }
  CHECK(refused == 8 * file.size());
  for (size_t size = 0; size < file.size(); size++) CHECK(!read(std::span(file).first(size)));
  CHECK(!read(file, Key()));
  CHECK(read(file));
}

TEST_CASE("another version is refused with what helps") {
  std::vector<std::byte> file = seal(encode(some_machine()), kKey);
  file[8] = std::byte{2};
  Result<SavedMachine> other = read(file);
  REQUIRE(!other);
  CHECK(other.error().message == "its format is version 2, this program reads 1");
  CHECK(other.error().remedy == "restore it with the program that saved it");
}

TEST_CASE("numbers beyond their range and lists beyond their bounds are refused") {
  FieldWriter writer = encode(some_machine());
  Result<Fields> fields = Fields::parse(writer.body());
  REQUIRE(fields);
  CHECK(fields->u64(1, 256 << 20));
  CHECK(!fields->u64(1, (256 << 20) - 1));
  CHECK(!fields->object<uint16_t>(1));
  SavedMachine machine = some_machine();
  machine.vcpus.resize(65);
  CHECK(!decode_machine(*Fields::parse(encode(machine).body())));
  machine = some_machine();
  machine.devices.resize(65);
  CHECK(!decode_machine(*Fields::parse(encode(machine).body())));
  machine = some_machine();
  machine.network.names.resize(4097);
  CHECK(!decode_machine(*Fields::parse(encode(machine).body())));
  machine = some_machine();
  machine.network.flows.resize(4097, machine.network.flows[0]);
  CHECK(!decode_machine(*Fields::parse(encode(machine).body())));
  machine = some_machine();
  machine.network.flows[0].far_address.pop_back();
  CHECK(!decode_machine(*Fields::parse(encode(machine).body())));
}

// Under the address sanitizer, which looks for what was left behind.
TEST_CASE("nothing is left of a list's entry that is refused halfway") {
  FieldWriter entry;
  entry.text(1, "a name too long to be kept within the string itself");
  FieldWriter writer = encode(some_machine());
  writer.group(8, entry);
  CHECK(!decode_machine(*Fields::parse(writer.body())));
}
