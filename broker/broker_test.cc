// The broker between a VMM that this test plays and servers on loopback addresses, which the floor
// lets pass here.
#include "broker/broker.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <map>
#include <string>
#include <thread>

#include "base/sys.h"

using namespace hutch;
using namespace hutch::broker;
using policy::Policy;
namespace wire = hutch::protocol::broker;

namespace {

void good(const Result<void>& result) {
  REQUIRE(result.has_value());
}

// A listening socket on an address of 127.0.0.0/8.
class Listener {
 public:
  explicit Listener(const char* address = "127.0.0.1", int backlog = 16) {
    socket_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in name{};
    name.sin_family = AF_INET;
    ::inet_pton(AF_INET, address, &name.sin_addr);
    REQUIRE(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&name), sizeof name) == 0);
    REQUIRE(::listen(socket_.get(), backlog) == 0);
    socklen_t size = sizeof name;
    ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&name), &size);
    port = ntohs(name.sin_port);
  }
  Fd accept() { return Fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)); }
  // Whether anybody has come.
  bool has_visitor() {
    good(set_nonblocking(socket_.get()));
    Fd visitor = accept();
    return visitor.is_open();
  }
  uint16_t port = 0;

 private:
  Fd socket_;
};

class NoQuestion final : public Question {
 public:
  explicit NoQuestion(int& open) : open_(open) { open_++; }
  ~NoQuestion() override { open_--; }

 private:
  int& open_;
};

// Knows what it is told; a name without an entry is never answered.
class FakeResolver final : public Resolver {
 public:
  explicit FakeResolver(Loop& loop) : loop_(loop) {}
  std::unique_ptr<Question> resolve(const std::string& name,
                                    std::function<void(std::vector<IpAddress>)> done) override {
    asked.push_back(name);
    if (auto found = addresses.find(name); found != addresses.end())
      loop_.post([done = std::move(done), answer = found->second] { done(answer); });
    return std::make_unique<NoQuestion>(open);
  }
  std::map<std::string, std::vector<IpAddress>> addresses;
  std::vector<std::string> asked;
  int open = 0;

 private:
  Loop& loop_;
};

struct Answer {
  wire::MessageType type{};
  uint32_t flow = 0;
  uint32_t consumed = 0;
  std::string reason;
  Fd stream;
};

class Vmm {
 public:
  explicit Vmm(std::vector<std::string> patterns, std::vector<std::string> opened = {"127.0.0.0/8"})
      : loop(Loop::create().value()), floor(Floor::create(opened).value()), resolver(*loop) {
    auto [ours, its] = socket_pair(SOCK_SEQPACKET).value();
    socket = std::move(ours);
    good(set_nonblocking(socket.get()));
    log_fd = Fd(::memfd_create("log", MFD_CLOEXEC));
    log.emplace(event_log::EventLog::open(log_fd.duplicate().value()).value());
    broker.emplace(*loop, std::move(its), Policy::parse(patterns).value(), floor, resolver, &*log,
                   [this](std::string reason) { ended = std::move(reason); });
    good(broker->start());
  }

  void send(const std::vector<std::byte>& bytes) { good(send_message(socket.get(), bytes, {})); }
  void open(uint32_t flow, const std::string& name, uint16_t port) {
    send(wire::encode(wire::Open{flow, name, "198.18.0.1", port}));
  }
  void open_address(uint32_t flow, const std::string& address, uint16_t port) {
    send(wire::encode(wire::Open{flow, "", address, port}));
  }
  void first(uint32_t flow, const std::string& text) {
    send(wire::encode(wire::First{flow, std::as_bytes(std::span(text))}));
  }

  // The next message, nothing when none comes within the time.
  std::optional<Answer> next(int milliseconds = 5000) {
    uint64_t end = monotonic_ns() + static_cast<uint64_t>(milliseconds) * 1'000'000;
    while (monotonic_ns() < end) {
      good(loop->run_once(5));
      Result<ReceivedMessage> message = receive_message(socket.get(), wire::kMaxMessage);
      if (!message || message->bytes.empty()) {
        if (!ended.empty()) return std::nullopt;
        continue;
      }
      return read(*message);
    }
    return std::nullopt;
  }
  std::string refusal(int milliseconds = 5000) {
    std::optional<Answer> answer = next(milliseconds);
    return answer ? answer->reason : "";
  }
  std::string log_text() {
    std::string text(file_size(log_fd.get()).value(), '\0');
    good(read_exactly_at(log_fd.get(), std::as_writable_bytes(std::span(text)), 0));
    return text;
  }

