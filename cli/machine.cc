#include "cli/machine.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "base/sys.h"
#include "cli/failure.h"
#include "cli/machine_monitor.h"
#include "cli/runtime_folder.h"
#include "cli/share.h"
#include "protocol/agent.h"

namespace hutch::cli {
namespace {

constexpr const char* kStartHint = "start it anew: hutch machine rm && hutch machine start";
constexpr uint16_t kAgentPort = 1024;  // inside the machine
constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMillisecond = 1'000'000;
// The agent answers at once when it listens; while it does not, QEMU accepts and then closes.
constexpr uint32_t kGreetingTime = 5000;
constexpr uint64_t kPowerOffTime = 15 * kSecond;
constexpr size_t kConsoleTail = 4096;
constexpr size_t kConsoleLimit = 1 << 20;

// What is written down about the running QEMU.
struct Record {
  pid_t process_id = 0;
  uint64_t began = 0;  // the process's start, in clock ticks since boot
  uint16_t port = 0;
  uint64_t memory = 0;
  uint32_t cpus = 0;
  bool virtual_time = false;
};

struct Paths {
  std::string folder = runtime_folder() + "/machine";
  std::string record = folder + "/machine.json";
  std::string token = folder + "/token";
  std::string console = folder + "/console.log";
  std::string log = folder + "/qemu.log";
  // Beside the folder, which `rm` removes.
  std::string lock = runtime_folder() + "/machine.lock";
};

// Held while the machine is started, stopped or removed.
class Lock {
 public:
  explicit Lock(const Paths& paths)
      : file_(value_or_throw(open_file(paths.lock, O_RDWR | O_CREAT, 0600))) {
    while (::flock(file_.get(), LOCK_EX) < 0)
      if (errno != EINTR)
        throw Failure(fail_errno(errno, fmt::format("locking {}", paths.lock)).value());
  }

 private:
  Fd file_;
};

// When a process began, in clock ticks since boot; nothing when there is none, or only its remains.
std::optional<uint64_t> process_began(pid_t id) {
  Result<std::string> text = read_file(fmt::format("/proc/{}/stat", id), 4096);
  if (!text) return std::nullopt;
  // The program's name, in parentheses, may hold anything; what counts stands behind the last one.
  size_t behind = text->rfind(')');
  if (behind == std::string::npos) return std::nullopt;
  std::istringstream words(text->substr(behind + 1));
  std::string word, state;
  words >> state;
  if (state == "Z" || state == "X") return std::nullopt;
  constexpr int kBetween = 18;  // fields 4 to 21; the start is the 22nd
  for (int i = 0; i < kBetween; i++) words >> word;
  uint64_t began = 0;
  if (!(words >> began)) return std::nullopt;
  return began;
}

std::optional<Record> load(const Paths& paths) {
  Result<std::string> text = read_file(paths.record, 4096);
  if (!text) return std::nullopt;
  nlohmann::json json = nlohmann::json::parse(*text, nullptr, false);
  try {
    return Record{json.at("pid").get<pid_t>(),     json.at("began").get<uint64_t>(),
                  json.at("port").get<uint16_t>(), json.at("memory").get<uint64_t>(),
                  json.at("cpus").get<uint32_t>(), json.value("virtual_time", false)};
  } catch (const nlohmann::json::exception&) {
    throw Failure("state", fmt::format("{} is damaged", paths.record),
                  "remove it: hutch machine rm");
  }
}

void write_private(const std::string& path, std::string_view text) {
  std::string temporary = path + ".new";
  Fd file = value_or_throw(open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  value_or_throw(write_all(file.get(), std::as_bytes(std::span(text))));
  if (std::rename(temporary.c_str(), path.c_str()) != 0)
    throw Failure(fail_errno(errno, fmt::format("writing {}", path)).value());
}

void save(const Paths& paths, const Record& record) {
  nlohmann::json json{{"pid", record.process_id}, {"began", record.began},
                      {"port", record.port},      {"memory", record.memory},
                      {"cpus", record.cpus},      {"virtual_time", record.virtual_time}};
  write_private(paths.record, json.dump() + "\n");
}

bool is_alive(const Record& record) {
  return process_began(record.process_id) == record.began;
}

// The end of the console or, before it has said anything, of QEMU's own messages.
std::string last_words(const Paths& paths) {
  for (const std::string& path : {paths.console, paths.log}) {
    Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) continue;
    off_t size = ::lseek(file.get(), 0, SEEK_END);
    if (size <= 0) continue;
    std::string text(kConsoleTail, '\0');
    off_t start = std::max<off_t>(0, size - static_cast<off_t>(kConsoleTail));
    ssize_t count = ::pread(file.get(), text.data(), text.size(), start);
    if (count <= 0) continue;
    text.resize(static_cast<size_t>(count));
    std::erase_if(text, [](char c) {
      return (static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7f;
    });
    return text;
  }
  return "";
}

[[noreturn]] void fail_dead(const Paths& paths, const std::string& what) {
  throw Failure("machine_died", what, kStartHint).with_console(last_words(paths));
}

std::string new_token() {
  std::array<unsigned char, 32> bytes;
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    throw Failure("host", "the kernel gave no random bytes for a token");
  std::string token;
  for (unsigned char byte : bytes) token += fmt::format("{:02x}", byte);
  return token;
}

std::string find_qemu() {
  for (const char* folder : {"/usr/bin/", "/usr/local/bin/"}) {
    std::string path = std::string(folder) + "qemu-system-x86_64";
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  throw Failure("not_found", "qemu-system-x86_64 is missing, which emulates the machine",
                "install it: sudo apt-get install qemu-system-x86");
}

// The addresses of this host, with commas between them. The machine takes them for its own: its
// sandboxes, whose connections QEMU makes from here, must reach them as little as those of a host
// that runs them itself. Those of QEMU's network are the machine's already; the number is bounded
// by the kernel's command line.
std::string host_addresses() {
  constexpr int kMaxAddresses = 24;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0)
    throw Failure("state", "this host does not tell its addresses", "see dmesg");
  std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
  std::string text;
  int count = 0;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_LOOPBACK) != 0) continue;
    if (count == kMaxAddresses) {
      fmt::print(stderr,
                 "hutch: this host has more than {} addresses; sandboxes in the emulated machine "
                 "that may reach the others' networks reach this host by them\n",
                 kMaxAddresses);
      break;
    }
    char name[INET6_ADDRSTRLEN];
    if (entry->ifa_addr->sa_family == AF_INET) {
      sockaddr_in v4;
      std::memcpy(&v4, entry->ifa_addr, sizeof v4);
      if (ntohl(v4.sin_addr.s_addr) >> 8 == 0x0a0002) continue;
      ::inet_ntop(AF_INET, &v4.sin_addr, name, sizeof name);
      text += fmt::format("{}{}/32", count++ == 0 ? "" : ",", name);
    } else if (entry->ifa_addr->sa_family == AF_INET6) {
      sockaddr_in6 v6;
      std::memcpy(&v6, entry->ifa_addr, sizeof v6);
      if (IN6_IS_ADDR_LINKLOCAL(&v6.sin6_addr)) continue;
      ::inet_ntop(AF_INET6, &v6.sin6_addr, name, sizeof name);
      text += fmt::format("{}{}/128", count++ == 0 ? "" : ",", name);
    }
  }
  return text;
}

