// The first bytes of connections: a byte that chooses the port, then what the client sends. Besides
// memory errors: a verdict is final, so that no later byte turns a pass into a refusal or back;
// what passes as TLS or HTTP does not pass for another host.
#include "broker/classify.h"
#include "tests/fuzz/fuzz_input.h"

using namespace hutch::broker;
using Verdict = Classification::Verdict;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  constexpr uint16_t kPorts[] = {80, 443, 8080, 22};
  Target target{"allowed.test", kPorts[data[0] % 4], {"*.test", false}};
  Target other = target;
  other.name = "other.test";
  std::span<const std::byte> bytes = std::as_bytes(std::span(data + 1, size - 1));
  Classification whole = classify(target, bytes);
  if (whole.verdict == Verdict::kPass)
    FUZZ_CHECK(classify(other, bytes).verdict == Verdict::kRefuse);
  Verdict before = Verdict::kNeedMore;
  // Each length of the beginning, more coarsely behind it.
  for (size_t length = 0; length <= bytes.size(); length += length < 300 ? 1 : 97) {
    Verdict verdict = classify(target, bytes.first(length)).verdict;
    FUZZ_CHECK(before == Verdict::kNeedMore || verdict == before);
    before = verdict;
  }
  return 0;
}