  std::unique_ptr<Loop> loop;
  Floor floor;
  FakeResolver resolver;
  Fd socket, log_fd;
  std::optional<event_log::EventLog> log;
  std::optional<Broker> broker;
  std::string ended;

 private:
  static Answer read(ReceivedMessage& message) {
    Answer answer;
    answer.type = wire::type_of(message.bytes).value();
    if (answer.type == wire::MessageType::kConnected)
      answer.flow = wire::decode<wire::Connected>(message.bytes)->flow;
    if (answer.type == wire::MessageType::kReady) {
      wire::Ready ready = wire::decode<wire::Ready>(message.bytes).value();
      answer.flow = ready.flow;
      answer.consumed = ready.consumed;
      REQUIRE(message.fds.size() == 1);
      answer.stream = std::move(message.fds[0]);
    }
    if (answer.type == wire::MessageType::kRefused) {
      wire::Refused refused = wire::decode<wire::Refused>(message.bytes).value();
      answer.flow = refused.flow;
      answer.reason = wire::name(refused.reason);
    }
    return answer;
  }
};

const IpAddress kLocal = *IpAddress::parse("127.0.0.1");

std::string received(const Fd& fd, size_t size) {
  std::string text(size, '\0');
  size_t got = 0;
  while (got < size) {
    ssize_t count = ::recv(fd.get(), text.data() + got, size - got, 0);
    if (count <= 0) break;
    got += static_cast<size_t>(count);
  }
  text.resize(got);
  return text;
}

}  // namespace

TEST_CASE(
    "HTTP to an allowed host: the head goes out once it has named it, then the socket is handed "
    "over") {
  Listener server;
  Vmm vmm({fmt::format("allowed.test:{}", 1), "allowed.test"});
  vmm.resolver.addresses["allowed.test"] = {kLocal};
  vmm.open(7, "allowed.test", server.port);
  std::optional<Answer> answer = vmm.next();
  REQUIRE(answer);
  CHECK(answer->type == wire::MessageType::kConnected);
  CHECK(answer->flow == 7);
  Fd far = server.accept();
  std::string head = fmt::format("GET / HTTP/1.1\r\nHost: allowed.test:{}\r\n\r\n", server.port);
  vmm.first(7, head.substr(0, 20));
  CHECK_FALSE(vmm.next(50));
  // Nothing has left yet.
  char byte = 0;
  CHECK(::recv(far.get(), &byte, 1, MSG_DONTWAIT) < 0);
  vmm.first(7, head.substr(20) + "body");
  answer = vmm.next();
  REQUIRE(answer);
  CHECK(answer->type == wire::MessageType::kReady);
  CHECK(answer->consumed == head.size() + 4);
  CHECK(received(far, head.size() + 4) == head + "body");
  // The connection itself, both ways.
  CHECK(::send(answer->stream.get(), "more", 4, 0) == 4);
  CHECK(received(far, 4) == "more");
  CHECK(::send(far.get(), "back", 4, 0) == 4);
  CHECK(received(answer->stream, 4) == "back");
  vmm.send(wire::encode(wire::Close{7, 100, 200}));
  good(vmm.loop->run_once(50));
  CHECK(vmm.broker->flow_count() == 0);
  CHECK(vmm.resolver.open == 0);
  std::string text = vmm.log_text();
  CHECK(event_log::verify(text)->lines == 3);
  CHECK(text.find(R"("event":"open","flow":7,"name":"allowed.test","address":"127.0.0.1")") !=
        std::string::npos);
  CHECK(text.find(R"("reason":"HTTP")") != std::string::npos);
  CHECK(text.find(R"("event":"close")") != std::string::npos);
  CHECK(text.find(R"("sent":100,"received":200)") != std::string::npos);
}

TEST_CASE("what names another host never leaves") {
  Listener server;
  Vmm vmm({"allowed.test"});
  vmm.resolver.addresses["allowed.test"] = {kLocal};
  for (const std::string& text :
       {std::string("GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"), std::string("SSH-2.0-x\r\n"),
        std::string("\x16\x03\x01\x00\x05\x02", 6)}) {
    CAPTURE(text);
    vmm.open(1, "allowed.test", server.port);
    REQUIRE(vmm.next()->type == wire::MessageType::kConnected);
    Fd far = server.accept();
    vmm.first(1, text);
    CHECK(vmm.refusal() == "protocol");
    CHECK(received(far, 1).empty());  // closed without a byte
    vmm.send(wire::encode(wire::Close{1, 0, 0}));
  }
  CHECK(vmm.log_text().find("\"event\":\"open\"") == std::string::npos);
}

