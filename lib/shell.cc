#include "lib/shell.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/sys.h"
#include "protocol/vmm.h"

namespace hutch::lib {
namespace {

Result<std::string> vmm_beside_executable() {
  std::array<char, 4096> path;
  ssize_t size = ::readlink("/proc/self/exe", path.data(), path.size());
  if (size < 0 || static_cast<size_t>(size) == path.size())
    return fail_errno(size < 0 ? errno : ENAMETOOLONG, "reading /proc/self/exe");
  std::string text(path.data(), static_cast<size_t>(size));
  return text.substr(0, text.rfind('/') + 1) + "hutch-vmm";
}

}  // namespace

Result<Fd> open_kvm(const std::string& path) {
  Result<Fd> kvm = open_file(path, O_RDWR);
  if (kvm) return kvm;
  switch (kvm.error().number) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return fail_errno(kvm.error().number, fmt::format("opening {}", path),
                        "enable virtualisation in the firmware and load kvm-intel or kvm-amd");
    case EACCES:
    case EPERM:
      return fail_errno(kvm.error().number, fmt::format("opening {}", path),
                        "add yourself to the group kvm: sudo usermod -aG kvm $USER, log in anew");
    default:
      return kvm;
  }
}

Result<Shell> Shell::start(const ShellOptions& options) {
  std::string path = options.vmm_path;
  if (path.empty()) path = TRY(vmm_beside_executable());
  auto [ours, theirs] = TRY(socket_pair(SOCK_SEQPACKET));
  TRY(set_nonblocking(ours.get()));
  Child child = TRY(start_child({.path = path,
                                 .control = theirs.get(),
                                 .log = options.log,
                                 .end_with_thread = options.end_with_thread}));
  return Shell(std::move(path), std::move(child), std::move(ours));
}

Result<Shell> Shell::prepare(const ShellOptions& options) {
  Shell shell = TRY(start(options));
  protocol::vmm::Prepare message;
  message.kvm = TRY(open_kvm(options.kvm_path));
  protocol::vmm::Packet packet = encode(message);
  Result<void> sent = send_message(shell.control_.get(), packet.bytes, packet.fds);
  // One that ended at once is replaced when a machine is to have it, which then says why.
  if (!sent && sent.error().number != EPIPE && sent.error().number != ECONNRESET)
    return tl::unexpected(sent.error());
  shell.is_prepared_ = true;
  return shell;
}

Shell::~Shell() {
  if (child_.process) kill_child(child_);
}

bool Shell::is_alive() const {
  pollfd process{child_.process.get(), POLLIN, 0};
  return ::poll(&process, 1, 0) == 0;
}

}  // namespace hutch::lib
