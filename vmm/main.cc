// hutch-vmm: runs one virtual machine for the launcher at the other end of its control socket.
//
//   hutch-vmm --control-fd N   serve the VMM protocol on inherited descriptor N
//   hutch-vmm --probe          say as JSON whether this host's KVM can run a guest kernel
//   hutch-vmm --version
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "base/log.h"
#include "base/sys.h"
#include "memory/memory_image.h"
#include "vmm/control.h"
#include "vmm/probe.h"

namespace hutch::vmm {
namespace {

void print(const std::string& text) {
  [[maybe_unused]] Result<void> written =
      write_all(STDOUT_FILENO, std::as_bytes(std::span(text.data(), text.size())));
}

// The texts are ours, but an errno or an address may carry anything: quotes and controls go.
std::string json_string(const std::string& text) {
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return quoted + "\"";
}

int run_probe() {
  Result<Fd> device = open_file("/dev/kvm", O_RDWR);
  Result<void> probed = device ? probe_kvm(*std::move(device)) : tl::unexpected(device.error());
  print(fmt::format("{{\"ok\":{},\"detail\":{},\"remedy\":{}}}\n", probed.has_value(),
                    json_string(probed ? "a test guest ran" : probed.error().message),
                    json_string(probed ? "" : probed.error().remedy)));
  return probed ? 0 : 1;
}

int usage() {
  log_error("usage: hutch-vmm --control-fd N | --probe | --version; hutch run starts it for you");
  return 2;
}

int run(int count, char** arguments) {
  set_log_program("hutch-vmm");
  if (const char* level = std::getenv("HUTCH_LOG");
      level != nullptr && std::strcmp(level, "debug") == 0)
    set_log_level(LogLevel::kDebug);
  // Before the process keeps its own files from itself.
  Result<Fd> page_map = open_page_map();
  // A guest's data must not end in a core file, and a closed stream is an error, not a signal.
  ::prctl(PR_SET_DUMPABLE, 0);
  ::signal(SIGPIPE, SIG_IGN);

  std::string option = count > 1 ? arguments[1] : "";
  if (option == "--version" && count == 2) {
    print("hutch-vmm " HUTCH_VERSION "\n");
    return 0;
  }
  if (option == "--probe" && count == 2) return run_probe();
  if (option != "--control-fd" || count != 3) return usage();
  char* end = nullptr;
  long number = std::strtol(arguments[2], &end, 10);
  if (*end != '\0' || number < 3 || number > 1023) return usage();
  return serve_control(Fd(static_cast<int>(number)), page_map ? *std::move(page_map) : Fd());
}

}  // namespace
}  // namespace hutch::vmm

int main(int count, char** arguments) {
  // Without the clean-up of exit(): other threads may still be running.
  ::_exit(hutch::vmm::run(count, arguments));
}
