#include "net/dns.h"

#include <doctest/doctest.h>

#include <string>

using namespace hutch;
using namespace hutch::net;
using policy::Policy;

namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint16_t kA = 1, kAaaa = 28;

using Bytes = std::vector<std::byte>;

void put(Bytes& bytes, std::initializer_list<int> values) {
  for (int value : values) bytes.push_back(static_cast<std::byte>(value));
}
void put16(Bytes& bytes, int value) {
  put(bytes, {value >> 8, value & 0xff});
}

// "a.b" as labels.
Bytes wire_name(std::string_view name) {
  Bytes bytes;
  while (!name.empty()) {
    size_t end = std::min(name.find('.'), name.size());
    put(bytes, {static_cast<int>(end)});
    for (char c : name.substr(0, end)) put(bytes, {static_cast<unsigned char>(c)});
    name.remove_prefix(std::min(end + 1, name.size()));
  }
  put(bytes, {0});
  return bytes;
}

struct Ask {
  int flags = 0x0100;
  int questions = 1;
  int type = kA;
  int klass = 1;
  bool with_opt = false;
  int version = 0;
};

Bytes query(std::string_view name, Ask ask = {}) {
  Bytes bytes;
  put16(bytes, 0x1234);
  put16(bytes, ask.flags);
  put16(bytes, ask.questions);
  put(bytes, {0, 0, 0, 0, 0, ask.with_opt ? 1 : 0});
  for (int i = 0; i < ask.questions; i++) {
    Bytes wire = wire_name(name);
    bytes.insert(bytes.end(), wire.begin(), wire.end());
    put16(bytes, ask.type);
    put16(bytes, ask.klass);
  }
  if (ask.with_opt) put(bytes, {0, 0, 41, 0x04, 0xd0, 0, ask.version, 0, 0, 0, 0});
  return bytes;
}

int at(const Bytes& bytes, size_t index) {
  REQUIRE(index < bytes.size());
  return std::to_integer<int>(bytes[index]);
}
int at16(const Bytes& bytes, size_t index) {
  return at(bytes, index) << 8 | at(bytes, index + 1);
}
int code(const Bytes& bytes) {
  return at(bytes, 3) & 0x0f;
}

struct Resolver {
  explicit Resolver(std::vector<std::string> patterns) : policy(*Policy::parse(patterns)) {}
  explicit Resolver(Policy given) : policy(std::move(given)) {}

  Bytes ask(std::string_view name, Ask how = {}) { return dns.answer(query(name, how), now); }
  // The address in an answer.
  IpAddress address(std::string_view name) {
    Bytes answer = ask(name);
    REQUIRE(code(answer) == 0);
    REQUIRE(at16(answer, 6) == 1);
    size_t record = query(name).size();
    CHECK(at16(answer, record) == 0xc00c);
    CHECK(at16(answer, record + 2) == kA);
    CHECK(at16(answer, record + 4) == 1);
    CHECK(at16(answer, record + 8) == static_cast<int>(Dns::kTimeToLive));
    CHECK(at16(answer, record + 10) == 4);
    CHECK(answer.size() == record + 16);
    return IpAddress::v4(static_cast<uint8_t>(at(answer, record + 12)),
                         static_cast<uint8_t>(at(answer, record + 13)),
                         static_cast<uint8_t>(at(answer, record + 14)),
                         static_cast<uint8_t>(at(answer, record + 15)));
  }

  Policy policy;
  NameTable table;
  Dns dns{policy, table};
  uint64_t now = kSecond;
};

}  // namespace

TEST_CASE("a name that the policy knows has an address of its own, and keeps it") {
  Resolver resolver({"allowed.test:443", "*.wild.test"});
  IpAddress first = resolver.address("allowed.test");
  CHECK(first.text() == "198.18.0.2");
  IpAddress second = resolver.address("a.b.wild.test");
  CHECK(second.text() == "198.18.0.3");
  CHECK(resolver.address("ALLOWED.test") == first);
  CHECK(resolver.table.find(first, resolver.now) == "allowed.test");
  CHECK(resolver.table.find(second, resolver.now) == "a.b.wild.test");
  CHECK_FALSE(resolver.table.find(IpAddress::v4(198, 18, 0, 4), resolver.now));
  CHECK_FALSE(resolver.table.find(IpAddress::v4(8, 8, 8, 8), resolver.now));
  CHECK_FALSE(resolver.table.find(*IpAddress::parse("::ffff:198.18.0.2"), resolver.now));
  // The question comes back as it was asked, in its spelling.
  Bytes asked = query("AlLowed.test"), answer = resolver.ask("AlLowed.test");
  CHECK(std::equal(asked.begin() + 12, asked.end(), answer.begin() + 12));
  CHECK(at16(answer, 0) == 0x1234);
  CHECK(at16(answer, 2) == 0x8180);
}

