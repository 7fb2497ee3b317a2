// Messages to the resolver of a sandbox, each a length of 16 bits and that many bytes. Besides
// memory errors: an answer is a response of at most 512 bytes to its query's number, and an address
// in it stands for a name that the policy knows.
#include <vector>

#include "net/dns.h"
#include "tests/fuzz/fuzz_input.h"

using namespace hutch;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const policy::Policy policy = *policy::Policy::parse(
      std::vector<std::string>{"allowed.test:443", "*.wild.test", "1.2.3.4"});
  net::NameTable table;
  net::Dns dns(policy, table);
  fuzz::FuzzInput input(data, size);
  uint64_t now = 1;
  while (!input.is_empty()) {
    std::vector<std::byte> query(input.take<uint16_t>() % 1024);
    for (std::byte& byte : query) byte = std::byte{input.take<uint8_t>()};
    uint64_t before = dns.counters().answered;
    std::vector<std::byte> answer = dns.answer(query, now += 1'000'000);
    if (answer.empty()) continue;
    FUZZ_CHECK(answer.size() >= 12 && answer.size() <= 512);
    FUZZ_CHECK(query.size() >= 12 && answer[0] == query[0] && answer[1] == query[1]);
    FUZZ_CHECK((answer[2] & std::byte{0x80}) != std::byte{0});
    FUZZ_CHECK((answer[7] == std::byte{1}) == (dns.counters().answered == before + 1));
  }
  for (const net::NameTable::Entry& entry : table.save()) {
    FUZZ_CHECK(policy.knows(entry.name));
    FUZZ_CHECK(table.find(IpAddress::v4(entry.address), now) == entry.name);
  }
  net::NameTable restored;
  FUZZ_CHECK(restored.restore(table.save(), now).has_value());
  return 0;
}
