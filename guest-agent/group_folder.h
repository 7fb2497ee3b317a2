// A control group of a test's own, in which an agent makes its groups as at the top; for tests
// only.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "base/sys.h"
#include "guest-agent/test_client.h"

namespace hutch::agent {

class GroupFolder {
 public:
  GroupFolder() {
    for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
      std::string file = std::string(mount) + "/cgroup.controllers";
      if (::access(file.c_str(), F_OK) < 0) continue;
      std::string path = fmt::format("{}/hutch-test-{}", mount, ::getpid());
      if (::mkdir(path.c_str(), 0755) == 0) path_ = path;
    }
  }
  // Kills what is still in it.
  ~GroupFolder() {
    if (path_.empty()) return;
    auto kill = open_file(path_ + "/cgroup.kill", O_WRONLY);
    if (kill) CHECK(write_all(kill->get(), std::as_bytes(std::span("1", 1))));
    CHECK(eventually([&] {
      remove(path_);
      return ::access(path_.c_str(), F_OK) < 0;
    }));
  }
  GroupFolder(const GroupFolder&) = delete;
  GroupFolder& operator=(const GroupFolder&) = delete;
  // Whether this host and user have control groups to give; where not, nothing can be stopped.
  bool is_given() const { return !path_.empty(); }
  const std::string& path() const { return path_; }
  bool is_frozen() const {
    std::string events = read_file(path_ + "/hutch/cgroup.events", 1000).value();
    return events.find("frozen 1") != std::string::npos;
  }

 private:
  static void remove(const std::string& path) {
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(path, ignored)) {
      if (entry.is_directory()) remove(entry.path());
    }
    ::rmdir(path.c_str());
  }
  std::string path_;
};

}  // namespace hutch::agent
