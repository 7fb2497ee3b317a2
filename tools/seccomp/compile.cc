// Compiles seccomp rule files to a C++ header with the finished BPF program.
//
// Usage: seccomp-compile NAME OUTPUT RULES... A rule file has one rule a line:
//
//   syscall                      # reason
//   syscall ARGUMENT == VALUE    # reason; ARGUMENT is 0 to 5, VALUE a number or a known name
//
// Everything else kills the process. Compiling at build time keeps the compiler out of the
// programs, and the start of a machine free of its work.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

const std::map<std::string, uint64_t> kNames{
    {"KVM_RUN", KVM_RUN},
    {"KVM_GET_REGS", KVM_GET_REGS},
    {"KVM_TRANSLATE", KVM_TRANSLATE},
    {"KVM_SET_MP_STATE", KVM_SET_MP_STATE},
    {"KVM_GET_MP_STATE", KVM_GET_MP_STATE},
    {"KVM_GET_SREGS", KVM_GET_SREGS},
    {"KVM_GET_XCRS", KVM_GET_XCRS},
    {"KVM_GET_DEBUGREGS", KVM_GET_DEBUGREGS},
    {"KVM_GET_LAPIC", KVM_GET_LAPIC},
    {"KVM_GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS},
    {"KVM_GET_TSC_KHZ", KVM_GET_TSC_KHZ},
    {"KVM_GET_IRQCHIP", KVM_GET_IRQCHIP},
    {"KVM_GET_CLOCK", KVM_GET_CLOCK},
    {"KVM_CHECK_EXTENSION", KVM_CHECK_EXTENSION},
    // Their structures end in a list, which has another size in C++ than in C.
    {"KVM_GET_MSR_INDEX_LIST", 0xc004ae02},
    {"KVM_GET_MSRS", 0xc008ae88},
    {"KVM_GET_XSAVE2", 0x9000aecf},
    {"PROT_NONE", PROT_NONE},
    {"PROT_READ", PROT_READ},
    {"PROT_READ|PROT_WRITE", PROT_READ | PROT_WRITE},
    {"MADV_DONTNEED", MADV_DONTNEED},
    {"AF_INET", AF_INET},
    {"AF_INET6", AF_INET6},
    {"AF_NETLINK", AF_NETLINK},
    {"SO_ERROR", SO_ERROR},
    {"F_GETFL", F_GETFL},
    {"F_SETFL", F_SETFL},
    {"SO_LINGER", SO_LINGER},
    {"FIONBIO", 0x5421},
    {"PR_SET_VMA", 0x53564d41},
};

[[noreturn]] void stop(const std::string& where, const std::string& what) {
  std::cerr << where << ": " << what << "\n";
  std::exit(1);
}

uint64_t value_of(const std::string& where, const std::string& text) {
  if (auto known = kNames.find(text); known != kNames.end()) return known->second;
  char* end = nullptr;
  uint64_t value = std::strtoull(text.c_str(), &end, 0);
  if (text.empty() || *end != '\0') stop(where, "unknown value " + text);
  return value;
}

// Adds the rules of the file `path`; ends the program at one that is not understood.
void add_rules(scmp_filter_ctx filter, const std::string& path) {
  std::ifstream rules(path);
  if (!rules) stop(path, "cannot be read");
  std::string line;
  for (int number = 1; std::getline(rules, line); number++) {
    std::string where = path + ":" + std::to_string(number);
    size_t hash = line.find('#');
    std::istringstream words(line.substr(0, hash));
    std::string syscall, argument, comparison, value;
    if (!(words >> syscall)) continue;
    if (hash == std::string::npos) stop(where, "a rule needs a reason behind #");
    int syscall_number = seccomp_syscall_resolve_name(syscall.c_str());
    if (syscall_number == __NR_SCMP_ERROR) stop(where, "unknown system call " + syscall);
    int status;
    if (words >> argument) {
      if (!(words >> comparison >> value) || comparison != "==")
        stop(where, "a condition reads: ARGUMENT == VALUE");
      scmp_arg_cmp equal{static_cast<unsigned>(value_of(where, argument)), SCMP_CMP_EQ,
                         value_of(where, value), 0};
      status = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, syscall_number, 1, &equal);
    } else {
      status = seccomp_rule_add(filter, SCMP_ACT_ALLOW, syscall_number, 0);
    }
    if (status < 0) stop(where, "the rule is refused");
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4) stop("seccomp-compile", "usage: seccomp-compile NAME OUTPUT RULES...");
  std::string name = arguments[1], output = arguments[2];
  scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
  for (int i = 3; i < count; i++) add_rules(filter, arguments[i]);

  std::FILE* program = std::tmpfile();
  if (program == nullptr || seccomp_export_bpf(filter, fileno(program)) < 0)
    stop(name, "the filter cannot be compiled");
  seccomp_release(filter);
  std::rewind(program);
  std::ofstream header(output);
  header << "// Made by tools/seccomp/compile.cc.\n"
         << "#pragma once\n#include <linux/filter.h>\n\nnamespace hutch {\n"
         << "inline constexpr sock_filter " << name << "[] = {\n";
  sock_filter instruction;
  while (std::fread(&instruction, sizeof instruction, 1, program) == 1)
    header << "    {" << instruction.code << ", " << static_cast<int>(instruction.jt) << ", "
           << static_cast<int>(instruction.jf) << ", " << instruction.k << "u},\n";
  header << "};\n}  // namespace hutch\n";
  std::fclose(program);
  return header ? 0 : 1;
}