TEST_CASE("every other name does not exist, and nothing is kept of it") {
  Resolver resolver({"allowed.test:443", "*.wild.test"});
  for (const char* name :
       {"evil.test", "wild.test", "xwild.test", "wild.test.evil.test", "allowed.test.evil.test",
        "sub.allowed.test", "test", "", "localhost", "4.3.2.1.in-addr.arpa", "127.1"}) {
    CAPTURE(name);
    Bytes answer = resolver.ask(name);
    CHECK(code(answer) == 3);
    CHECK(at16(answer, 6) == 0);
  }
  for (int i = 0; i < 1000; i++) resolver.ask("data" + std::to_string(i) + ".evil.test");
  CHECK(resolver.table.size() == 0);
  CHECK(resolver.dns.counters().not_there == 1011);
  // Why, for who understands extended errors.
  Bytes answer = resolver.ask("evil.test", {.with_opt = true});
  size_t opt = query("evil.test").size();
  CHECK(at16(answer, 10) == 1);
  CHECK(at16(answer, opt + 1) == 41);
  CHECK(at16(answer, opt + 9) == 6);
  CHECK(at16(answer, opt + 11) == 15);
  CHECK(at16(answer, opt + 15) == 15);
}

TEST_CASE("names with other bytes than a host's are not taken for one") {
  Resolver resolver({"allowed.test"});
  // A label that holds a dot, a zero byte behind the name, a character beyond ASCII.
  Bytes dotted = query("allowed.test");
  dotted[12 + 8] = std::byte{'.'};
  dotted[12] = std::byte{12};
  CHECK(code(resolver.dns.answer(dotted, resolver.now)) == 3);
  CHECK(code(resolver.ask(std::string_view("allowed.test\0", 13))) == 3);
  CHECK(code(resolver.ask("allowed\xef\xbc\x8etest")) == 3);
}

TEST_CASE("other types of a name that there is have no data") {
  Resolver resolver({"allowed.test"});
  for (int type = 0; type < 300; type++) {
    if (type == kA) continue;
    Bytes answer = resolver.ask("allowed.test", {.type = type});
    CHECK(code(answer) == 0);
    CHECK(at16(answer, 6) == 0);
  }
  CHECK(code(resolver.ask("evil.test", {.type = kAaaa})) == 3);
  CHECK(resolver.table.size() == 0);
}

TEST_CASE("what is no plain query is refused by its form, or not answered") {
  Resolver resolver({"allowed.test"});
  CHECK(code(resolver.ask("allowed.test", {.questions = 2})) == 1);
  CHECK(code(resolver.ask("allowed.test", {.questions = 0})) == 1);
  CHECK(code(resolver.ask("allowed.test", {.klass = 3})) == 4);
  for (int opcode = 1; opcode < 16; opcode++)
    CHECK(code(resolver.ask("allowed.test", {.flags = opcode << 11})) == 4);
  CHECK(resolver.ask("allowed.test", {.flags = 0x8000}).empty());
  // Cut anywhere.
  Bytes whole = query("allowed.test", {.with_opt = true});
  for (size_t size = 0; size < whole.size(); size++) {
    CAPTURE(size);
    Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    Bytes answer = resolver.dns.answer(cut, resolver.now);
    if (size < 12) {
      CHECK(answer.empty());
    } else {
      CHECK(code(answer) == 1);
    }
  }
  // A question may not point anywhere.
  Bytes pointing = query("allowed.test");
  pointing[12] = std::byte{0xc0};
  pointing[13] = std::byte{0x0c};
  CHECK(code(resolver.dns.answer(pointing, resolver.now)) == 1);
  std::string longest;
  for (int i = 0; i < 126; i++) longest += "a.";
  CHECK(code(resolver.ask(longest + "a")) == 3);
  CHECK(code(resolver.ask(longest + "aa")) == 1);
  // A version of EDNS that does not exist: 16, in two parts.
  Bytes answer = resolver.ask("allowed.test", {.with_opt = true, .version = 1});
  CHECK(code(answer) == 0);
  CHECK(at(answer, query("allowed.test").size() + 5) == 1);
  Bytes twice = query("allowed.test", {.with_opt = true});
  Bytes opt(twice.end() - 11, twice.end());
  twice.insert(twice.end(), opt.begin(), opt.end());
  twice[11] = std::byte{2};
  CHECK(code(resolver.dns.answer(twice, resolver.now)) == 1);
  CHECK(resolver.table.size() == 0);
}

