// Problem: why a request is refused, as its client sees it: an HTTP status, a code for programs and
// a sentence for people (the client's ApiError and ConnectionEstablishmentError).
#pragma once

#include <exception>
#include <string>

namespace hutch::control {

class Problem : public std::exception {
 public:
  // `message` never holds a token, a secret or the value of a variable: it may be logged. `allowed`
  // are the methods that there are instead, with 405.
  Problem(int status, std::string code, std::string message, std::string allowed = {})
      : status_(status),
        code_(std::move(code)),
        message_(std::move(message)),
        allowed_(std::move(allowed)) {}

  const char* what() const noexcept override { return message_.c_str(); }
  int status() const { return status_; }
  const std::string& code() const { return code_; }
  const std::string& message() const { return message_; }
  const std::string& allowed() const { return allowed_; }
  // {"code": ..., "message": ...}
  std::string json() const;

 private:
  int status_;
  std::string code_;
  std::string message_;
  std::string allowed_;
};

// The same answer for what is not there and what is another organisation's.
Problem sandbox_not_found();
// What was asked for wants a network, and the sandbox was made without one.
Problem no_network();

}  // namespace hutch::control
