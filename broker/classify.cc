#include "broker/classify.h"

#include "broker/client_hello.h"
#include "broker/http_head.h"
#include "policy/host_name.h"

namespace hutch::broker {
namespace {

constexpr uint16_t kHttpPort = 80;
constexpr uint16_t kTlsPort = 443;
constexpr std::byte kTlsHandshake{22};

Classification refuse(const char* reason) {
  return {Classification::Verdict::kRefuse, reason};
}

Classification classify_tls(const Target& target, std::span<const std::byte> bytes) {
  ClientHello hello = read_client_hello(bytes);
  if (hello.state == ClientHello::State::kIncomplete) return {};
  if (hello.state == ClientHello::State::kBroken) return refuse("not TLS");
  if (hello.server_name.empty()) return refuse("TLS without a name");
  if (policy::canonical_host_name(hello.server_name) != target.name)
    return refuse("TLS for another name");
  return {Classification::Verdict::kPass, "TLS"};
}

Classification classify_http(const Target& target, std::span<const std::byte> bytes) {
  HttpHead head = read_http_head(bytes);
  if (head.state == HttpHead::State::kIncomplete) return {};
  if (head.state == HttpHead::State::kBroken) return refuse("not HTTP");
  uint16_t port = head.port == 0 ? kHttpPort : head.port;
  if (policy::canonical_host_name(head.host) != target.name || port != target.port)
    return refuse("HTTP for another host");
  return {Classification::Verdict::kPass, "HTTP"};
}

}  // namespace

bool needs_classification(const Target& target) {
  if (target.name.empty()) return false;
  return !target.permission.names_port || target.port == kHttpPort || target.port == kTlsPort;
}

Classification classify(const Target& target, std::span<const std::byte> bytes) {
  if (!needs_classification(target)) return {Classification::Verdict::kPass, "a port of a rule"};
  if (bytes.empty()) return {};
  if (target.port == kTlsPort) return classify_tls(target, bytes);
  if (target.port == kHttpPort) return classify_http(target, bytes);
  if (bytes.front() == kTlsHandshake) return classify_tls(target, bytes);
  if (may_be_http(bytes)) return classify_http(target, bytes);
  return refuse("neither TLS nor HTTP on a port that no rule names");
}

}  // namespace hutch::broker
