#include "control/shells.h"

#include <unistd.h>

#include <chrono>
#include <utility>

#include "base/log.h"

namespace hutch::control {
namespace {
constexpr std::chrono::milliseconds kLater{20};
}

Shells::Shells(boost::asio::io_context& context, size_t size, const artefacts::Parts& parts)
    : timer_(context), size_(size), parts_(parts) {
  refill();
}

hutch_shell* Shells::take() {
  if (ready_.empty()) return nullptr;
  hutch_shell* shell = ready_.front().release();
  ready_.pop_front();
  return shell;
}

void Shells::refill_soon() {
  if (std::exchange(is_due_, true)) return;
  timer_.expires_after(kLater);
  timer_.async_wait([this](boost::system::error_code error) {
    if (error) return;
    is_due_ = false;
    refill();
  });
}

void Shells::refill() {
  while (ready_.size() < size_) {
    hutch_shell_options options{};
    options.size = sizeof options;
    options.vmm_path = parts_.vmm.c_str();
    options.log_fd = STDERR_FILENO;
    options.end_with_thread = 1;
    hutch_shell* shell = nullptr;
    hutch_error* error = nullptr;
    if (hutch_shell_start(&options, &shell, &error) != HUTCH_OK) {
      log_warning("no process is kept ready: {}", hutch_error_message(error));
      hutch_error_free(error);
      return;
    }
    ready_.emplace_back(shell);
  }
}

}  // namespace hutch::control
