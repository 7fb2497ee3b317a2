#include "guest-agent/rpc/failure.h"

#include <cerrno>
#include <cstring>

namespace hutch::agent::rpc {
namespace {

// What holds an error back, such as the control plane, must be able to hold it whole.
constexpr size_t kMaxText = 64 * 1024, kMaxName = 256;

std::string cut(const std::string& text, size_t most) {
  if (text.size() <= most) return text;
  return text.substr(0, most) + "...";
}

const char* class_of(int number) {
  switch (number) {
    case ENOENT:
      return "NotFound";
    case EEXIST:
      return "AlreadyExists";
    case EACCES:
    case EPERM:
      return "PermissionDenied";
    case EISDIR:
      return "IsADirectory";
    case ENOTDIR:
      return "NotADirectory";
    case ELOOP:
      return "FilesystemLoop";
    case EBADF:
      return "BadResource";
    case EPIPE:
      return "BrokenPipe";
    case ETIMEDOUT:
      return "TimedOut";
    case ECONNREFUSED:
      return "ConnectionRefused";
    case ECONNRESET:
      return "ConnectionReset";
    case EBUSY:
      return "Busy";
    case EINTR:
      return "Interrupted";
    case EAGAIN:
      return "WouldBlock";
    default:
      return "Error";
  }
}

}  // namespace

Json Failure::to_json() const {
  Json error{{"constructorName", cut(constructor_name, kMaxName)},
             {"message", cut(message, kMaxText)}};
  if (!code.empty() && constructor_name != "DOMException") error["code"] = cut(code, kMaxName);
  if (!name.empty()) error["name"] = cut(name, kMaxName);
  if (!stack.empty()) error["stack"] = cut(stack, kMaxText);
  return error;
}

std::string errno_name(int number) {
  const char* name = ::strerrorname_np(number);
  return name == nullptr ? "E" + std::to_string(number) : name;
}

Failure errno_failure(int number, std::string_view what) {
  const char* text = ::strerrordesc_np(number);
  std::string message = text == nullptr ? "Unknown error" : text;
  message += " (os error " + std::to_string(number) + ")";
  if (!what.empty()) message.append(": ").append(what);
  return {class_of(number), std::move(message), errno_name(number)};
}

void throw_errno(std::string_view what) {
  throw errno_failure(errno, what);
}

Failure type_error(std::string message) {
  return {"TypeError", std::move(message)};
}

Failure abort_failure() {
  Failure failure("DOMException", "The signal has been aborted");
  failure.name = "AbortError";
  return failure;
}

Failure broken_pipe() {
  return errno_failure(EPIPE);
}

}  // namespace hutch::agent::rpc
