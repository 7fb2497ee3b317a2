#include "cli/share.h"

#include "cli/failure.h"

namespace hutch::cli {
namespace {

std::string found(Result<std::string> path) {
  if (!path)
    throw Failure(path.error(), path.error().number == EACCES ? "permission" : "not_found");
  return *std::move(path);
}

}  // namespace

std::string executable_path() {
  return value_or_throw(artefacts::executable_path());
}

std::string find_shared(const std::string& name) {
  return found(artefacts::find_shared(name));
}

std::string find_program(const std::string& name) {
  return found(artefacts::find_program(name));
}

std::string find_image(const std::string& name) {
  return found(artefacts::find_image(name));
}

}  // namespace hutch::cli