TEST_CASE("first bytes that cross the answer are the VMM's to keep") {
  Listener server;
  Vmm vmm({"allowed.test"});
  vmm.resolver.addresses["allowed.test"] = {kLocal};
  vmm.open(1, "allowed.test", server.port);
  REQUIRE(vmm.next()->type == wire::MessageType::kConnected);
  Fd far = server.accept();
  std::string head = fmt::format("POST / HTTP/1.1\r\nHost: allowed.test:{}\r\n\r\n", server.port);
  vmm.first(1, head);
  std::optional<Answer> answer = vmm.next();
  REQUIRE(answer);
  CHECK(answer->type == wire::MessageType::kReady);
  CHECK(answer->consumed == head.size());
  // Sent before the answer was read; then the guest's end of its direction.
  vmm.first(1, "body");
  vmm.first(1, "");
  CHECK_FALSE(vmm.next(50));
  CHECK(vmm.ended.empty());
  CHECK(vmm.broker->flow_count() == 1);
  CHECK(received(far, head.size()) == head);
  char byte = 0;
  CHECK(::recv(far.get(), &byte, 1, MSG_DONTWAIT) < 0);
}

TEST_CASE("a client that ends before it has told what it speaks is refused at once") {
  Listener server;
  Vmm vmm({"allowed.test"});
  vmm.resolver.addresses["allowed.test"] = {kLocal};
  for (const std::string& text : {std::string(), std::string("GET / HTTP/1.1\r\nHost: allo")}) {
    CAPTURE(text);
    vmm.open(1, "allowed.test", server.port);
    REQUIRE(vmm.next()->type == wire::MessageType::kConnected);
    Fd far = server.accept();
    if (!text.empty()) vmm.first(1, text);
    vmm.first(1, "");
    CHECK(vmm.refusal() == "protocol");
    CHECK(received(far, 1).empty());
    vmm.send(wire::encode(wire::Close{1, 0, 0}));
  }
  CHECK(vmm.ended.empty());
}

TEST_CASE("what the policy does not allow is not even looked up") {
  Listener server;
  Vmm vmm({"allowed.test:9", "*.wild.test:9", "127.0.0.1:9"});
  uint32_t flow = 0;
  for (const char* name : {"evil.test", "allowed.test", "wild.test", "a.wild.test"}) {
    vmm.open(++flow, name, server.port);
    CHECK(vmm.refusal() == "policy");
  }
  vmm.open_address(++flow, "127.0.0.1", server.port);
  CHECK(vmm.refusal() == "policy");
  CHECK(vmm.resolver.asked.empty());
  CHECK_FALSE(server.has_visitor());
}

TEST_CASE("the floor holds for every address of a name and for literals that a rule names") {
  Listener server;
  Vmm vmm({"allowed.test", "127.0.0.1", "169.254.169.254", "10.0.0.5"}, {});
  for (const char* address :
       {"127.0.0.1", "0.0.0.0", "10.0.0.5", "100.64.0.1", "169.254.169.254", "192.168.1.5", "::1",
        "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1", "198.18.0.1"}) {
    CAPTURE(address);
    vmm.resolver.addresses["allowed.test"] = {*IpAddress::parse(address)};
    vmm.open(1, "allowed.test", server.port);
    CHECK(vmm.refusal() == "floor");
    vmm.send(wire::encode(wire::Close{1, 0, 0}));
  }
  for (const char* address : {"127.0.0.1", "169.254.169.254", "10.0.0.5"}) {
    vmm.open_address(1, address, server.port);
    CHECK(vmm.refusal() == "floor");
    vmm.send(wire::encode(wire::Close{1, 0, 0}));
  }
  CHECK_FALSE(server.has_visitor());
  CHECK(vmm.log_text().find("floor: 169.254.169.254 is link-local") != std::string::npos);
}

TEST_CASE("of a name with several addresses only those above the floor are tried") {
  Listener server("127.0.0.2"), forbidden("127.0.0.1");
  Vmm vmm({"allowed.test"}, {"127.0.0.2/32"});
  vmm.resolver.addresses["allowed.test"] = {kLocal, *IpAddress::parse("127.0.0.2")};
  vmm.open(1, "allowed.test", server.port);
  CHECK(vmm.next()->type == wire::MessageType::kConnected);
  CHECK(server.has_visitor());
  CHECK_FALSE(forbidden.has_visitor());
}