std::vector<std::string> qemu_command(const Paths& paths, const Record& record) {
  // Without links: the machine looks for it before the host's root is its own.
  std::string agent = std::filesystem::canonical(find_program(kAgentProgram)).string();
  // images/machine/init reads words with commas and spaces between them.
  for (const std::string& path : {agent, paths.token})
    if (path.find_first_of(", \"") != std::string::npos)
      throw Failure("state", fmt::format("{} has a comma, space or quote in it", path),
                    "set HUTCH_RUNTIME and HUTCH_SHARE to folders without them");
  // docs/emulated-machine.md gives the reason for each of these settings.
  std::string kernel_words = fmt::format(
      "console=ttyS0 quiet panic=-1 mitigations=off audit=0 tsc=reliable cryptomgr.notests "
      "hutch.init={} hutch.args=--listen,0.0.0.0:{},--token-file,{} hutch.addresses={}",
      agent, kAgentPort, paths.token, host_addresses());
  if (record.virtual_time) kernel_words += " hutch.clock=virtual";
  const std::pair<const char*, std::string> options[] = {
      {"-name", "hutch-machine"},
      {"-display", "none"},
      {"-monitor", "none"},
      {"-qmp", fmt::format("unix:{},server=on,wait=off", monitor_path())},
      {"-machine", "q35"},
      // With a thread for each CPU, QEMU 7.2 hangs when the kernel changes its own code.
      {"-accel", "tcg,thread=single"},
      // QEMU does not tell a nested hypervisor of XSETBV, so guests would find a broken XSAVE.
      // With fast string operations Linux copies by bytes, each an instruction and so a nanosecond;
      // without, by eight of them, which is what memory takes.
      {"-cpu", record.virtual_time ? "max,+svm,+npt,-xsave,-erms,-fsrm" : "max,+svm,+npt,-xsave"},
      {"-smp", std::to_string(record.cpus)},
      {"-m", fmt::format("{}M", record.memory >> 20)},
      {"-kernel", find_shared(kMachineKernelFile)},
      {"-initrd", find_shared(kMachineInitrdFile)},
      {"-append", kernel_words},
      {"-serial", "file:" + paths.console},
      {"-netdev",
       fmt::format("user,id=net,hostfwd=tcp:127.0.0.1:{}-10.0.2.15:{}", record.port, kAgentPort)},
      {"-device", "virtio-net-pci,netdev=net,romfile="},
      {"-device", "virtio-rng-pci"},
      {"-virtfs", "local,path=/,mount_tag=host,security_model=none,multidevs=remap"},
  };
  std::vector<std::string> words{find_qemu(), "-nodefaults", "-no-user-config", "-no-reboot"};
  for (const auto& [option, value] : options) {
    words.emplace_back(option);
    words.push_back(value);
  }
  if (record.virtual_time)
    for (const char* word : {"-icount", "shift=0,sleep=off", "-rtc", "clock=vm"})
      words.emplace_back(word);
  return words;
}

