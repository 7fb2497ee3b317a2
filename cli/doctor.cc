// The verb `doctor`: is this host ready to run guests? Each red line comes with the command that
// mends it.
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/sys.h"
#include "cli/arguments.h"
#include "cli/failure.h"
#include "cli/host_probe.h"
#include "cli/machine.h"
#include "cli/share.h"

namespace hutch::cli {
namespace {

constexpr const char* kBuildCommand = "tools/dev build";
constexpr uint64_t kNeededMemory = 1ull << 30;
constexpr uint64_t kNeededDisk = 2ull << 30;

struct Check {
  std::string name;
  bool ok = false;
  std::string detail;  // what was found
  std::string fix;     // one command; empty when ok

  // Without it no guest runs. Cgroups and namespaces only narrow what a broken-out VMM could do.
  bool is_needed() const {
    return name != "kvm" && name != "machine" && name != "cgroups" && name != "namespaces";
  }
};

Check good(std::string name, std::string detail) {
  return {std::move(name), true, std::move(detail), ""};
}

Check bad(std::string name, std::string detail, std::string fix) {
  return {std::move(name), false, std::move(detail), std::move(fix)};
}

// The group that a device belongs to, and whether /etc/group lists us in it.
struct DeviceGroup {
  std::string name;
  bool listed = false;
};
DeviceGroup device_group(gid_t id) {
  Result<std::string> groups = read_file("/etc/group", 1 << 20);
  const char* user = std::getenv("USER");
  DeviceGroup group;
  if (!groups) return group;
  std::istringstream lines(*groups);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string name, password, number, members;
    std::getline(fields, name, ':');
    std::getline(fields, password, ':');
    std::getline(fields, number, ':');
    std::getline(fields, members);
    if (number != std::to_string(id)) continue;
    group.name = name;
    std::istringstream list(members);
    for (std::string member; std::getline(list, member, ',');)
      if (user != nullptr && member == user) group.listed = true;
  }
  return group;
}

Check check_kvm() {
  constexpr const char* kDevice = "/dev/kvm";
  struct stat status {};
  if (::stat(kDevice, &status) < 0)
    return bad("kvm", "there is no /dev/kvm: virtualisation is off, or its module is not loaded",
               "sudo modprobe kvm_intel || sudo modprobe kvm_amd");
  Fd device(::open(kDevice, O_RDWR | O_CLOEXEC));
  int error = errno;
  if (!device && error == EACCES) {
    DeviceGroup group = device_group(status.st_gid);
    if (group.listed)
      return bad("kvm",
                 fmt::format("you are in the group {}, but this session began before", group.name),
                 fmt::format("newgrp {}", group.name));
    bool group_may = (status.st_mode & 0060) == 0060 && status.st_gid != 0 && !group.name.empty();
    return bad("kvm", "you may not use /dev/kvm",
               group_may ? fmt::format("sudo usermod -aG {0} \"$USER\" && newgrp {0}", group.name)
                         : "sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm && "
                           "sudo usermod -aG kvm \"$USER\" && newgrp kvm");
  }
  if (!device)
    return bad("kvm", fmt::format("/dev/kvm cannot be opened: {}", strerrordesc_np(error)),
               "sudo modprobe kvm_intel || sudo modprobe kvm_amd");
  Probe probe = probe_host();
  if (probe.ok) return good("kvm", probe.detail);
  return bad("kvm", probe.detail, "hutch machine start");
}

// A shared file that begins, at `offset`, with `magic`.
Check check_file(const std::string& name, const std::string& file, uint64_t offset,
                 std::string_view magic, const char* kind) {
  try {
    std::string path = find_shared(file);
    Result<Fd> opened = open_file(path, O_RDONLY);
    if (!opened) return bad(name, opened.error().message, fmt::format("chmod a+r {}", path));
    std::string start(magic.size(), '\0');
    Result<void> got =
        read_exactly_at(opened->get(), std::as_writable_bytes(std::span(start)), offset);
    if (!got || start != magic)
      return bad(name, fmt::format("{} is not {}", path, kind), kBuildCommand);
    return good(name, path);
  } catch (const Failure& failure) {
    return bad(name, failure.what(), kBuildCommand);
  }
}

Check check_agent() {
  // The agent of guests is inside the initramfs, a cpio archive.
  return check_file("agent", kInitramfsFile, 0, "070701", "an initramfs");
}

Check check_cgroups() {
  Result<std::string> controllers = read_file("/sys/fs/cgroup/cgroup.controllers", 4096);
  if (!controllers)
    return bad("cgroups", "/sys/fs/cgroup is not a cgroup v2 hierarchy",
               "sudo mount -t cgroup2 none /sys/fs/cgroup");
  std::string missing;
  std::istringstream words(*controllers);
  std::string have = " ";
  for (std::string word; words >> word;) have += word + " ";
  for (const char* needed : {"cpu", "memory", "pids"})
    if (have.find(fmt::format(" {} ", needed)) == std::string::npos)
      missing += fmt::format("{}{}", missing.empty() ? "" : " ", needed);
  if (!missing.empty())
    return bad("cgroups", fmt::format("the controllers {} are not available", missing),
               "sudo mount -o remount,rw /sys/fs/cgroup && sudo sh -c 'echo +cpu +memory +pids "
               ">/sys/fs/cgroup/cgroup.subtree_control'");
  return good("cgroups", "version 2 with cpu, memory and pids");
}

// Tries it, in a child: the settings that can forbid it are many.
Check check_namespaces() {
  pid_t child = ::fork();
  if (child < 0) return bad("namespaces", "no process can be made", "ulimit -u unlimited");
  if (child == 0) {
    int flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC;
    ::_exit(::unshare(flags) == 0 ? 0 : errno);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  int error = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
  if (error == 0) return good("namespaces", "user, pid, network, mount and ipc");
  Result<std::string> limit = read_file("/proc/sys/user/max_user_namespaces", 64);
  if (limit && *limit == "0\n")
    return bad("namespaces", "user namespaces are limited to 0",
               "sudo sysctl -w user.max_user_namespaces=15000");
  if (Result<std::string> clone = read_file("/proc/sys/kernel/unprivileged_userns_clone", 64);
      clone && *clone == "0\n")
    return bad("namespaces", "user namespaces are only for root",
               "sudo sysctl -w kernel.unprivileged_userns_clone=1");
  return bad("namespaces",
             fmt::format("a process cannot have namespaces of its own: {}", strerrordesc_np(error)),
             "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0");
}

Check check_memory() {
  Result<std::string> text = read_file("/proc/meminfo", 64 * 1024);
  size_t line = text ? text->find("MemAvailable:") : std::string::npos;
  if (line == std::string::npos)
    return bad("memory", "/proc/meminfo does not say what is free",
               "sudo mount -t proc proc /proc");
  uint64_t bytes = std::strtoull(text->c_str() + line + 13, nullptr, 10) << 10;
  std::string found = fmt::format("{} MiB available", bytes >> 20);
  if (bytes >= kNeededMemory) return good("memory", found);
  bool machine = machine_status().state == MachineStatus::State::kRunning;
  return bad("memory", found + ", a machine takes up to 768 MiB",
             machine ? "hutch machine stop" : "ps -eo rss,pid,comm --sort=-rss | head");
}

Check check_disk() {
  const char* chosen = std::getenv("HUTCH_SCRATCH");
  if (chosen == nullptr) chosen = std::getenv("TMPDIR");
  std::string folder = chosen != nullptr ? chosen : "/var/tmp";
  struct statvfs status {};
  if (::statvfs(folder.c_str(), &status) < 0)
    return bad("disk", fmt::format("{}: {}", folder, strerrordesc_np(errno)), "mkdir -p " + folder);
  if (::access(folder.c_str(), W_OK) < 0)
    return bad("disk", fmt::format("{} cannot be written to", folder),
               "export HUTCH_SCRATCH=\"$HOME\"");
  uint64_t bytes = status.f_bavail * status.f_frsize;
  std::string found = fmt::format("{} MiB free in {}", bytes >> 20, folder);
  if (bytes >= kNeededDisk) return good("disk", found);
  return bad("disk", found + ", where the writable layers of machines lie",
             "export HUTCH_SCRATCH=FOLDER-WITH-ROOM");
}

// Only needed where KVM cannot run guests.
Check check_machine(bool kvm_works) {
  for (const char* path : {"/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64"}) {
    if (::access(path, X_OK) < 0) continue;
    if (kvm_works) return good("machine", fmt::format("{}; not needed here", path));
    try {
      find_shared(kMachineKernelFile);
      find_shared(kMachineInitrdFile);
      find_program(kAgentProgram);
    } catch (const Failure& failure) {
      return bad("machine", failure.what(), kBuildCommand);
    }
    MachineStatus status = machine_status();
    return good("machine", fmt::format("{}; {}", path,
                                       status.state == MachineStatus::State::kRunning
                                           ? "the emulated machine runs"
                                           : "`hutch run` starts the emulated machine by itself"));
  }
  if (kvm_works) return good("machine", "QEMU is not installed; not needed here");
  return bad("machine", "qemu-system-x86_64 is missing, which emulates a machine for guests",
             "sudo apt-get install -y qemu-system-x86");
}

int examine(bool json) {
  std::vector<Check> checks;
  checks.push_back(check_kvm());
  bool kvm_works = checks.front().ok;
  checks.push_back(check_file("kernel", kKernelFile, 0,
                              "\x7f"
                              "ELF",
                              "an ELF kernel"));
  checks.push_back(check_file("image", "core.erofs", 1024, "\xe2\xe1\xf5\xe0", "an EROFS image"));
  checks.push_back(check_file("layer", kLayerFile, 1024 + 56, "\x53\xef", "an ext4 file system"));
  checks.push_back(check_agent());
  checks.push_back(check_cgroups());
  checks.push_back(check_namespaces());
  checks.push_back(check_memory());
  checks.push_back(check_disk());
  checks.push_back(check_machine(kvm_works));
  // A host without a usable KVM is as good as one with it, only slower, when the machine is there.
  bool machine_works = checks.back().ok;
  bool ready = kvm_works || machine_works;
  for (const Check& check : checks)
    if (!check.ok && check.is_needed()) ready = false;

  if (json) {
    nlohmann::ordered_json list = nlohmann::json::array();
    for (const Check& check : checks)
      list.push_back(
          {{"name", check.name}, {"ok", check.ok}, {"detail", check.detail}, {"fix", check.fix}});
    nlohmann::ordered_json report{
        {"ok", ready},
        {"path", !ready ? nlohmann::json(nullptr) : nlohmann::json(kvm_works ? "kvm" : "machine")},
        {"checks", list}};
    fmt::print("{}\n", report.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    return ready ? 0 : 1;
  }
  bool colour = ::isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr;
  for (const Check& check : checks) {
    const char* mark = check.ok ? "green" : "red  ";
    fmt::print("{}{}{} {:<11} {}\n", colour ? (check.ok ? "\x1b[32m" : "\x1b[31m") : "", mark,
               colour ? "\x1b[0m" : "", check.name, check.detail);
    if (!check.ok) fmt::print("                  mend it: {}\n", check.fix);
  }
  fmt::print("{}\n", !ready      ? "Not ready to run guests."
                     : kvm_works ? "Ready: guests run on this host's KVM."
                                 : "Ready: guests run in the emulated machine, slowly.");
  return ready ? 0 : 1;
}

}  // namespace

void add_doctor(Program& program) {
  CLI::App* verb = program.app.add_subcommand("doctor", "Check whether this host can run guests");
  auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "As JSON: ok, path (kvm, machine or null), checks");
  verb->footer(R"(Examples:
  hutch doctor
  hutch doctor --json | python3 -m json.tool

Each red line comes with one command that mends it. The exit code is 0 when guests can run, be it in
the emulated machine, and 1 when they cannot.)");
  verb->callback([&program, json] {
    program.json = *json;
    program.action = [json] { return examine(*json); };
  });
}

}  // namespace hutch::cli