TEST_CASE("on a port that a rule names, and to a literal, the server may speak first") {
  Listener server;
  Vmm vmm({fmt::format("git.test:{}", server.port), fmt::format("127.0.0.1:{}", server.port)});
  vmm.resolver.addresses["git.test"] = {kLocal};
  vmm.open(1, "git.test", server.port);
  vmm.open_address(2, "127.0.0.1", server.port);
  for (int i = 0; i < 2; i++) {
    std::optional<Answer> answer = vmm.next();
    REQUIRE(answer);
    CHECK(answer->type == wire::MessageType::kReady);
    CHECK(answer->consumed == 0);
    Fd far = server.accept();
    CHECK(::send(far.get(), "SSH", 3, 0) == 3);
    CHECK(received(answer->stream, 3) == "SSH");
  }
}

TEST_CASE("names that have no address and servers that do not answer are refused as such") {
  uint16_t closed = 0;
  {
    Listener gone;
    closed = gone.port;
  }
  Vmm vmm({"allowed.test", "empty.test"});
  vmm.resolver.addresses["allowed.test"] = {kLocal, *IpAddress::parse("127.0.0.3")};
  vmm.resolver.addresses["empty.test"] = {};
  vmm.open(1, "allowed.test", closed);
  CHECK(vmm.refusal() == "not_reachable");
  vmm.open(2, "empty.test", closed);
  CHECK(vmm.refusal() == "not_resolved");
}

TEST_CASE("a policy that changes cuts what it does not allow, whatever the VMM does") {
  Listener server;
  std::string port = std::to_string(server.port);
  Vmm vmm({"git.test:" + port, "other.test:" + port, "waits.test"});
  vmm.resolver.addresses = {{"git.test", {kLocal}}, {"other.test", {kLocal}}};
  vmm.open(1, "git.test", server.port);
  std::optional<Answer> cut = vmm.next();
  Fd cut_far = server.accept();
  vmm.open(2, "other.test", server.port);
  std::optional<Answer> kept = vmm.next();
  Fd kept_far = server.accept();
  vmm.open(3, "waits.test", server.port);
  good(vmm.loop->run_once(20));
  CHECK(vmm.resolver.open == 1);
  vmm.broker->set_policy(Policy::parse(std::vector<std::string>{"other.test"}).value());
  std::map<uint32_t, std::string> refused;
  for (int i = 0; i < 2; i++)
    if (std::optional<Answer> answer = vmm.next()) refused[answer->flow] = answer->reason;
  CHECK(refused == std::map<uint32_t, std::string>{{1, "policy_changed"}, {3, "policy_changed"}});
  CHECK(vmm.resolver.open == 0);
  // Cut for both ends, though the VMM still holds its descriptor.
  CHECK(received(cut_far, 1).empty());
  CHECK(::send(cut->stream.get(), "x", 1, MSG_NOSIGNAL) < 0);
  CHECK(::send(kept->stream.get(), "x", 1, MSG_NOSIGNAL) == 1);
  CHECK(received(kept_far, 1) == "x");
  vmm.open(4, "git.test", server.port);
  CHECK(vmm.refusal() == "policy");
}

TEST_CASE("flows are bounded, and many refusals at once reach a VMM that is slow") {
  Vmm vmm({"*.wild.test"});
  auto name = [](uint32_t i) { return fmt::format("n{}.wild.test", i); };
  for (uint32_t i = 0; i < wire::kMaxFlows; i++) {
    vmm.open(i, name(i), 443);
    if (i % 32 == 0) good(vmm.loop->run_once(0));
  }
  for (int i = 0; i < 100; i++) good(vmm.loop->run_once(0));
  CHECK(vmm.resolver.open == static_cast<int>(wire::kMaxFlows));
  vmm.open(5000, "one.wild.test", 443);
  CHECK(vmm.refusal() == "limit");
  vmm.broker->set_policy(Policy());
  for (uint32_t i = 0; i < wire::kMaxFlows; i++) REQUIRE(vmm.refusal() == "policy_changed");
  CHECK(vmm.resolver.open == 0);
  CHECK(vmm.ended.empty());
}

TEST_CASE("a VMM that breaks the protocol loses its broker, and every connection") {
  for (int breach = 0; breach < 8; breach++) {
    CAPTURE(breach);
    Listener server;
    Vmm vmm({fmt::format("git.test:{}", server.port), "allowed.test"});
    vmm.resolver.addresses = {{"git.test", {kLocal}}, {"allowed.test", {kLocal}}};
    vmm.open(1, "git.test", server.port);
    REQUIRE(vmm.next()->type == wire::MessageType::kReady);
    Fd far = server.accept();
    switch (breach) {
      case 0:
        vmm.open(1, "git.test", server.port);
        break;
      case 1:
        vmm.first(1, "x");
        break;
      case 2:
        vmm.first(9, "x");
        break;
      case 3:
        vmm.send(wire::encode(wire::Close{9, 0, 0}));
        break;
      case 4:
        vmm.open(2, "EVIL.test", 1);
        break;
      case 5:
        vmm.open_address(2, "127.1", 1);
        break;
      case 6:
        vmm.send(wire::encode(wire::Connected{1}));
        break;
      case 7:
        vmm.send({std::byte{99}});
        break;
    }
    CHECK_FALSE(vmm.next(1000));
    CHECK_FALSE(vmm.ended.empty());
    CHECK(vmm.broker->flow_count() == 0);
  }
}

