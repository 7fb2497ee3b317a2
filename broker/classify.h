// What is spoken on a connection, and whether it names the host that the connection was made for:
// the decision that lets a flow's bytes out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "policy/policy.h"

namespace hutch::broker {

// What a connection was allowed as.
struct Target {
  std::string name;  // canonical; empty: an address that a rule names
  uint16_t port = 0;
  policy::Permission permission;
};

struct Classification {
  enum class Verdict { kNeedMore, kPass, kRefuse };
  Verdict verdict = Verdict::kNeedMore;
  const char* reason = "";  // of kRefuse, and of kPass what is spoken
};

// Whether anything has to be seen before the connection may be used. No: on a port that a rule
// names beside 80 and 443, where the server may speak first, and towards an address that a rule
// names, which has no name to be checked.
bool needs_classification(const Target& target);

// `bytes`: all that the client has sent so far, guest-controlled.
//   port 443         TLS whose ClientHello names the host
//   port 80          HTTP/1 whose Host is the host
//   any other port   one of the two
Classification classify(const Target& target, std::span<const std::byte> bytes);

}  // namespace hutch::broker
