#include "control/private_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <span>

#include "base/sys.h"

namespace hutch::control {

void write_private_file(const std::string& path, std::string_view text) {
  std::string temporary = path + ".new";
  Fd file = value_or_throw(open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  value_or_throw(write_all(file.get(), std::as_bytes(std::span(text))));
  // Else a power cut could leave an empty file under the new name.
  if (::fsync(file.get()) < 0)
    throw std::runtime_error(fail_errno(errno, "writing " + temporary).value().text());
  if (std::rename(temporary.c_str(), path.c_str()) != 0)
    throw std::runtime_error(fail_errno(errno, "writing " + path).value().text());
}

}  // namespace hutch::control
