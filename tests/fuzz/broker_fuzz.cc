// What a hostile VMM says to its broker: packets, each a length of 16 bits and that many bytes,
// with a chosen type where the length's highest bit is set. Names resolve to addresses below the
// floor, so that nothing is ever connected to. Besides memory errors: flows are bounded, a breach
// ends it, and every decision is in the log's chain.
#include <sys/mman.h>
#include <sys/socket.h>

#include <array>

#include "base/sys.h"
#include "broker/broker.h"
#include "tests/fuzz/fuzz_input.h"

using namespace hutch;
using namespace hutch::broker;

namespace {

class FixedResolver final : public Resolver {
 public:
  explicit FixedResolver(Loop& loop) : loop_(loop) {}
  std::unique_ptr<Question> resolve(const std::string& name,
                                    std::function<void(std::vector<IpAddress>)> done) override {
    FUZZ_CHECK(!name.empty());
    std::vector<IpAddress> found;
    if (name.front() != 'n') found.push_back(*IpAddress::parse("169.254.169.254"));
    auto wanted = std::make_shared<bool>(true);
    loop_.post([=] {
      if (*wanted) done(found);
    });
    class Asked final : public Question {
     public:
      explicit Asked(std::shared_ptr<bool> wanted) : wanted_(std::move(wanted)) {}
      ~Asked() override { *wanted_ = false; }

     private:
      std::shared_ptr<bool> wanted_;
    };
    return std::make_unique<Asked>(wanted);
  }

 private:
  Loop& loop_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Floor floor = *Floor::create({});
  fuzz::FuzzInput input(data, size);
  std::unique_ptr<Loop> loop = *Loop::create();
  FixedResolver resolver(*loop);
  auto [vmm, far] = *socket_pair(SOCK_SEQPACKET);
  Fd file(::memfd_create("log", MFD_CLOEXEC));
  event_log::EventLog log = *event_log::EventLog::open(*file.duplicate());
  bool ended = false;
  Broker broker(*loop, std::move(far),
                *policy::Policy::parse(std::vector<std::string>{"*.wild.test", "127.0.0.1:80"}),
                floor, resolver, &log, [&](const std::string&) { ended = true; });
  FUZZ_CHECK(broker.start().has_value());
  while (!input.is_empty() && !ended) {
    uint16_t head = input.take<uint16_t>();
    std::vector<std::byte> packet((head & 0x3ff) + 1);
    for (std::byte& byte : packet) byte = std::byte{input.take<uint8_t>()};
    if ((head & 0x8000) != 0) packet[0] = std::byte{static_cast<uint8_t>(1 + (head >> 10) % 3)};
    if ((head & 0x4000) != 0) broker.set_policy(policy::Policy::all());
    (void)send_message(vmm.get(), packet, {});
    FUZZ_CHECK(loop->run_once(0).has_value());
    FUZZ_CHECK(loop->run_once(0).has_value());
    FUZZ_CHECK(broker.flow_count() <= protocol::broker::kMaxFlows + 1);
    // What it answers is of no interest here; the socket must not fill up.
    std::array<char, 64> answer;
    while (::recv(vmm.get(), answer.data(), answer.size(), MSG_DONTWAIT) > 0) {
    }
  }
  std::string text(*file_size(file.get()), '\0');
  FUZZ_CHECK(read_exactly_at(file.get(), std::as_writable_bytes(std::span(text)), 0).has_value());
  FUZZ_CHECK(event_log::verify(text).has_value());
  return 0;
}
