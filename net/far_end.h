// FarEnd: what a flow's bytes go to and come from. Either a stream socket (stream.h) or the DNS
// responder (dns_stream.h).
#pragma once

#include "net/tcp_flow.h"

namespace hutch::net {

class FarEnd : public ByteSink {
 public:
  // Carries bytes and ends both ways, as far as it goes without waiting.
  virtual void pump(TcpFlow& flow, uint64_t now_ns) = 0;
  // Both its directions are over, and the flow has no more use for it.
  virtual bool is_over() const = 0;
  // The flow was cut: what is at the other end hears so too, if there is a way. Before it is
  // dropped.
  virtual void cut() = 0;
};

}  // namespace hutch::net
