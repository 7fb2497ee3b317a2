// The resolver against a DNS server that this test plays on a loopback address.
#include "broker/resolver.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <map>
#include <optional>

#include "base/sys.h"

using namespace hutch;
using namespace hutch::broker;

namespace {

using Bytes = std::vector<uint8_t>;

// Answers questions for addresses with those of their version that it is told, all else with
// nothing; other names do not exist.
class DnsServer {
 public:
  explicit DnsServer(Loop& loop) : socket_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&name), sizeof name) == 0);
    socklen_t size = sizeof name;
    ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&name), &size);
    address = fmt::format("127.0.0.1:{}", ntohs(name.sin_port));
    watch_ = loop.watch(socket_.get(), EPOLLIN, [this](uint32_t) { answer(); }).value();
  }

  std::string address;
  std::map<std::string, std::vector<std::string>> names;
  std::vector<std::string> asked;
  bool is_silent = false;

 private:
  void answer() {
    std::array<uint8_t, 512> query;
    sockaddr_in from{};
    socklen_t from_size = sizeof from;
    ssize_t size = ::recvfrom(socket_.get(), query.data(), query.size(), 0,
                              reinterpret_cast<sockaddr*>(&from), &from_size);
    if (size < 12) return;
    std::string name;
    size_t at = 12;
    while (query[at] != 0) {
      if (!name.empty()) name += '.';
      name.append(reinterpret_cast<char*>(&query[at + 1]), query[at]);
      at += 1u + query[at];
    }
    asked.push_back(name);
    if (is_silent) return;
    int type = query[at + 2];
    size_t question_end = at + 5;
    auto found = names.find(name);
    std::vector<IpAddress> answers;
    if (found != names.end())
      for (const std::string& text : found->second)
        if (IpAddress known = *IpAddress::parse(text); type == (known.is_v4() ? 1 : 28))
          answers.push_back(known);
    Bytes reply(query.begin(), query.begin() + static_cast<std::ptrdiff_t>(question_end));
    reply[2] = 0x81;
    reply[3] = static_cast<uint8_t>(0x80 | (found == names.end() ? 3 : 0));
    reply[7] = static_cast<uint8_t>(answers.size());
    reply[8] = reply[9] = reply[10] = reply[11] = 0;
    for (const IpAddress& known : answers) {
      for (int byte :
           {0xc0, 12, 0, type, 0, 1, 0, 0, 0, 60, 0, static_cast<int>(known.bytes().size())})
        reply.push_back(static_cast<uint8_t>(byte));
      for (uint8_t byte : known.bytes()) reply.push_back(byte);
    }
    ::sendto(socket_.get(), reply.data(), reply.size(), 0, reinterpret_cast<sockaddr*>(&from),
             from_size);
  }

  Fd socket_;
  Watch watch_;
};

struct Fixture {
  explicit Fixture(bool ipv6 = false)
      : resolver(make_dns_resolver(*loop, {server.address}, ipv6).value()) {}
  std::unique_ptr<Loop> loop = Loop::create().value();
  DnsServer server{*loop};
  std::unique_ptr<Resolver> resolver;

  std::optional<std::vector<std::string>> resolve(const std::string& name) {
    std::optional<std::vector<std::string>> answer;
    std::unique_ptr<Question> question =
        resolver->resolve(name, [&](const std::vector<IpAddress>& found) {
          answer.emplace();
          for (const IpAddress& address : found) answer->push_back(address.text());
        });
    CHECK_FALSE(answer);  // never from inside the call
    for (int i = 0; i < 500 && !answer; i++) REQUIRE(loop->run_once(10).has_value());
    return answer;
  }
};

}  // namespace

TEST_CASE("a name has the addresses that its server says") {
  Fixture fixture;
  fixture.server.names["allowed.test"] = {"93.184.216.34", "10.0.0.1"};
  CHECK(fixture.resolve("allowed.test") == std::vector<std::string>{"93.184.216.34", "10.0.0.1"});
  CHECK(fixture.resolve("other.test") == std::vector<std::string>{});
  fixture.server.names["empty.test"] = {};
  CHECK(fixture.resolve("empty.test") == std::vector<std::string>{});
  // Each was asked for as it is, and under no search domain.
  for (const std::string& name : fixture.server.asked)
    CHECK((name == "allowed.test" || name == "other.test" || name == "empty.test"));
}

TEST_CASE("with version 6, addresses of both come by turns, and without it only those of 4") {
  std::vector<std::string> both{"203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8::1",
                                "2001:db8::2"};
  {
    Fixture fixture(true);
    fixture.server.names["both.test"] = both;
    fixture.server.names["four.test"] = {"203.0.113.1"};
    fixture.server.names["six.test"] = {"2001:db8::1"};
    CHECK(fixture.resolve("both.test") == std::vector<std::string>{"2001:db8::1", "203.0.113.1",
                                                                   "2001:db8::2", "203.0.113.2",
                                                                   "203.0.113.3"});
    CHECK(fixture.resolve("four.test") == std::vector<std::string>{"203.0.113.1"});
    CHECK(fixture.resolve("six.test") == std::vector<std::string>{"2001:db8::1"});
    CHECK(fixture.resolve("other.test") == std::vector<std::string>{});
  }
  Fixture fixture;
  fixture.server.names["both.test"] = both;
  CHECK(fixture.resolve("both.test") ==
        std::vector<std::string>{"203.0.113.1", "203.0.113.2", "203.0.113.3"});
}

TEST_CASE("the hosts file is not asked") {
  Fixture fixture;
  char name[256] = {};
  REQUIRE(::gethostname(name, sizeof name - 1) == 0);
  for (const std::string& known : {std::string("ip6-localhost"), std::string(name)}) {
    fixture.server.names[known] = {"203.0.113.9"};
    CHECK(fixture.resolve(known) == std::vector<std::string>{"203.0.113.9"});
  }
}

TEST_CASE(
    "a question that is dropped is not answered, and neither is one of a resolver that is gone") {
  Fixture fixture;
  fixture.server.is_silent = true;
  bool was_answered = false;
  auto done = [&](const std::vector<IpAddress>&) { was_answered = true; };
  fixture.resolver->resolve("allowed.test", done).reset();
  std::unique_ptr<Question> kept = fixture.resolver->resolve("allowed.test", done);
  for (int i = 0; i < 10; i++) REQUIRE(fixture.loop->run_once(5).has_value());
  CHECK(fixture.server.asked.size() == 1);
  kept.reset();
  fixture.resolver.reset();
  for (int i = 0; i < 10; i++) REQUIRE(fixture.loop->run_once(5).has_value());
  CHECK_FALSE(was_answered);
}

TEST_CASE("a list of servers that is none is refused") {
  std::unique_ptr<Loop> loop = Loop::create().value();
  CHECK_FALSE(make_dns_resolver(*loop, {"not an address"}));
}