TEST_CASE("when the VMM goes its connections go, but not those that it has handed on") {
  Listener server;
  Vmm vmm({fmt::format("git.test:{}", server.port)});
  vmm.resolver.addresses["git.test"] = {kLocal};
  vmm.open(1, "git.test", server.port);
  std::optional<Answer> answer = vmm.next();
  REQUIRE(answer);
  Fd far = server.accept();
  answer->stream.reset();
  vmm.socket.reset();
  for (int i = 0; i < 5; i++) good(vmm.loop->run_once(10));
  CHECK(vmm.ended == "the VMM has gone");
  CHECK(received(far, 1).empty());
}

TEST_CASE("what the VMM has refused by itself is in the log, and the policy with each change") {
  Vmm vmm({"allowed.test", "*.wild.test:443"});
  vmm.send(wire::encode(wire::Denied{"evil.test", "", 0}));
  vmm.send(wire::encode(wire::Denied{"", "1.1.1.1", 853}));
  good(vmm.loop->run_once(50));
  vmm.broker->set_policy(Policy::all());
  std::string text = vmm.log_text();
  CHECK(event_log::verify(text)->lines == 4);
  CHECK(text.find(R"("event":"policy","count":2,"rules":"*.wild.test:443 allowed.test")") !=
        std::string::npos);
  CHECK(text.find(R"("event":"deny","name":"evil.test","address":"","port":0,"reason":"lookup)") !=
        std::string::npos);
  CHECK(text.find(R"("event":"deny","name":"","address":"1.1.1.1","port":853,"reason":"policy)") !=
        std::string::npos);
  CHECK(text.find(R"("count":0,"rules":"*")") != std::string::npos);
  // A VMM that says what it may not is not listened to any more.
  vmm.send(wire::encode(wire::Denied{"Evil.Test", "", 0}));
  CHECK_FALSE(vmm.next());
  CHECK(vmm.ended == "a name that is none");
}

TEST_CASE("a connection that is cut is refused before its stream ends") {
  Listener server;
  std::vector<std::string> patterns{"127.0.0.1:" + std::to_string(server.port)};
  Vmm vmm(patterns);
  for (uint32_t flow = 1; flow < 50; flow++) {
    vmm.open_address(flow, "127.0.0.1", server.port);
    std::optional<Answer> answer = vmm.next();
    REQUIRE(answer);
    REQUIRE(answer->type == wire::MessageType::kReady);
    Fd far = server.accept();
    // Another thread sees the end as early as can be, and looks what the broker has said by then.
    std::optional<bool> was_refused;
    std::thread watcher([&] {
      char byte;
      while (::recv(answer->stream.get(), &byte, 1, 0) < 0 && errno == EAGAIN) {
      }
      std::array<char, 64> message;
      was_refused = ::recv(vmm.socket.get(), message.data(), message.size(), MSG_DONTWAIT) > 0;
    });
    vmm.broker->set_policy(Policy());
    watcher.join();
    CHECK(was_refused == true);
    vmm.broker->set_policy(Policy::parse(patterns).value());
    vmm.send(wire::encode(wire::Close{flow, 0, 0}));
  }
}

TEST_CASE("a log that is full ends everything") {
  Listener server;
  Fd file(::memfd_create("log", MFD_CLOEXEC));
  Vmm vmm({"127.0.0.1:" + std::to_string(server.port)});
  vmm.log.emplace(event_log::EventLog::open(vmm.log_fd.duplicate().value(), 2000).value());
  std::vector<Fd> streams;
  for (uint32_t flow = 1; flow < 20; flow++) {
    vmm.open_address(flow, "127.0.0.1", server.port);
    std::optional<Answer> answer = vmm.next();
    if (!answer) break;
    CHECK(answer->type == wire::MessageType::kReady);
    streams.push_back(std::move(answer->stream));
  }
  CHECK(vmm.ended == "recording a decision: the event log is full");
  CHECK(vmm.broker->flow_count() == 0);
  CHECK(streams.size() >= 2);
  CHECK(event_log::verify(vmm.log_text()).has_value());
}
