#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

namespace hutch::cli {

WindowSize window_size() {
  for (int fd : {STDOUT_FILENO, STDIN_FILENO, STDERR_FILENO}) {
    winsize size{};
    if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0)
      return {size.ws_row, size.ws_col};
  }
  return {};
}

bool is_foreground_terminal(int fd) {
  return ::isatty(fd) == 1 && ::tcgetpgrp(fd) == ::getpgrp();
}

RawMode RawMode::enter() {
  RawMode mode;
  termios settings{};
  if (!is_foreground_terminal(STDIN_FILENO) || ::tcgetattr(STDIN_FILENO, &settings) < 0)
    return mode;
  termios raw = settings;
  ::cfmakeraw(&raw);
  if (::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0) mode.before_ = settings;
  return mode;
}

void RawMode::leave() {
  if (before_) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &*before_);
  before_.reset();
}

}  // namespace hutch::cli
