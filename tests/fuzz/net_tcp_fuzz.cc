// Fuzzes one TCP flow with the model checker of the unit tests: the input decides who does what
// when. What is checked stands in tests/net/tcp_model.h.
#include "tests/net/tcp_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hutch::fuzz::FuzzInput input(data, size);
  const std::string broken = hutch::testing::TcpModel(input).run();
  if (!broken.empty()) std::fprintf(stderr, "%s\n", broken.c_str());
  FUZZ_CHECK(broken.empty());
  return 0;
}
