// A Backend with everything around it played by the test: the device, those who decide, the far
// sides (socket pairs) and the clock.
#pragma once

#include <sys/socket.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/loop.h"
#include "base/sys.h"
#include "net/backend.h"
#include "tests/net/frames.h"

namespace hutch::testing {

// Keeps what the guest is sent.
class FakeDevice final : public FrameSender {
 public:
  struct Frame {
    Bytes bytes;
    FrameOffload offload;
  };

  Abilities abilities() const override { return able; }
  bool send(std::span<const std::span<const std::byte>> pieces,
            const FrameOffload& offload) override {
    if (room == 0) return false;
    room--;
    Frame frame{{}, offload};
    for (auto piece : pieces) frame.bytes.insert(frame.bytes.end(), piece.begin(), piece.end());
    frames.push_back(std::move(frame));
    return true;
  }
  void flush() override { flushes++; }

  Abilities able;
  size_t room = SIZE_MAX;
  std::vector<Frame> frames;
  size_t flushes = 0;
};

// Answers when the test says so.
class FakeOpener final : public net::FlowOpener {
 public:
  struct Asked;
  class Handle final : public net::FlowHandle {
   public:
    Handle(Asked& owner) : owner_(owner) {}
    ~Handle() override { owner_.handle = nullptr; }
    void classify(std::span<const std::byte> all_so_far) override {
      owner_.seen = text(all_so_far);
      owner_.times++;
      if (owner_.on_bytes) owner_.on_bytes();
    }
    void ended(const net::FlowTotals& totals) override { owner_.ended.push_back(totals); }
    void said_all() override { owner_.ends++; }

   private:
    Asked& owner_;
  };
  struct Asked {
    net::FlowTarget target;
    net::OpenCallbacks callbacks;
    Handle* handle = nullptr;  // null: dropped
    std::string seen;          // by classify()
    int times = 0;
    int ends = 0;  // calls of said_all()
    std::function<void()> on_bytes;
    std::vector<net::FlowTotals> ended;  // one, in the end
    Fd far;                              // the test's end of the stream

    // Joins the flow to a socket pair, whose end for the flow would block if it were let.
    void join(size_t consumed = 0) {
      auto [ours, theirs] = socket_pair(SOCK_STREAM).value();
      (void)set_nonblocking(theirs.get());
      far = std::move(theirs);
      callbacks.ready(std::move(ours), consumed);
    }
  };

  std::unique_ptr<net::FlowHandle> open(const net::FlowTarget& target,
                                        net::OpenCallbacks callbacks) override {
    asked.push_back(std::make_unique<Asked>());
    asked.back()->target = target;
    asked.back()->callbacks = std::move(callbacks);
    auto handle = std::make_unique<Handle>(*asked.back());
    asked.back()->handle = handle.get();
    return handle;
  }

  std::vector<std::unique_ptr<Asked>> asked;
};

class FakeNames final : public net::NameLookup {
 public:
  std::optional<std::string> find(const IpAddress& address) override {
    auto found = names.find(address);
    return found == names.end() ? std::nullopt : std::optional(found->second);
  }
  void hold(const IpAddress& address) override { held[address]++; }
  void release(const IpAddress& address) override { held[address]--; }

  std::map<IpAddress, std::string> names;
  std::map<IpAddress, int> held;
};

class FakeLiterals final : public net::LiteralPolicy {
 public:
  bool allows(const IpAddress& address, uint16_t port) override {
    asked++;
    return allow_all || (address == allowed && port == allowed_port);
  }
  bool allow_all = false;
  IpAddress allowed = IpAddress::v4(93, 184, 216, 34);
  uint16_t allowed_port = 443;
  int asked = 0;
};

// Answers "re: " and the query; nothing to "no".
class FakeDns final : public net::DnsResponder {
 public:
  std::optional<std::vector<std::byte>> answer(std::span<const std::byte> query,
                                               size_t limit) override {
    queries++;
    if (text(query) == "no") return std::nullopt;
    Bytes answer;
    append(answer, std::string_view("re: "));
    answer.insert(answer.end(), query.begin(), query.end());
    answer.resize(std::min({answer.size(), limit, size_t{2000}}));
    return answer;
  }
  int queries = 0;
};

struct BackendBench {
  explicit BackendBench(net::TcpOptions options = {}, bool ipv6 = false) {
    options.clock = [this] { return now; };
    options.random_number = [this] { return random += 0x10000000; };
    backend = std::make_unique<net::Backend>(*loop, device,
                                             net::Backend::Deciders{opener, names, literals, dns},
                                             std::move(options), ipv6);
  }

