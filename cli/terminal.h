// The terminal that the program was started in.
#pragma once

#include <termios.h>

#include <cstdint>
#include <optional>
#include <utility>

namespace hutch::cli {

struct WindowSize {
  uint16_t rows = 24, columns = 80;
};
// Of the first of standard output, input and error that is a terminal.
WindowSize window_size();

// `fd` is a terminal and this process is in its foreground, so that using it does not stop us.
bool is_foreground_terminal(int fd);

// Standard input in raw mode as long as the object lives.
class RawMode {
 public:
  RawMode() = default;
  // Switches when standard input is a terminal in our foreground; else does nothing.
  static RawMode enter();
  RawMode(RawMode&& other) noexcept : before_(std::exchange(other.before_, std::nullopt)) {}
  RawMode& operator=(RawMode&& other) noexcept {
    leave();
    before_ = std::exchange(other.before_, std::nullopt);
    return *this;
  }
  ~RawMode() { leave(); }
  void leave();
  bool is_active() const { return before_.has_value(); }

 private:
  std::optional<termios> before_;
};

}  // namespace hutch::cli
