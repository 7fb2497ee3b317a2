#include "cli/host_probe.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/sys.h"
#include "cli/child.h"
#include "cli/failure.h"
#include "cli/runtime_folder.h"
#include "cli/share.h"

namespace hutch::cli {
namespace {

constexpr int kProbeTimeout = 20'000;

std::optional<Probe> parse(const std::string& text) {
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("ok") || !json["ok"].is_boolean()) return std::nullopt;
  Probe probe{json["ok"].get<bool>(), ""};
  if (json.contains("detail") && json["detail"].is_string())
    probe.detail = json["detail"].get<std::string>();
  return probe;
}

// Names this boot and this hutch-vmm, so that an answer is not used for another.
std::string cache_name(const std::string& program) {
  std::string boot = value_or_throw(read_file("/proc/sys/kernel/random/boot_id", 64));
  while (!boot.empty() && boot.back() == '\n') boot.pop_back();
  struct stat status {};
  ::stat(program.c_str(), &status);
  // A user who has just been allowed to use /dev/kvm is to be asked again.
  bool allowed = ::access("/dev/kvm", R_OK | W_OK) == 0;
  return fmt::format("probe-{}-{:x}-{:x}-{}", boot, status.st_ino, status.st_mtim.tv_nsec, allowed);
}

}  // namespace

Probe probe_host() {
  std::string program = find_program(kVmmProgram);
  ChildResult result = run_child({program, "--probe"}, kProbeTimeout);
  std::optional<Probe> probe = parse(result.output);
  if (!probe)
    throw Failure("probe",
                  fmt::format("{} --probe ended with {} and did not say what it found", program,
                              result.exit_code),
                  "use the hutch-vmm that came with this program");
  return *probe;
}

Probe cached_probe() {
  std::string path = runtime_folder() + "/" + cache_name(find_program(kVmmProgram));
  if (Result<std::string> text = read_file(path, 64 * 1024))
    if (std::optional<Probe> probe = parse(*text)) return *probe;
  Probe probe = probe_host();
  std::string temporary = fmt::format("{}.{}", path, ::getpid());
  std::string text = nlohmann::json{{"ok", probe.ok}, {"detail", probe.detail}}.dump();
  // Without the file the next run asks again; that is all.
  if (Result<Fd> file = open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600)) {
    bool written = write_all(file->get(), std::as_bytes(std::span(text))).has_value();
    if (!written || std::rename(temporary.c_str(), path.c_str()) != 0) ::unlink(temporary.c_str());
  }
  return probe;
}

}  // namespace hutch::cli
