// The agent's parts that need no process: accounts, the kernel command line, control groups.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "base/sys.h"
#include "guest-agent/accounts.h"
#include "guest-agent/cgroups.h"
#include "guest-agent/environment.h"
#include "guest-agent/leave.h"
#include "guest-agent/root.h"

namespace hutch::agent {
namespace {

// A folder that goes when the test ends.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/hutch-agent-test-XXXXXX";
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

 private:
  std::string path_;
};

TEST_CASE("the system's environment is lines of variables, and nothing else") {
  CHECK(parse_system_environment("# comment\nA=1\n\n  export B=two words \r\nC=\"x y\"\nD='z'\n"
                                 "E=\"open\nnothing\n=value\nF G=1\nH=\nI=a=b") ==
        std::vector<std::string>{"A=1", "B=two words", "C=x y", "D=z", "E=\"open", "H=", "I=a=b"});
  CHECK(parse_system_environment("").empty());
  CHECK(parse_system_environment(std::string("A=\0b\n", 5)).empty());
}

TEST_CASE("accounts come from passwd and group") {
  Folder folder;
  folder.write("passwd",
               "root:x:0:0:root:/root:/bin/bash\n"
               "app:x:1000:1001:App,,,:/home/app:/bin/zsh\n"
               "1000:x:5:5::/numeric:/bin/sh\n"
               "bare:x:7:8:::\n");
  folder.write("group",
               "root:x:0:\nsudo:x:27:app,bare\napp:x:1001:\ndocker:x:99:bare,app\n"
               "almost:x:100:app2,xapp,ap\n");
  auto app = find_account("app", folder.path()).value();
  CHECK(app.name == "app");
  CHECK(app.user == 1000);
  CHECK(app.group == 1001);
  CHECK(app.groups == std::vector<gid_t>{27, 99, 1001});
  CHECK(app.home == "/home/app");
  CHECK(app.shell == "/bin/zsh");

  auto root = find_account("", folder.path()).value();
  CHECK(root.name == "root");
  CHECK(root.home == "/root");
  CHECK(find_account("0", folder.path()).value().name == "root");
  // A name of digits comes before a number.
  CHECK(find_account("1000", folder.path()).value().home == "/numeric");

  auto bare = find_account("7", folder.path()).value();
  CHECK(bare.name == "bare");
  CHECK(bare.home == "/");
  CHECK(bare.shell == "/bin/sh");

  auto stranger = find_account("4242", folder.path()).value();
  CHECK(stranger.user == 4242);
  CHECK(stranger.group == 4242);
  CHECK(stranger.groups == std::vector<gid_t>{4242});

  auto nobody = find_account("ap", folder.path());
  REQUIRE(!nobody);
  CHECK(nobody.error().message == "there is no user \"ap\" in " + folder.path() + "/passwd");
  CHECK(!find_account("4294967295", folder.path()));  // -1 to the kernel
  CHECK(!find_account("-1", folder.path()));
  CHECK(!find_account("99999999999", folder.path()));
}

TEST_CASE("account files may be missing, damaged or hostile") {
  Folder folder;
  CHECK(find_account("", folder.path()).value().home == "/root");
  CHECK(!find_account("app", folder.path()));
  CHECK(find_account("12", folder.path()).value().user == 12);

  folder.write("passwd",
               "\n:x:0:0:::\nnocolons\napp:x:-5:0::/:/bin/sh\napp:x:1x:0::/:/bin/sh\n"
               "app:x:3:99999999999::/:/bin/sh\napp:x:12:13::/home/app:/bin/sh");
  folder.write("group", "a:x:5:app\nb:x:zzz:app\nc:x\n:::app\nd:x:6:,,app,\na:x:5:app");
  auto app = find_account("app", folder.path()).value();
  CHECK(app.user == 12);
  CHECK(app.groups == std::vector<gid_t>{5, 6, 13});

  // Neither of these may hold the agent up.
  REQUIRE(::unlink((folder.path() + "/group").c_str()) == 0);
  REQUIRE(::mkfifo((folder.path() + "/group").c_str(), 0644) == 0);
  auto fifo = find_account("app", folder.path());
  REQUIRE(!fifo);
  CHECK(fifo.error().message == folder.path() + "/group is not a regular file");
  REQUIRE(::unlink((folder.path() + "/group").c_str()) == 0);
  REQUIRE(::symlink("/dev/zero", (folder.path() + "/group").c_str()) == 0);
  CHECK(!find_account("app", folder.path()));
  folder.write("passwd", std::string(5 * 1024 * 1024, 'x'));
  auto large = find_account("app", folder.path());
  REQUIRE(!large);
  CHECK(large.error().message.find("larger than") != std::string::npos);
}

TEST_CASE("the kernel command line names the devices") {
  RootOptions options =
      parse_command_line("quiet hutch.root=/dev/vda panic=-1 hutch.layer=/dev/vdb\n");
  CHECK(options.image == "/dev/vda");
  CHECK(options.layer == "/dev/vdb");
  options = parse_command_line("xhutch.root=/dev/vda  hutch.rootx=1 hutch.root");
  CHECK(options.image.empty());
  CHECK(options.layer.empty());
  CHECK(parse_command_line("hutch.root=/dev/vda").image == "/dev/vda");
  CHECK(parse_command_line("").image.empty());
  CHECK_FALSE(parse_command_line("hutch.ipv6x").ipv6);
  CHECK(parse_command_line("quiet hutch.ipv6").ipv6);
}

TEST_CASE("control groups are made, asked for memory kills and removed when empty") {
  Folder mount;
  mount.write("cgroup.controllers", "cpuset cpu io memory pids\n");
  mount.write("cgroup.subtree_control", "");
  mount.write("hutch/cgroup.controllers", "cpu memory pids\n");
  mount.write("hutch/cgroup.subtree_control", "");
  Cgroups groups = Cgroups::create(mount.path()).value();
  CHECK(read_file(mount.path() + "/cgroup.subtree_control", 100).value() ==
        "+cpuset +cpu +io +memory +pids");
  CHECK(read_file(mount.path() + "/hutch/cgroup.subtree_control", 100).value() == "+memory");

  Cgroup group = groups.make().value();
  std::string folder = mount.path() + "/hutch/1";
  CHECK(std::filesystem::is_directory(folder));
  CHECK_FALSE(group.was_out_of_memory());  // memory is not accounted
  mount.write("hutch/1/memory.events", "low 0\nhigh 0\nmax 7\noom 1\noom_kill 0\n");
  CHECK_FALSE(group.was_out_of_memory());
  mount.write("hutch/1/memory.events", "low 0\nhigh 0\nmax 7\noom 1\noom_kill 12\n");
  CHECK(group.was_out_of_memory());
  mount.write("hutch/1/memory.events", "oom_group_kill 3\n");
  CHECK_FALSE(group.was_out_of_memory());

  groups.sweep();
  CHECK(std::filesystem::is_directory(folder));  // still in use
  REQUIRE(::unlink((folder + "/memory.events").c_str()) == 0);
  groups.discard(std::move(group));
  groups.sweep();
  CHECK_FALSE(std::filesystem::exists(folder));

  Cgroups none;
  Cgroup empty = none.make().value();
  CHECK(empty.folder() == -1);
  CHECK_FALSE(empty.was_out_of_memory());
}

TEST_CASE("mount points come last mounted first, with their escapes undone") {
  CHECK(mount_points("22 1 0:5 / / rw - overlay overlay rw\n"
                     "23 22 0:6 / /proc rw,nosuid - proc proc rw\n"
                     "30 22 254:32 /a /mnt/two\\040words\\134 rw - ext4 /dev/vdc rw\n") ==
        std::vector<std::string>{"/mnt/two words\\", "/proc", "/"});
}

TEST_CASE("a mount table that is cut short has no mount point too many") {
  CHECK(mount_points("").empty());
  CHECK(mount_points("22 1 0:5\n\n22 1 0:5 /").empty());
  CHECK(mount_points("22 1 0:5 / /x\\04") == std::vector<std::string>{"/x\\04"});
}

}  // namespace
}  // namespace hutch::agent
