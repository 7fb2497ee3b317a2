// Who a machine is: files in a folder, and as root the real kernel's, in namespaces of a child.
#include "guest-agent/identity.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>

#include "base/sys.h"
#include "guest-agent/system.h"

namespace hutch::agent {
namespace {

constexpr const char* kMachineId = "0123456789abcdef0123456789abcdef";
// What a child says when this host does not let it have what it needs.
constexpr int kNotPermitted = 77;

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/hutch-identity-test-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  void write(const std::string& name, std::string_view text) const {
    std::filesystem::path file = path_ + "/" + name;
    std::filesystem::create_directories(file.parent_path());
    Fd fd = open_file(file, O_WRONLY | O_CREAT | O_TRUNC, 0644).value();
    REQUIRE(write_all(fd.get(), std::as_bytes(std::span(text))));
  }
  std::string read(const std::string& name) const {
    return read_file(path_ + "/" + name, 4096).value();
  }
  bool has(const std::string& name) const {
    return std::filesystem::exists(std::filesystem::symlink_status(path_ + "/" + name));
  }

 private:
  std::string path_;
};

// The exit status of a child that runs `steps` in namespaces of its own, as root only.
int run_apart(int namespaces, const std::function<int()>& steps) {
  pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) ::_exit(::unshare(namespaces) < 0 ? kNotPermitted : steps());
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

TEST_CASE("the machine id is a new file, whatever the old one was") {
  Folder root;
  root.write("etc/machine-id", "old\n");
  REQUIRE(renew_machine_id(root.path(), kMachineId));
  CHECK(root.read("etc/machine-id") == std::string(kMachineId) + "\n");
  CHECK_FALSE(root.has("run/machine-id"));
  struct stat status {};
  REQUIRE(::stat((root.path() + "/etc/machine-id").c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0444);

  // A link is not followed, and nothing waits for the reader of a pipe.
  root.write("elsewhere", "kept");
  REQUIRE(::unlink((root.path() + "/etc/machine-id").c_str()) == 0);
  REQUIRE(::symlink("../elsewhere", (root.path() + "/etc/machine-id").c_str()) == 0);
  root.write("run/machine-id", "old\n");
  REQUIRE(::unlink((root.path() + "/run/machine-id").c_str()) == 0);
  REQUIRE(::mkfifo((root.path() + "/run/machine-id").c_str(), 0644) == 0);
  REQUIRE(renew_machine_id(root.path(), kMachineId));
  CHECK(root.read("elsewhere") == "kept");
  CHECK(root.read("etc/machine-id") == std::string(kMachineId) + "\n");
  CHECK(root.read("run/machine-id") == std::string(kMachineId) + "\n");
}

TEST_CASE("a machine without the files has nothing to renew, and one that cannot says so") {
  Folder root;
  CHECK(renew_machine_id(root.path(), kMachineId));
  CHECK(remove_host_keys(root.path()));
  CHECK_FALSE(root.has("etc"));
  root.write("etc/machine-id/file", "");  // a folder in its place
  auto failed = renew_machine_id(root.path(), kMachineId);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().message.find("replacing") == 0);
}

TEST_CASE("a machine's new name stands for an address in the place of its old one") {
  Folder root;
  root.write("etc/hostname", "hutch\n");
  root.write("etc/hosts",
             "127.0.0.1 localhost hutch\n# hutch\n\n::1\tlocalhost hutch hutchx # hutch\nhutch x");
  REQUIRE(rename_host(root.path(), "new-name"));
  CHECK(root.read("etc/hostname") == "new-name\n");
  CHECK(
      root.read("etc/hosts") ==
      "127.0.0.1 localhost new-name\n# hutch\n\n::1\tlocalhost new-name hutchx # hutch\nhutch x\n");
  struct stat status {};
  REQUIRE(::stat((root.path() + "/etc/hosts").c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0644);
  // The same name changes nothing, not even the file.
  const ino_t before = status.st_ino;
  REQUIRE(rename_host(root.path(), "new-name"));
  REQUIRE(::stat((root.path() + "/etc/hosts").c_str(), &status) == 0);
  CHECK(status.st_ino == before);
  // A user has made one of their own of it.
  root.write("etc/hosts", "127.0.0.1 localhost\n");
  REQUIRE(rename_host(root.path(), "third"));
  CHECK(root.read("etc/hosts") == "127.0.0.1 localhost\n127.0.1.1 third\n");
}

TEST_CASE("a machine's files of names may be anything") {
  Folder root;
  REQUIRE(rename_host(root.path(), "name"));
  CHECK_FALSE(root.has("etc"));
  root.write("elsewhere", "kept");
  root.write("etc/file", "");
  REQUIRE(::symlink("../elsewhere", (root.path() + "/etc/hostname").c_str()) == 0);
  REQUIRE(::mkfifo((root.path() + "/etc/hosts").c_str(), 0644) == 0);
  REQUIRE(rename_host(root.path(), "name"));
  CHECK(root.read("elsewhere") == "kept");
  CHECK(root.read("etc/hostname") == "name\n");
  struct stat status {};
  REQUIRE(::stat((root.path() + "/etc/hosts").c_str(), &status) == 0);
  CHECK(S_ISFIFO(status.st_mode));
  REQUIRE(::unlink((root.path() + "/etc/hosts").c_str()) == 0);
  REQUIRE(rename_host(root.path(), "second"));
  CHECK(root.read("etc/hosts") == "127.0.1.1 second\n");
  root.write("etc/hosts", std::string((1 << 20) + 1, 'x'));
  REQUIRE(rename_host(root.path(), "other"));
  CHECK(std::filesystem::file_size(root.path() + "/etc/hosts") == (1 << 20) + 1);
}

TEST_CASE("the keys of an SSH server go, its settings stay") {
  Folder root;
  root.write("etc/ssh/ssh_host_ed25519_key", "secret");
  root.write("etc/ssh/ssh_host_ed25519_key.pub", "public");
  root.write("etc/ssh/sshd_config", "settings");
  root.write("etc/ssh/ssh_config", "settings");
  REQUIRE(remove_host_keys(root.path()));
  CHECK_FALSE(root.has("etc/ssh/ssh_host_ed25519_key"));
  CHECK_FALSE(root.has("etc/ssh/ssh_host_ed25519_key.pub"));
  CHECK(root.has("etc/ssh/sshd_config"));
  CHECK(root.has("etc/ssh/ssh_config"));
}

TEST_CASE("the boot id is the new one, and after another renewal that one") {
  if (::geteuid() != 0) return;
  int status = run_apart(CLONE_NEWNS, [] {
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 ||
        ::mount("tmpfs", "/run", "tmpfs", 0, nullptr) < 0)
      return kNotPermitted;
    const std::string path = "/proc/sys/kernel/random/boot_id";
    std::string mounts;
    for (const char* id :
         {"01234567-89ab-4cde-8f01-23456789abcd", "11234567-89ab-4cde-8f01-23456789abcd"}) {
      if (!renew_boot_id(id)) return 1;
      if (read_file(path, 100).value() != id + std::string("\n")) return 2;
      std::string now = read_file("/proc/self/mountinfo", 1 << 20).value();
      // One mount in the place of the other, not on top of it.
      if (now.find(path) == std::string::npos || now.find(path) != now.rfind(path)) return 3;
    }
    return 0;
  });
  if (status != kNotPermitted) CHECK(status == 0);
}

TEST_CASE("the network device gets its address, down or up, and a machine without one does not") {
  if (::geteuid() != 0) return;
  int status = run_apart(CLONE_NEWNET, [] {
    const std::string first("\x52\x54\0\x01\x02\x03", 6), second("\x52\x54\0\x01\x02\x04", 6);
    if (!set_hardware_address(first, false)) return 1;
    Fd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq request{};
    std::strcpy(request.ifr_name, "eth0");
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    if (!tap || ::ioctl(tap.get(), TUNSETIFF, &request) < 0) return kNotPermitted;
    Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    auto address = [&] {
      return ::ioctl(socket.get(), SIOCGIFHWADDR, &request) < 0
                 ? std::string()
                 : std::string(request.ifr_hwaddr.sa_data, 6);
    };
    if (!set_hardware_address(first, false) || address() != first) return 2;
    if (!bring_network_up(false)) return 3;
    auto routes = [] { return read_file("/proc/net/route", 65536).value(); };
    std::string before = routes();
    if (before.find("eth0") == std::string::npos) return 4;
    if (!set_hardware_address(second, false) || address() != second) return 5;
    return routes() == before ? 0 : 6;
  });
  if (status != kNotPermitted) CHECK(status == 0);
}

}  // namespace
}  // namespace hutch::agent
