#include "cli/failure.h"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/sys.h"

namespace hutch::cli {
namespace {

// A standard error that cannot be written to must not change the exit code.
void write_stderr(std::string_view text) {
  (void)write_all(STDERR_FILENO, std::as_bytes(std::span(text)));
}

}  // namespace

Failure::Failure(int exit_code, std::string code, std::string message, std::string hint)
    : exit_code_(exit_code),
      code_(std::move(code)),
      message_(std::move(message)),
      hint_(std::move(hint)) {}

Failure::Failure(std::string code, std::string message, std::string hint)
    : Failure(kExitFailure, std::move(code), std::move(message), std::move(hint)) {}

Failure::Failure(const Error& error, std::string code)
    : Failure(kExitFailure, std::move(code), error.message, error.remedy) {}

Failure&& Failure::with_console(std::string_view tail) && {
  console_ = tail;
  while (!console_.empty() && console_.back() == '\n') console_.pop_back();
  return std::move(*this);
}

void Failure::print(bool json) const {
  if (json) {
    nlohmann::ordered_json error{{"code", code_}, {"message", message_}, {"hint", hint_}};
    if (!console_.empty()) error["console"] = console_;
    nlohmann::ordered_json envelope{{"error", error}};
    // Bytes that are no UTF-8, such as a file's name, are replaced.
    write_stderr(envelope.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    return;
  }
  std::string text = "hutch: " + message_;
  if (!hint_.empty()) text += " (" + hint_ + ")";
  text += '\n';
  if (!console_.empty()) {
    text += "hutch: the last lines of the console:\n";
    for (size_t start = 0; start <= console_.size();) {
      size_t end = std::min(console_.find('\n', start), console_.size());
      text += "  | " + console_.substr(start, end - start) + "\n";
      start = end + 1;
    }
  }
  write_stderr(text);
}

void throw_error(hutch_error* error) {
  Failure failure(hutch_error_name(error), hutch_error_message(error), hutch_error_remedy(error));
  hutch_error_free(error);
  throw failure;
}

void notice(std::string_view text) {
  write_stderr(fmt::format("hutch: {}\n", text));
}

}  // namespace hutch::cli
