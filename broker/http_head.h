// The host of an HTTP/1 request: its request line and header fields (RFC 9112 sections 2 to 5).
//
// Every byte is guest-controlled. Stricter than the RFC lets a server be: what servers read
// differently (bare line feeds, folded lines, white space around names, several Hosts, an absolute
// target that says otherwise) is broken.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace hutch::broker {

inline constexpr size_t kMaxHttpHead = 64 * 1024;

struct HttpHead {
  enum class State {
    kIncomplete,  // more bytes may make it whole
    kWhole,
    kBroken,
  };
  State state = State::kIncomplete;
  // Of a whole one: the request's authority, as the client wrote it.
  std::string host;   // without the port
  uint16_t port = 0;  // 0: none is said
};

// `bytes` is all that the client has sent so far.
HttpHead read_http_head(std::span<const std::byte> bytes);
// Whether the bytes may be the beginning of a request: a method in capitals.
bool may_be_http(std::span<const std::byte> bytes);

}  // namespace hutch::broker
