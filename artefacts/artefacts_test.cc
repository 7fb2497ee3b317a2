#include "artefacts/artefacts.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

using namespace hutch;

namespace {

namespace fs = std::filesystem;

// A share folder of the test's own, and the variables as they were at its end.
class Share {
 public:
  Share() {
    char name[] = "/tmp/hutch-artefacts-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    folder_ = name;
    ::setenv("HUTCH_SHARE", name, 1);
  }
  ~Share() {
    for (const char* name :
         {"HUTCH_SHARE", "HUTCH_LAYER_EXTENTS", "HUTCH_IN_MACHINE", "HUTCH_SCRATCH"})
      ::unsetenv(name);
    std::error_code error;
    fs::remove_all(folder_, error);
  }
  std::string make(const std::string& name) {
    std::ofstream(folder_ / name) << "content";
    return (folder_ / name).string();
  }

 private:
  fs::path folder_;
};

std::vector<uint64_t> extents(const char* text) {
  ::setenv("HUTCH_LAYER_EXTENTS", text, 1);
  Result<std::vector<uint64_t>> result = artefacts::layer_extents();
  return result ? *result : std::vector<uint64_t>{~uint64_t{0}};
}

}  // namespace

TEST_CASE(
    "files and images are found in HUTCH_SHARE, and what is missing is named with the places") {
  Share share;
  std::string kernel = share.make("vmlinux"), image = share.make("core.erofs");
  CHECK(*artefacts::find_shared("vmlinux") == kernel);
  CHECK(*artefacts::find_image("core") == image);
  CHECK(*artefacts::find_image(image) == image);
  Result<std::string> missing = artefacts::find_layer("other");
  REQUIRE(!missing);
  CHECK(missing.error().message.find("the layer \"other\" is missing; looked for ") == 0);
  CHECK(missing.error().message.find("other.ext4") != std::string::npos);
  CHECK(missing.error().remedy.find("HUTCH_SHARE") != std::string::npos);
  missing = artefacts::find_image("./no-such-image");
  REQUIRE(!missing);
  CHECK(missing.error().number == ENOENT);
}

TEST_CASE("a program is also found beside the running one") {
  Share share;
  std::string self = *artefacts::executable_path();
  CHECK(*artefacts::find_program(fs::path(self).filename().string()) == self);
  CHECK(!artefacts::find_shared(fs::path(self).filename().string()));
}

TEST_CASE("extents are pairs of offset and size") {
  Share share;
  const std::vector<uint64_t> bad{~uint64_t{0}};
  CHECK(extents("").empty());
  CHECK(extents("0+4096,8192+12288") == std::vector<uint64_t>{0, 4096, 8192, 12288});
  for (const char* text :
       {"1", "1+", "1,2", "1+2,", "1+2+3", "+", "-1+2", "1+2 ", "99999999999999999999+1"})
    CHECK_MESSAGE(extents(text) == bad, text);
}

TEST_CASE("in the emulated machine guests get longer, and disks in its memory") {
  Share share;
  ::setenv("HUTCH_SCRATCH", "/somewhere", 1);
  CHECK(artefacts::scratch_folder() == "/somewhere");
  uint32_t here = artefacts::boot_timeout_s();
  ::setenv("HUTCH_IN_MACHINE", "1", 1);
  CHECK(artefacts::is_in_machine());
  CHECK(artefacts::scratch_folder() != "/somewhere");
  CHECK(artefacts::boot_timeout_s() > here);
}
