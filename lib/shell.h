// Shell: a VMM process that was started ahead, with an empty VM in it: it knows nothing of the
// machine that it will be. Which takes the kernel's work for a process and a VM off that machine's
// way.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "lib/spawn.h"

namespace hutch::lib {

struct ShellOptions {
  std::string vmm_path;  // empty: hutch-vmm beside the running executable
  std::string kvm_path;
  int log = -1;  // borrowed during the start
  bool end_with_thread = false;
};

// An open /dev/kvm. Errors say what helps.
Result<Fd> open_kvm(const std::string& path);

class Shell {
 public:
  // Starts a process without a VM in it, for a machine that is known already.
  static Result<Shell> start(const ShellOptions& options);
  // Starts one, and has it make its VM.
  static Result<Shell> prepare(const ShellOptions& options);
  Shell(Shell&&) noexcept = default;
  Shell& operator=(Shell&&) = delete;
  // Kills the process, unless it was released.
  ~Shell();

  // Whether the process is there.
  bool is_alive() const;
  bool is_prepared() const { return is_prepared_; }
  // The program that runs.
  const std::string& vmm_path() const { return vmm_path_; }
  // Whose the two are from now on.
  Child release_process() { return std::move(child_); }
  Fd release_control() { return std::move(control_); }

 private:
  Shell(std::string vmm_path, Child child, Fd control)
      : vmm_path_(std::move(vmm_path)), child_(std::move(child)), control_(std::move(control)) {}

  std::string vmm_path_;
  Child child_;
  Fd control_;
  bool is_prepared_ = false;
};

}  // namespace hutch::lib
