#include "bench/peer_run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "artefacts/artefacts.h"
#include "base/sys.h"
#include "bench/interrupt.h"
#include "bench/machine.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

constexpr uint32_t kAgentPort = 1024;  // protocol/agent.h: kHostPort
constexpr int kStepMs = 500;

template <typename Address>
Fd listen_at(int family, const Address& address) {
  Fd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0 ||
      ::listen(socket.get(), 1) < 0)
    return Fd();
  return socket;
}

}  // namespace

PeerRun::PeerRun(const Peer& peer, const PeerMachine& machine)
    : peer_(peer), start_(peer_start(peer, machine)) {
  if (!start_.config.empty()) {
    std::ofstream file(config_path(machine));
    file << start_.config;
    file.close();
    if (!file) throw BenchFailure(fmt::format("{} cannot be written", config_path(machine)));
  }
  listen_for_agent();
}

PeerRun::~PeerRun() {
  end();
}

void PeerRun::listen_for_agent() {
  if (start_.agent_socket.empty()) {
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = VMADDR_CID_ANY;
    address.svm_port = kAgentPort;
    listener_ = listen_at(AF_VSOCK, address);
    if (!listener_)
      throw BenchFailure(
          fmt::format("vsock port {} cannot be listened at: {}; load the module: "
                      "modprobe vhost_vsock",
                      kAgentPort, std::strerror(errno)));
    return;
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (start_.agent_socket.size() >= sizeof address.sun_path)
    throw BenchFailure(fmt::format("{} is too long for a socket", start_.agent_socket));
  std::memcpy(address.sun_path, start_.agent_socket.data(), start_.agent_socket.size());
  ::unlink(start_.agent_socket.c_str());
  listener_ = listen_at(AF_UNIX, address);
  if (!listener_)
    throw BenchFailure(
        fmt::format("{} cannot be listened at: {}", start_.agent_socket, std::strerror(errno)));
}

void PeerRun::fail(const std::string& what) const {
  throw BenchFailure(fmt::format("{}: {}; its messages are above, its command is {}", peer_.name(),
                                 what, fmt::join(start_.words, " ")));
}

void PeerRun::start_and_echo() {
  child_ = start_child(start_.words);
  wait_for_agent();
  echo_by(agent_.get(), [this](hutch_task task, const IsDone& done) { wait(task, done); });
}

bool PeerRun::poll_with_mark(int fd) {
  uint64_t limit = monotonic_ns() + uint64_t{artefacts::boot_timeout_s()} * 1'000'000'000;
  for (;;) {
    throw_if_interrupted();
    std::array<pollfd, 2> ready{{{fd, POLLIN, 0}, {child_.output.get(), POLLIN, 0}}};
    ::poll(ready.data(), output_ended_ ? 1 : 2, kStepMs);
    uint64_t now = monotonic_ns();
    if (!output_ended_ && ready[1].revents != 0) {
      std::array<char, 256> bytes;
      if (::read(child_.output.get(), bytes.data(), bytes.size()) <= 0) {
        output_ended_ = true;
        if (!agent_) fail("it ended before its agent came");
      } else if (start_.shows_init && !init_ns_) {
        init_ns_ = now;
      }
    }
    if (ready[0].revents != 0) return true;
    if (now > limit) fail("its agent does not come");
  }
}

void PeerRun::wait_for_agent() {
  poll_with_mark(listener_.get());
  Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket) fail(fmt::format("accepting its agent: {}", std::strerror(errno)));
  agent_ns_ = monotonic_ns();
  hutch_agent_options options{};
  options.size = sizeof options;
  options.fd = socket.get();
  options.timeout_ms = artefacts::boot_timeout_s() * 1000;
  options.host_name = "hutch";
  options.set_clock = 1;
  hutch_agent* agent = nullptr;
  hutch_error* error = nullptr;
  check(hutch_agent_connect(&options, &agent, &error), error);
  agent_.reset(agent);
}

void PeerRun::wait(hutch_task task, const IsDone& is_done) {
  for (;;) {
    hutch_event* event = nullptr;
    hutch_error* error = nullptr;
    check(hutch_agent_next_event(agent_.get(), &event, &error), error);
    if (event == nullptr) {
      poll_with_mark(hutch_agent_event_fd(agent_.get()));
      continue;
    }
    std::unique_ptr<hutch_event, decltype(&hutch_event_free)> owner(event, hutch_event_free);
    if (event->kind == HUTCH_EVENT_AGENT_LOST || event->kind == HUTCH_EVENT_FAILED)
      fail(event->message);
    if (event->task == task && is_done(*event)) return;
  }
}

void PeerRun::end() {
  if (child_.process_id == 0) return;
  ::kill(child_.process_id, SIGKILL);
  wait_for(child_);
  child_.process_id = 0;
}

}  // namespace hutch::bench
