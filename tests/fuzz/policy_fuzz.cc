// Policies, one pattern a line, then an empty line, then names and addresses to look up, one a
// line. Besides memory errors: a policy is the same again from its own patterns, allows no name
// that it does not know, no name that is not its own canonical form's, and never this machine.
#include <string>
#include <vector>

#include "policy/address_floor.h"
#include "policy/host_name.h"
#include "policy/policy.h"
#include "tests/fuzz/fuzz_input.h"

using hutch::IpAddress;
using namespace hutch::policy;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::string> patterns, lookups;
  std::vector<std::string>* lines = &patterns;
  std::string line;
  for (size_t i = 0; i <= size; i++) {
    if (i < size && data[i] != '\n') {
      line += static_cast<char>(data[i]);
      continue;
    }
    if (line.empty()) {
      lines = &lookups;
    } else {
      lines->push_back(line);
    }
    line.clear();
  }
  hutch::Result<Policy> policy = Policy::parse(patterns);
  if (!policy) {
    FUZZ_CHECK(!policy.error().message.empty());
    for (char c : policy.error().message) FUZZ_CHECK(c >= ' ' && c <= '~');
    return 0;
  }
  hutch::Result<Policy> again = Policy::parse(policy->patterns());
  FUZZ_CHECK(again && *again == *policy);
  for (const std::string& text : lookups) {
    if (std::optional<std::string> name = canonical_host_name(text)) {
      FUZZ_CHECK(canonical_host_name(*name) == *name);
      FUZZ_CHECK(!IpAddress::parse(*name));
      for (uint16_t port : {uint16_t{0}, uint16_t{80}, uint16_t{443}, uint16_t{65535}})
        if (policy->allows(*name, port)) {
          FUZZ_CHECK(port != 0 && policy->knows(*name));
          FUZZ_CHECK(*name != "localhost" && !name->ends_with(".localhost"));
        }
    }
    if (std::optional<IpAddress> address = IpAddress::parse(text)) {
      FUZZ_CHECK(IpAddress::parse(address->text()) == address);
      FUZZ_CHECK(!policy->allows(*address, 0));
      floor_reason(*address);
    }
  }
  return 0;
}
