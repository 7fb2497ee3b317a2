// DnsStream: answers DNS over TCP (RFC 7766, RFC 1035 section 4.2.2) in the far side's place.
// Nothing of it leaves.
#pragma once

#include <cstddef>
#include <cstdint>

#include "net/decisions.h"
#include "net/far_end.h"

namespace hutch::net {

class DnsStream final : public FarEnd {
 public:
  // No query of a known type comes near this.
  static constexpr size_t kMaxQuery = 2048;
  static constexpr size_t kMaxAnswer = 8192;

  // `responder` must outlive it.
  explicit DnsStream(DnsResponder& responder) : responder_(responder) {}

  size_t take(std::span<const std::byte>) override { return 0; }
  void pump(TcpFlow& flow, uint64_t now_ns) override;
  bool is_over() const override { return is_over_; }
  void cut() override {}

 private:
  bool answer_one(TcpFlow& flow, uint64_t now_ns);

  DnsResponder& responder_;
  std::vector<std::byte> answer_;  // what the flow has had no room for yet
  size_t answered_ = 0;
  bool is_over_ = false;
};

}  // namespace hutch::net