// Starts QEMU in a session of its own, so that no terminal's signals reach it.
pid_t spawn_qemu(const Paths& paths, const std::vector<std::string>& arguments) {
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, paths.log.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  // Nothing that we were given may be held open by a program that stays.
  ::posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
  ::posix_spawn_file_actions_addchdir_np(&actions, "/");
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none, all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
  std::vector<char*> words;
  for (const std::string& argument : arguments)
    words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  pid_t id = 0;
  int error = ::posix_spawn(&id, words[0], &actions, &attributes, words.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) throw Failure(fail_errno(error, "running " + arguments[0]).value());
  return id;
}

Fd connect_port(uint16_t port) {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) throw Failure(fail_errno(errno, "opening a socket").value());
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return Fd();
  int yes = 1;
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  return socket;
}

// Whether its agent has said that it can be connected to. A greeting before that would stay with
// QEMU, and set the machine's clock to the time that it tells whenever it arrives.
bool is_listening(const Paths& paths) {
  auto console = read_file(paths.console, kConsoleLimit);
  return console && console->find(protocol::agent::kListeningLine) != std::string::npos;
}

// A greeted agent, or null when nobody answers yet. `why` gets the reason.
AgentHandle try_connect(const Paths& paths, uint16_t port, std::string* why) {
  Fd socket = connect_port(port);
  if (!socket) {
    *why = "nothing listens on its port";
    return nullptr;
  }
  std::string token = value_or_throw(read_file(paths.token, 256));
  while (!token.empty() && token.back() == '\n') token.pop_back();
  hutch_agent_options options{};
  options.size = sizeof options;
  options.fd = socket.get();
  options.token = token.c_str();
  options.timeout_ms = kGreetingTime;
  options.set_clock = 1;
  options.host_name = "hutch-machine";
  hutch_agent* made = nullptr;
  hutch_error* error = nullptr;
  if (hutch_agent_connect(&options, &made, &error) != HUTCH_OK) throw_error(error);
  AgentHandle agent(made);
  for (;;) {
    hutch_event* next = nullptr;
    if (hutch_agent_next_event(agent.get(), &next, &error) != HUTCH_OK) throw_error(error);
    EventHandle event(next);
    if (event && event->kind == HUTCH_EVENT_AGENT_READY) return agent;
    if (event && event->kind == HUTCH_EVENT_AGENT_LOST) {
      *why = event->message;
      return nullptr;
    }
    if (event) continue;
    pollfd poll{.fd = hutch_agent_event_fd(agent.get()), .events = POLLIN, .revents = 0};
    ::poll(&poll, 1, 1000);
  }
}

