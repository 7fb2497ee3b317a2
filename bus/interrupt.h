// Interrupt: what a device raises. A device never knows how it reaches the guest.
#pragma once

namespace hutch {

// An edge: each raise() is one interrupt. Any thread.
class Interrupt {
 public:
  virtual ~Interrupt() = default;
  virtual void raise() = 0;
};

}  // namespace hutch
