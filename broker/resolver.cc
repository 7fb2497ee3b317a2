#include "broker/resolver.h"

#include <ares.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>

namespace hutch::broker {
namespace {

constexpr int kTimeoutMs = 2000;
constexpr int kTries = 3;
constexpr size_t kMaxAddresses = 16;

tl::unexpected<Error> fail_ares(int status, const char* what) {
  return fail(fmt::format("{}: {}", what, ::ares_strerror(status)));
}

// What c-ares calls back for: whoever asked may have gone.
struct Pending {
  std::function<void(std::vector<IpAddress>)> done;
};

class DnsQuestion final : public Question {
 public:
  explicit DnsQuestion(std::shared_ptr<Pending> pending) : pending_(std::move(pending)) {}
  ~DnsQuestion() override { pending_->done = nullptr; }

 private:
  std::shared_ptr<Pending> pending_;
};

class DnsResolver final : public Resolver {
 public:
  DnsResolver(Loop& loop, bool ipv6) : loop_(loop), family_(ipv6 ? AF_UNSPEC : AF_INET) {}
  ~DnsResolver() override {
    is_ending_ = true;
    if (channel_ != nullptr) ::ares_destroy(channel_);
  }

  Result<void> open(const std::vector<std::string>& servers) {
    static std::once_flag once;
    int initialized = ARES_SUCCESS;
    std::call_once(once, [&] { initialized = ::ares_library_init(ARES_LIB_INIT_ALL); });
    if (initialized != ARES_SUCCESS) return fail_ares(initialized, "starting c-ares");
    ares_options options{};
    // "b": DNS alone; the other choice is the hosts file.
    char lookups[] = "b";
    options.lookups = lookups;
    options.ndomains = 0;
    options.timeout = kTimeoutMs;
    options.tries = kTries;
    options.sock_state_cb = socket_changed;
    options.sock_state_cb_data = this;
    int status = ::ares_init_options(&channel_, &options,
                                     ARES_OPT_LOOKUPS | ARES_OPT_DOMAINS | ARES_OPT_TIMEOUTMS |
                                         ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB);
    if (status != ARES_SUCCESS) return fail_ares(status, "starting c-ares");
    if (servers.empty()) return {};
    std::string list;
    for (const std::string& server : servers) list += (list.empty() ? "" : ",") + server;
    status = ::ares_set_servers_ports_csv(channel_, list.c_str());
    if (status != ARES_SUCCESS) return fail_ares(status, "setting the DNS servers");
    return {};
  }

  std::unique_ptr<Question> resolve(const std::string& name,
                                    std::function<void(std::vector<IpAddress>)> done) override {
    auto pending = std::make_shared<Pending>(Pending{std::move(done)});
    // With a final dot: as it is, under no search domain.
    std::string rooted = name + ".";
    ares_addrinfo_hints hints{};
    hints.ai_family = family_;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = ARES_AI_NOSORT;
    // Later, though c-ares may know the answer at once.
    loop_.post([this, rooted, hints, pending, alive = std::weak_ptr<int>(alive_)] {
      if (alive.expired() || !pending->done) return;
      auto* given = new std::shared_ptr<Pending>(pending);
      ::ares_getaddrinfo(channel_, rooted.c_str(), nullptr, &hints, answered, given);
      set_timer();
    });
    return std::make_unique<DnsQuestion>(std::move(pending));
  }

 private:
  // The versions by turns, 6 first (RFC 8305 section 4), each in the order of the answer.
  static std::vector<IpAddress> in_order(const ares_addrinfo_node* node) {
    std::vector<IpAddress> v4, v6, all;
    for (; node != nullptr; node = node->ai_next) {
      if (node->ai_family == AF_INET) {
        sockaddr_in address;
        std::memcpy(&address, node->ai_addr, sizeof address);
        v4.push_back(IpAddress::v4(ntohl(address.sin_addr.s_addr)));
      } else if (node->ai_family == AF_INET6) {
        sockaddr_in6 address;
        std::memcpy(&address, node->ai_addr, sizeof address);
        std::array<uint8_t, 16> bytes;
        std::memcpy(bytes.data(), &address.sin6_addr, bytes.size());
        v6.push_back(IpAddress::v6(bytes));
      }
    }
    for (size_t i = 0; i < std::max(v4.size(), v6.size()); i++) {
      if (i < v6.size()) all.push_back(v6[i]);
      if (i < v4.size()) all.push_back(v4[i]);
    }
    if (all.size() > kMaxAddresses) all.resize(kMaxAddresses);
    return all;
  }

  static void answered(void* given, int status, int, ares_addrinfo* found) {
    std::unique_ptr<std::shared_ptr<Pending>> pending(
        static_cast<std::shared_ptr<Pending>*>(given));
    std::vector<IpAddress> addresses;
    if (status == ARES_SUCCESS && found != nullptr) addresses = in_order(found->nodes);
    if (found != nullptr) ::ares_freeaddrinfo(found);
    // It may drop the question in turn.
    if (auto done = std::exchange((*pending)->done, nullptr)) done(std::move(addresses));
  }

  static void socket_changed(void* self, ares_socket_t socket, int readable, int writable) {
    static_cast<DnsResolver*>(self)->watch(socket, readable != 0, writable != 0);
  }

  void watch(int socket, bool readable, bool writable) {
    watches_.erase(socket);
    if (is_ending_ || (!readable && !writable)) return;
    uint32_t events = (readable ? uint32_t{EPOLLIN} : 0) | (writable ? uint32_t{EPOLLOUT} : 0);
    Result<Watch> watch = loop_.watch(socket, events, [this, socket](uint32_t ready) {
      // What c-ares does may end this watch.
      std::weak_ptr<int> alive = alive_;
      ::ares_process_fd(channel_,
                        (ready & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0 ? socket : ARES_SOCKET_BAD,
                        (ready & EPOLLOUT) != 0 ? socket : ARES_SOCKET_BAD);
      if (!alive.expired()) set_timer();
    });
    // Without one the question ends by its time.
    if (watch) watches_[socket] = *std::move(watch);
  }

  void set_timer() {
    timeval left{};
    if (::ares_timeout(channel_, nullptr, &left) == nullptr) return timer_.reset();
    timer_ =
        loop_.after(std::chrono::seconds(left.tv_sec) + std::chrono::microseconds(left.tv_usec),
                    [this](uint32_t) {
                      std::weak_ptr<int> alive = alive_;
                      ::ares_process_fd(channel_, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
                      if (!alive.expired()) set_timer();
                    });
  }

  Loop& loop_;
  const int family_;
  ares_channel channel_ = nullptr;
  bool is_ending_ = false;
  std::map<int, Watch> watches_;
  Watch timer_;
  std::shared_ptr<int> alive_ = std::make_shared<int>();
};

}  // namespace

Result<std::unique_ptr<Resolver>> make_dns_resolver(Loop& loop,
                                                    const std::vector<std::string>& servers,
                                                    bool ipv6) {
  auto resolver = std::make_unique<DnsResolver>(loop, ipv6);
  TRY(resolver->open(servers));
  return std::unique_ptr<Resolver>(std::move(resolver));
}

}  // namespace hutch::broker
