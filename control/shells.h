// Shells: VMM processes with an empty VM in them, kept ready so that a sandbox does not wait for
// the kernel to make them. No guest has been in one, and each is used once.
#pragma once

#include <hutch.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstddef>
#include <deque>
#include <memory>

#include "artefacts/artefacts.h"

namespace hutch::control {

class Shells {
 public:
  // Starts `size` of them; both must outlive it. They end with the calling thread.
  Shells(boost::asio::io_context& context, size_t size, const artefacts::Parts& parts);
  // The caller's, to be given to hutch_vm_start; null: there is none.
  hutch_shell* take();
  // Makes up for those that were taken, a little later: not in the way of the first command of the
  // sandbox that took one. What fails is logged, and tried again at the next call.
  void refill_soon();

 private:
  void refill();

  struct Free {
    void operator()(hutch_shell* shell) const { hutch_shell_free(shell); }
  };
  boost::asio::steady_timer timer_;
  bool is_due_ = false;
  const size_t size_;
  const artefacts::Parts& parts_;
  std::deque<std::unique_ptr<hutch_shell, Free>> ready_;
};

}  // namespace hutch::control
