// Backend: the far end of the guest's network cable. It plays the gateway (ARP, DHCP, DNS, ping),
// ends the guest's TCP connections and carries their bytes over stream sockets; everything else is
// dropped, and counted by its reason.
//
// What the guest may reach is decided by others (flow_opener.h, decisions.h); where nobody says
// yes, the answer is no. Belongs to one loop, the device's.
#pragma once

#include <functional>

#include "base/frames.h"
#include "base/loop.h"
#include "net/counters.h"
#include "net/decisions.h"
#include "net/flow_opener.h"
#include "net/icmp.h"
#include "net/link.h"
#include "net/packet.h"
#include "net/tcp_service.h"

namespace hutch::net {

class Backend final : public FrameReceiver {
 public:
  // Who decides; all must outlive the backend.
  struct Deciders {
    FlowOpener& opener;
    NameLookup& names;
    LiteralPolicy& literals;
    DnsResponder& dns;
  };

  // Loop and device must outlive it. `ipv6`: the guest has an address of version 6, too; else
  // nothing of that version passes.
  Backend(Loop& loop, FrameSender& device, const Deciders& deciders, TcpOptions options = {},
          bool ipv6 = false);

  void on_frame(std::span<const std::byte> frame, const FrameOffload& offload) override;
  void on_batch_end() override;
  void on_room() override;

  // After a change of policy: resets the flows whose target `is_cut` holds for; returns how many.
  size_t close_where(const std::function<bool(const FlowTarget&)>& is_cut);
  // When the device was reset: resets all flows. The guest hears of those that it still knows when
  // it next uses them.
  void reset_all();
  // For a snapshot, and after a restore: TcpService::remains(), reset_remains().
  std::vector<FlowRemains> remains() { return tcp_.remains(); }
  Result<void> reset_remains(const std::vector<FlowRemains>& remains) {
    return tcp_.reset_remains(remains);
  }

  const Counters& counters() const { return counters_; }
  const TcpService& tcp() const { return tcp_; }

 private:
  void on_arp(const EthernetFrame& frame);
  void on_ipv4(const EthernetFrame& frame, const FrameOffload& offload);
  void on_ipv6(const EthernetFrame& frame, const FrameOffload& offload);
  void on_udp(const IpPacket& packet, const UdpPacket& datagram);
  void on_dhcp(const UdpPacket& datagram);
  void on_dns(const IpPacket& packet, const UdpPacket& datagram);

  const std::function<uint64_t()> clock_;
  const bool ipv6_;
  Counters counters_;
  Link link_;
  DnsResponder& dns_;
  Icmp icmp_;
  TcpService tcp_;
};

}  // namespace hutch::net