void wait_for_process(pid_t id, uint64_t began, uint64_t limit_ns) {
  uint64_t end = monotonic_ns() + limit_ns;
  while (process_began(id) == began && monotonic_ns() < end) {
    // It is our child only when this very process has started it.
    ::waitpid(id, nullptr, WNOHANG);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

// Under the lock.
bool end_machine(const Paths& paths) {
  std::optional<Record> record = load(paths);
  if (!record) return false;
  bool was_alive = is_alive(*record);
  if (was_alive) {
    std::string why;
    AgentHandle agent = try_connect(paths, record->port, &why);
    if (agent && hutch_agent_shutdown(agent.get(), 0, nullptr) == HUTCH_OK)
      wait_for_process(record->process_id, record->began, kPowerOffTime);
    for (int number : {SIGTERM, SIGKILL}) {
      if (!is_alive(*record)) break;
      ::kill(record->process_id, number);
      wait_for_process(record->process_id, record->began, 5 * kSecond);
    }
    if (is_alive(*record))
      throw Failure("machine", fmt::format("the machine's QEMU, process {}, cannot be ended",
                                           record->process_id));
  }
  ::unlink(paths.record.c_str());
  ::unlink(paths.token.c_str());
  return was_alive;
}

// Shows on standard error that something takes its time.
class Progress {
 public:
  explicit Progress(std::string text) : text_(std::move(text)), shows_(::isatty(STDERR_FILENO)) {
    if (!shows_) notice(text_ + " ...");
  }
  void tick() {
    uint64_t now = monotonic_ns();
    if (!shows_ || now - shown_ < 500 * kMillisecond) return;
    shown_ = now;
    fmt::print(stderr, "\rhutch: {} ... {} s ", text_, (now - start_) / kSecond);
    std::fflush(stderr);
  }
  void done() {
    if (shows_) fmt::print(stderr, "\r\x1b[K");
    notice(fmt::format("{}: {:.1f} s", text_, static_cast<double>(monotonic_ns() - start_) / 1e9));
  }

 private:
  std::string text_;
  bool shows_;
  uint64_t start_ = monotonic_ns();
  uint64_t shown_ = 0;
};

}  // namespace

MachineStatus machine_status() {
  Paths paths;
  MachineStatus status;
  status.folder = paths.folder;
  std::optional<Record> record = load(paths);
  if (!record) return status;
  status.state = is_alive(*record) ? MachineStatus::State::kRunning : MachineStatus::State::kDead;
  status.process_id = record->process_id;
  status.port = record->port;
  status.memory = record->memory;
  status.cpus = record->cpus;
  status.virtual_time = record->virtual_time;
  return status;
}

void start_machine(const MachineSize& size, std::chrono::nanoseconds timeout) {
  Paths paths;
  Lock lock(paths);
  std::string why;
  if (std::optional<Record> record = load(paths)) {
    if (is_alive(*record) && try_connect(paths, record->port, &why)) {
      if (!size.virtual_time || record->virtual_time) return;
      throw Failure("state", "the emulated machine runs, and not in virtual time",
                    "stop it first: hutch machine stop");
    }
    notice(is_alive(*record) ? "the emulated machine does not answer: " + why
                             : "the emulated machine has died; starting it anew");
    end_machine(paths);
  }
  if (::mkdir(paths.folder.c_str(), 0700) < 0 && errno != EEXIST)
    throw Failure(fail_errno(errno, "making the folder " + paths.folder).value());

  Record record;
  record.memory = size.memory;
  record.cpus = size.cpus;
  record.virtual_time = size.virtual_time;
  record.port = value_or_throw(free_local_port());
  write_private(paths.token, new_token() + "\n");
  ::unlink(paths.console.c_str());
  std::vector<std::string> command = qemu_command(paths, record);
  Progress progress("starting the emulated machine, which is slow");
  record.process_id = spawn_qemu(paths, command);
  record.began = process_began(record.process_id).value_or(0);
  save(paths, record);

  why = "its agent is not up";
  uint64_t end = monotonic_ns() + static_cast<uint64_t>(timeout.count());
  for (;;) {
    int status = 0;
    if (::waitpid(record.process_id, &status, WNOHANG) != 0 || !is_alive(record)) {
      std::string console = last_words(paths);
      end_machine(paths);
      throw Failure("machine_died", "the emulated machine ended while it started",
                    "look at " + paths.log)
          .with_console(console);
    }
    if (is_listening(paths) && try_connect(paths, record.port, &why)) break;
    progress.tick();
    if (monotonic_ns() >= end) {
      std::string console = last_words(paths);
      end_machine(paths);
      throw Failure(
          "machine_timeout",
          fmt::format("the emulated machine did not come up within {} s: {}",
                      std::chrono::duration_cast<std::chrono::seconds>(timeout).count(), why),
          "give it more time with --timeout, or more CPUs")
          .with_console(console);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  progress.done();
}

bool stop_machine() {
  Paths paths;
  Lock lock(paths);
  return end_machine(paths);
}

bool remove_machine() {
  Paths paths;
  Lock lock(paths);
  bool existed = ::access(paths.folder.c_str(), F_OK) == 0;
  // A damaged record cannot say what to stop, and must not stand in the way.
  try {
    end_machine(paths);
  } catch (const Failure& failure) {
    notice(failure.what());
  }
  for (const std::string& path :
       {paths.record, paths.token, paths.console, paths.log, monitor_path()})
    ::unlink(path.c_str());
  if (existed && ::rmdir(paths.folder.c_str()) < 0)
    throw Failure(fail_errno(errno, "removing " + paths.folder).value());
  return existed;
}

AgentHandle connect_to_machine() {
  Paths paths;
  std::optional<Record> record = load(paths);
  if (!record)
    throw Failure("no_machine", "the emulated machine is not running",
                  "start it: hutch machine start");
  if (!is_alive(*record)) fail_dead(paths, "the emulated machine has died");
  std::string why;
  AgentHandle agent = try_connect(paths, record->port, &why);
  if (!agent) fail_dead(paths, "the emulated machine does not answer: " + why);
  return agent;
}

}  // namespace hutch::cli
