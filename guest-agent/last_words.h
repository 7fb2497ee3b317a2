// The agent's last words: how a fatal error reaches a person before the agent is gone.
//
// As PID 1 nobody sees the agent's standard error, and a PID 1 that just exits makes the kernel
// panic without a reason. So a fatal error goes to the kernel log, which the console shows, and
// then the machine powers off. As an ordinary process it goes to standard error and the process
// exits.
#pragma once

#include "base/result.h"

namespace hutch::agent {

// Where last words go, and what follows them.
enum class Ending { kExit, kPowerOff };

// Opens /dev/kmsg for last words and makes it standard error, so that warnings land in the kernel
// log too; standard input and output become /dev/null. Needs /dev. Before it, last words go to the
// standard error that the process was given.
Result<void> use_kernel_log();

// Chooses the ending and catches the signals of a crash (SIGSEGV and its like), once, at the start.
// A child that does not exec calls forget_crash_handlers() first.
void install_crash_handlers(Ending ending);
void forget_crash_handlers();

// Says why and ends: power-off or exit status 1.
[[noreturn]] void die(const Error& error);

}  // namespace hutch::agent
