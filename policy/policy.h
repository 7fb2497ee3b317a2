// Policy: which hosts a sandbox may reach. One grammar and one matcher, for the server that takes
// policies from clients, the VMM that decides about names and flows, and the broker that decides
// again.
//
//   host          that name, at any port              *.host   any name below it, at any depth,
//   1.2.3.4       that address                                 but not the host itself
//   [2001:db8::1] that address                        each may end with :port
//
// Port 80 and 443 carry HTTP and TLS, and so does every port that no rule names: only on a port
// that a rule names other protocols may be spoken.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ip_address.h"
#include "base/result.h"

namespace hutch::policy {

inline constexpr size_t kMaxRules = 1024;
// Of all patterns together: what a message of one packet holds.
inline constexpr size_t kMaxPatternBytes = 64 * 1024;

// What is allowed, by which rule.
struct Permission {
  std::string rule;         // in its one form; "*" where all is allowed
  bool names_port = false;  // the rule has a port
};

class Policy {
 public:
  // Nothing is allowed.
  Policy() = default;
  // Every name and every address is, as far as the floor lets it.
  static Policy all();
  // Errors name the pattern and what is wrong with it, for whoever wrote it.
  static Result<Policy> parse(std::span<const std::string> patterns);

  bool allows_all() const { return allows_all_; }
  // Nothing is allowed.
  bool is_empty() const { return !allows_all_ && rules_.empty(); }
  // Whether a name, in its canonical form, may be reached at some port: whether it exists for the
  // guest.
  bool knows(std::string_view name) const;
  // Whether the name or address may be reached at this port. A rule with the port goes before one
  // without.
  std::optional<Permission> allows(std::string_view name, uint16_t port) const;
  std::optional<Permission> allows(const IpAddress& address, uint16_t port) const;
  // The rules in their one form, sorted, each once; parse() gives the same policy of them.
  std::vector<std::string> patterns() const;

  bool operator==(const Policy&) const = default;

 private:
  struct Rule {
    std::string name;  // canonical; empty: the address counts
    bool is_wildcard = false;
    IpAddress address;
    uint16_t port = 0;  // 0: any

    bool matches(std::string_view name_wanted) const;
    std::string text() const;
    bool operator==(const Rule&) const = default;
  };
  static Result<Rule> parse_rule(const std::string& pattern);
  template <typename Matches>
  std::optional<Permission> find(uint16_t port, const Matches& matches) const;

  bool allows_all_ = false;
  std::vector<Rule> rules_;
};

}  // namespace hutch::policy