TEST_CASE("too many new names are put off, known ones are not") {
  Resolver resolver({"*.wild.test"});
  for (uint64_t i = 0; i < Dns::kNewNamesBurst; i++)
    CHECK(code(resolver.ask("n" + std::to_string(i) + ".wild.test")) == 0);
  CHECK(code(resolver.ask("one-more.wild.test")) == 2);
  CHECK(code(resolver.ask("n0.wild.test")) == 0);
  resolver.now += kSecond;
  for (uint64_t i = 0; i < Dns::kNewNamesPerSecond; i++)
    CHECK(code(resolver.ask("m" + std::to_string(i) + ".wild.test")) == 0);
  CHECK(code(resolver.ask("one-more.wild.test")) == 2);
  CHECK(resolver.dns.counters().throttled == 2);
}

TEST_CASE("a policy that changes is the next answer's") {
  Resolver resolver({"allowed.test"});
  resolver.address("allowed.test");
  resolver.policy = *Policy::parse(std::vector<std::string>{"other.test"});
  CHECK(code(resolver.ask("allowed.test")) == 3);
  CHECK(code(resolver.ask("other.test")) == 0);
}

TEST_CASE("a full table gives only addresses away that nobody has used for long") {
  NameTable table;
  uint64_t now = kSecond;
  auto name = [](size_t i) { return "n" + std::to_string(i) + ".test"; };
  std::vector<IpAddress> addresses;
  for (size_t i = 0; i < NameTable::kMaxNames; i++)
    addresses.push_back(*table.assign(name(i), now++));
  CHECK_FALSE(table.assign("new.test", now));
  // The oldest is held, the next was asked for a moment ago.
  now += NameTable::kRestNs;
  table.hold(addresses[0]);
  CHECK(table.find(addresses[1], now) == name(1));
  std::optional<IpAddress> fresh = table.assign("new.test", now);
  REQUIRE(fresh);
  CHECK(std::find(addresses.begin(), addresses.end(), *fresh) == addresses.end());
  CHECK(table.find(addresses[0], now) == name(0));
  CHECK(table.find(addresses[1], now) == name(1));
  CHECK_FALSE(table.find(addresses[2], now));
  CHECK(table.size() == NameTable::kMaxNames);
  // Once released it rests as long as the others do.
  now += NameTable::kRestNs;
  table.release(addresses[0], now);
  for (size_t i = 0; i < NameTable::kMaxNames - 1; i++)
    CHECK(table.assign("again" + std::to_string(i) + ".test", now));
  CHECK_FALSE(table.assign("last.test", now));
  CHECK(table.find(addresses[0], now) == name(0));
}

TEST_CASE("an address comes again only after all others") {
  NameTable table;
  uint64_t now = kSecond;
  uint32_t before = 0;
  for (uint32_t i = 0; i < NameTable::kAddresses + 1000; i++) {
    uint32_t address = table.assign("n" + std::to_string(i) + ".test", now)->v4_value();
    now += NameTable::kRestNs;
    if (i > 0 && i != NameTable::kAddresses - 3) CHECK(address == before + 1);
    CHECK(address >= NameTable::kFirstAddress + NameTable::kFirstIndex);
    CHECK(address < NameTable::kFirstAddress + NameTable::kAddresses - 1);
    before = address;
  }
  CHECK(table.size() == NameTable::kMaxNames);
}

TEST_CASE("names are saved and restored, and a broken list is refused") {
  NameTable table;
  IpAddress a = *table.assign("a.test", 1), b = *table.assign("b.test", 2);
  NameTable other;
  REQUIRE(other.restore(table.save(), 3));
  CHECK(other.save() == table.save());
  CHECK(other.find(a, 4) == "a.test");
  CHECK(other.find(b, 4) == "b.test");
  CHECK(*other.assign("c.test", 5) != a);
  CHECK_FALSE(other.restore({}, 6));
  uint32_t good = NameTable::kFirstAddress + 5;
  for (const std::vector<NameTable::Entry>& entries :
       {std::vector<NameTable::Entry>{{"A.test", good}},
        {{"", good}},
        {{"a.test", NameTable::kFirstAddress + 1}},
        {{"a.test", NameTable::kFirstAddress + NameTable::kAddresses}},
        {{"a.test", 0x7f000001}},
        {{"a.test", good}, {"a.test", good + 1}},
        {{"a.test", good}, {"b.test", good}},
        std::vector<NameTable::Entry>(NameTable::kMaxNames + 1)}) {
    NameTable empty;
    CHECK_FALSE(empty.restore(entries, 1));
    CHECK(empty.size() == 0);
  }
}
