// The seal of a folder, damaged, and sealed well but with any content, and what it says of a
// snapshot. Besides memory errors, this looks for another exception than one that says what is
// wrong.
#include <stdlib.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "control/seal.h"
#include "control/snapshots.h"

namespace {

using namespace hutch::control;  // NOLINT: one room

// A folder with one file, of 5 bytes, for as long as the program runs.
const std::string& folder() {
  // Never destroyed: what removes the folder runs last.
  static const std::string& path = *[] {
    char name[] = "/tmp/hutch-seal-fuzz-XXXXXX";
    if (::mkdtemp(name) == nullptr) std::abort();
    std::ofstream(std::string(name) + "/memory") << "bytes";
    std::atexit([] { std::filesystem::remove_all(folder()); });
    return new std::string(name);
  }();
  return path;
}

void check(const std::string& seal) {
  const SealKey key{1};
  std::ofstream(folder() + "/seal", std::ios::trunc | std::ios::binary) << seal;
  try {
    parse_snapshot(read_seal(folder(), key));
  } catch (const std::exception& error) {
    if (*error.what() == 0) std::abort();
  }
  try {
    check_sealed_files(folder(), key);
  } catch (const std::runtime_error& error) {
    if (*error.what() == 0) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  check(bytes);
  check(sealed_text({1}, bytes));
  return 0;
}
