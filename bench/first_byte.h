// The smallest guest, whose first exit is one byte on the serial port, and the programs that run
// it: from before such a program's process until that byte can be read here.
#pragma once

#include <string>
#include <vector>

#include "bench/subject.h"

namespace hutch::bench {

constexpr char kFirstByte = '!';

// The guest as files that are gone with this object.
class FirstByteGuest {
 public:
  FirstByteGuest();
  ~FirstByteGuest();
  FirstByteGuest(const FirstByteGuest&) = delete;
  FirstByteGuest& operator=(const FirstByteGuest&) = delete;

  // An ELF kernel that is entered in 64-bit mode.
  const std::string& kernel() const { return kernel_; }
  // A firmware image of 64 KiB: the byte comes from the processor's reset vector, before what any
  // real firmware would do.
  const std::string& firmware() const { return firmware_; }

 private:
  std::string folder_, kernel_, firmware_;
};

// Nanoseconds; `handicap_ns` is slept first. A hutch-vmm that libhutch starts.
uint64_t hutch_first_byte(const FirstByteGuest& guest, const std::string& vmm,
                          uint64_t handicap_ns);
// QEMU microvm, by its program.
uint64_t qemu_first_byte(const FirstByteGuest& guest, const std::string& program);
// Its command, whose serial port is standard output.
std::vector<std::string> qemu_first_byte_command(const FirstByteGuest& guest,
                                                 const std::string& program);

}  // namespace hutch::bench
