// Error: construction and text.
#include <cstring>

#include "base/result.h"

namespace hutch {

Error&& Error::context(std::string_view prefix) && {
  message.insert(0, ": ");
  message.insert(0, prefix);
  return std::move(*this);
}

Error&& Error::with_remedy(std::string_view text) && {
  remedy = text;
  return std::move(*this);
}

std::string Error::text() const {
  return remedy.empty() ? message : fmt::format("{} ({})", message, remedy);
}

tl::unexpected<Error> fail(std::string message, std::string remedy, const char* file, int line) {
  return tl::unexpected(Error{std::move(message), std::move(remedy), 0, file, line});
}

tl::unexpected<Error> fail_errno(int number, std::string message, std::string remedy,
                                 const char* file, int line) {
  // strerrordesc_np needs neither a locale nor a buffer, unlike strerror.
  const char* description = strerrordesc_np(number);
  message += ": ";
  message += description != nullptr ? description : "unknown error";
  return tl::unexpected(Error{std::move(message), std::move(remedy), number, file, line});
}

}  // namespace hutch
