// TemporaryFolder: a folder below /tmp, for this user only, that goes with the object.
#pragma once

#include <string>

namespace hutch::agent::rpc {

class TemporaryFolder {
 public:
  // `prefix`: of its name. Throws Failure.
  explicit TemporaryFolder(const std::string& prefix);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace hutch::agent::rpc