  // One frame, as a batch of its own.
  void frame(const Bytes& bytes, const FrameOffload& offload = {}) {
    backend->on_frame(bytes, offload);
    backend->on_batch_end();
  }
  uint64_t dropped(net::Drop reason) const { return backend->counters().dropped(reason); }
  uint64_t all_drops() const {
    uint64_t sum = 0;
    for (uint64_t count : backend->counters().drops) sum += count;
    return sum;
  }
  // What the sockets and the clock have to say.
  void run() {
    for (int i = 0; i < 4; i++) (void)loop->run_once(0);
  }
  FakeDevice::Frame take() {
    if (device.frames.empty()) return {};
    FakeDevice::Frame first = std::move(device.frames.front());
    device.frames.erase(device.frames.begin());
    return first;
  }

  uint64_t now = 1'000'000'000;
  uint32_t random = 0xe0000000;
  std::unique_ptr<Loop> loop = Loop::create().value();
  FakeDevice device;
  FakeOpener opener;
  FakeNames names;
  FakeLiterals literals;
  FakeDns dns;
  std::unique_ptr<net::Backend> backend;
};

// The guest's side of one connection, a peer that does what is right.
struct GuestTcp {
  BackendBench& bench;
  FrameMaker maker{};
  uint32_t next = 5000;   // of the guest's own bytes
  uint32_t expected = 0;  // of the far side's
  uint16_t window = 60000;
  std::string received;
  bool got_fin = false;
  bool got_reset = false;
  uint32_t reset_sequence = 0, reset_acknowledgement = 0;
  int segments = 0;

  void send(uint8_t flags, std::string_view payload = {}, const FrameOffload& offload = {}) {
    net::TcpSegment segment{
        .sequence = next, .acknowledgement = expected, .flags = flags, .window = window};
    if ((flags & net::tcp::kSyn) != 0) segment.mss = 1460;
    const Bytes bytes = maker.tcp(segment, payload);
    next += static_cast<uint32_t>(payload.size());
    if ((flags & (net::tcp::kSyn | net::tcp::kFin)) != 0) next++;
    bench.frame(bytes, offload);
    take();
  }
  // Takes what has been sent to this connection.
  void take() {
    for (auto frame = bench.device.frames.begin(); frame != bench.device.frames.end();) {
      const auto ip = read_at<net::wire::Ipv4>(frame->bytes, 14);
      const auto header = read_at<net::wire::Tcp>(frame->bytes, 34);
      if (ip.protocol != net::wire::kProtocolTcp || header.destination_port != maker.guest_port ||
          header.source_port != maker.far_port || ip.source != maker.destination.v4_value()) {
        ++frame;
        continue;
      }
      segments++;
      const size_t start = 34 + static_cast<size_t>(header.data_offset >> 4) * 4;
      const std::string payload = text(std::span(frame->bytes).subspan(start));
      if ((header.flags & net::tcp::kRst) != 0) {
        got_reset = true;
        reset_sequence = header.sequence;
        reset_acknowledgement = header.acknowledgement;
      }
      if ((header.flags & net::tcp::kSyn) != 0) {
        expected = header.sequence + 1;
      } else if (header.sequence == expected) {
        received += payload;
        expected += static_cast<uint32_t>(payload.size());
        if ((header.flags & net::tcp::kFin) != 0) {
          expected++;
          got_fin = true;
        }
      }
      frame = bench.device.frames.erase(frame);
    }
  }
  void acknowledge() { send(net::tcp::kAck); }
  // Connects; the flow is joined to a stream.
  FakeOpener::Asked& connect() {
    send(net::tcp::kSyn);
    FakeOpener::Asked& asked = *bench.opener.asked.back();
    asked.join();
    take();
    acknowledge();
    return asked;
  }
};

// Reads what there is at the far side; "" also at its end.
inline std::string far_reads(const Fd& far) {
  std::string all;
  static char buffer[65536];
  for (;;) {
    ssize_t count = ::recv(far.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (count <= 0) return all;
    all.append(buffer, static_cast<size_t>(count));
  }
}
inline bool far_is_at_end(const Fd& far) {
  char byte;
  return ::recv(far.get(), &byte, 1, MSG_DONTWAIT) == 0;
}

}  // namespace hutch::testing
