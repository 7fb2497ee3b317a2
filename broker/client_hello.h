// The name in the first message of a TLS connection: ClientHello (RFC 8446 section 4.1.2, the same
// in TLS 1.2) with server_name (RFC 6066 section 3), out of records (RFC 8446 section 5.1).
//
// Every byte is guest-controlled. The whole message is read, over however many records and segments
// it comes, and anything that two readers could take for different things is broken.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace hutch::broker {

// A ClientHello and its records; with post-quantum keys and padding real ones have a few KiB.
inline constexpr size_t kMaxClientHello = 64 * 1024;

struct ClientHello {
  enum class State {
    kIncomplete,  // more bytes may make it whole
    kWhole,
    kBroken,
  };
  State state = State::kIncomplete;
  // Of a whole one: the name as the client wrote it, not checked in any way; empty: it has none.
  std::string server_name;
};

// `bytes` is all that the client has sent so far.
ClientHello read_client_hello(std::span<const std::byte> bytes);

}  // namespace hutch::broker
