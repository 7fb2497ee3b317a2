// Ports of the emulated machine on this host, by the QEMU Machine Protocol (QMP) on the socket
// `monitor` in the machine's folder.
#pragma once

#include <cstdint>
#include <string>

namespace hutch::cli {

// Leads a TCP port of this host to the same port of the machine, as long as it lives.
class PortForward {
 public:
  // `address` is an IPv4 address of this host. The machine runs. Throws a Failure.
  PortForward(const std::string& address, uint16_t port);
  ~PortForward();
  PortForward(const PortForward&) = delete;
  PortForward& operator=(const PortForward&) = delete;

 private:
  std::string rule_;
  bool added_ = false;
};

// Where QEMU listens for it.
std::string monitor_path();

}  // namespace hutch::cli
