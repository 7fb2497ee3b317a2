// Failure: why a verb could not do what it was asked, with the exit code of the program.
//
// Exit codes: a command's own code passes through; else 125 our failure, 126 the command cannot be
// executed, 127 it does not exist, 124 its deadline passed, 128+n it was ended by signal n, 2 wrong
// usage.
#pragma once

#include <hutch.h>

#include <exception>
#include <string>

#include "base/result.h"

namespace hutch::cli {

constexpr int kExitUsage = 2;
constexpr int kExitDeadline = 124;
constexpr int kExitFailure = 125;
constexpr int kExitNotExecutable = 126;
constexpr int kExitNotFound = 127;
constexpr int kExitSignal = 128;

class Failure : public std::exception {
 public:
  Failure(int exit_code, std::string code, std::string message, std::string hint = {});
  // Our own failure, 125.
  Failure(std::string code, std::string message, std::string hint = {});
  explicit Failure(const Error& error, std::string code = "host");

  const char* what() const noexcept override { return message_.c_str(); }
  int exit_code() const { return exit_code_; }
  // The last lines of a console, shown below the message; guest-controlled, already made plain.
  Failure&& with_console(std::string_view tail) &&;

  // On standard error: one JSON envelope, or `hutch: message (hint)`.
  void print(bool json) const;

 private:
  int exit_code_;
  std::string code_;  // for programs
  std::string message_;
  std::string hint_;
  std::string console_;
};

// Throws what a function of libhutch reported; frees it.
[[noreturn]] void throw_error(hutch_error* error);

// One line on standard error: `hutch: text`.
void notice(std::string_view text);

// The value of a Result, or a Failure.
template <typename T>
T value_or_throw(Result<T> result) {
  if (!result) throw Failure(result.error());
  return detail::take(std::move(result));
}

}  // namespace hutch::cli
