#include "policy/policy.h"

#include <algorithm>
#include <charconv>

#include "policy/host_name.h"

namespace hutch::policy {
namespace {

constexpr size_t kMaxPattern = 512;

// For an error: without what a terminal or a log would act on, and not too long.
std::string quoted(std::string_view pattern) {
  std::string text = "\"";
  for (char c : pattern.substr(0, 80)) text += c >= ' ' && c <= '~' && c != '"' ? c : '?';
  return text + (pattern.size() > 80 ? "...\"" : "\"");
}

tl::unexpected<Error> bad(std::string_view pattern, std::string_view why) {
  return fail(fmt::format("{} {}", quoted(pattern), why),
              "write example.com, *.example.com, 203.0.113.5 or [2001:db8::1], each with or "
              "without :port");
}

std::optional<uint16_t> parse_port(std::string_view text) {
  uint16_t port = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || port == 0 || text[0] == '0')
    return std::nullopt;
  return port;
}

// One name for this machine, whatever a resolver makes of it (RFC 6761 section 6.3).
bool is_local(std::string_view name) {
  return name == "localhost" || name.ends_with(".localhost");
}

}  // namespace

bool Policy::Rule::matches(std::string_view wanted) const {
  if (name.empty()) return false;
  if (!is_wildcard) return wanted == name;
  return wanted.size() > name.size() + 1 && wanted.ends_with(name) &&
         wanted[wanted.size() - name.size() - 1] == '.';
}

std::string Policy::Rule::text() const {
  std::string text = is_wildcard ? "*." + name : name;
  if (name.empty()) text = address.is_v4() ? address.text() : "[" + address.text() + "]";
  return port == 0 ? text : fmt::format("{}:{}", text, port);
}

Result<Policy::Rule> Policy::parse_rule(const std::string& pattern) {
  if (pattern.empty()) return bad(pattern, "is empty: an empty list allows nothing");
  if (pattern.size() > kMaxPattern) return bad(pattern, "is too long");
  Rule rule;
  std::string_view host = pattern;
  size_t bracket = host.find(']');
  bool is_v6 = host.front() == '[';
  if (is_v6 && bracket == std::string_view::npos) return bad(pattern, "lacks a ]");
  size_t colon =
      is_v6 ? (bracket + 1 < host.size() ? bracket + 1 : std::string_view::npos) : host.find(':');
  if (colon != std::string_view::npos) {
    if (host[colon] != ':') return bad(pattern, "has something behind the ]");
    std::string_view text = host.substr(colon + 1);
    if (!is_v6 && text.find(':') != std::string_view::npos)
      return bad(pattern, "has more than one colon; an IPv6 address stands in brackets");
    std::optional<uint16_t> port = parse_port(text);
    if (!port) return bad(pattern, "has no port of 1 to 65535 behind the colon");
    rule.port = *port;
    host = host.substr(0, colon);
  }
  if (is_v6) {
    std::optional<IpAddress> address = IpAddress::parse(host.substr(1, host.size() - 2));
    if (!address || address->is_v4()) return bad(pattern, "holds no IPv6 address");
    rule.address = *address;
    return rule;
  }
  if (std::optional<IpAddress> address = IpAddress::parse(host)) {
    rule.address = *address;
    return rule;
  }
  if (host == "*") return bad(pattern, "would allow every host; a * stands before a domain");
  rule.is_wildcard = host.starts_with("*.");
  if (rule.is_wildcard) host.remove_prefix(2);
  if (host.find('*') != std::string_view::npos)
    return bad(pattern, "has a * elsewhere than at its beginning, followed by a dot");
  if (host.find('/') != std::string_view::npos)
    return bad(pattern, "has a /: it is a host, not a URL, and address ranges are not taken");
  // One final dot is the canonical form's own business, but no pattern needs it.
  std::optional<std::string> name = canonical_host_name(host);
  if (!name || host.ends_with('.')) return bad(pattern, "is neither a host name nor an address");
  if (rule.is_wildcard && name->find('.') == std::string::npos)
    return bad(pattern, "would allow a whole top-level domain");
  if (is_local(*name)) return bad(pattern, "is this machine, which no sandbox reaches");
  rule.name = *std::move(name);
  return rule;
}

Policy Policy::all() {
  Policy policy;
  policy.allows_all_ = true;
  return policy;
}

Result<Policy> Policy::parse(std::span<const std::string> patterns) {
  if (patterns.size() > kMaxRules)
    return fail(fmt::format("{} hosts are more than {}", patterns.size(), kMaxRules),
                "allow a domain with *.domain");
  size_t size = 0;
  for (const std::string& pattern : patterns) size += pattern.size();
  if (size > kMaxPatternBytes)
    return fail(fmt::format("the hosts together are more than {} bytes", kMaxPatternBytes),
                "allow a domain with *.domain");
  Policy policy;
  for (const std::string& pattern : patterns) policy.rules_.push_back(TRY(parse_rule(pattern)));
  std::sort(policy.rules_.begin(), policy.rules_.end(),
            [](const Rule& left, const Rule& right) { return left.text() < right.text(); });
  policy.rules_.erase(std::unique(policy.rules_.begin(), policy.rules_.end()), policy.rules_.end());
  return policy;
}

template <typename Matches>
std::optional<Permission> Policy::find(uint16_t port, const Matches& matches) const {
  if (allows_all_) return Permission{"*", false};
  const Rule* found = nullptr;
  for (const Rule& rule : rules_)
    if ((rule.port == port || rule.port == 0) && matches(rule) &&
        (found == nullptr || rule.port != 0))
      found = &rule;
  if (found == nullptr) return std::nullopt;
  return Permission{found->text(), found->port != 0};
}

bool Policy::knows(std::string_view name) const {
  if (is_local(name)) return false;
  return allows_all_ || std::any_of(rules_.begin(), rules_.end(),
                                    [&](const Rule& rule) { return rule.matches(name); });
}

std::optional<Permission> Policy::allows(std::string_view name, uint16_t port) const {
  if (is_local(name) || port == 0) return std::nullopt;
  return find(port, [&](const Rule& rule) { return rule.matches(name); });
}

std::optional<Permission> Policy::allows(const IpAddress& address, uint16_t port) const {
  if (port == 0) return std::nullopt;
  return find(port, [&](const Rule& rule) { return rule.name.empty() && rule.address == address; });
}

std::vector<std::string> Policy::patterns() const {
  std::vector<std::string> texts;
  for (const Rule& rule : rules_) texts.push_back(rule.text());
  return texts;
}

}  // namespace hutch::policy
