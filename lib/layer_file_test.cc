// Files of disks' private layers.
#include "lib/layer_file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

using namespace hutch;
using namespace hutch::lib;

TEST_CASE("a layer's file has no name and no content; its view sees what is written, and cannot") {
  std::string folder = "/tmp/hutch-layer-test-XXXXXX";
  REQUIRE(::mkdtemp(folder.data()) != nullptr);
  LayerFile file = make_layer_file(folder).value();
  struct stat status {};
  REQUIRE(::fstat(file.file.get(), &status) == 0);
  CHECK(status.st_nlink == 0);
  CHECK(status.st_size == 0);
  REQUIRE(::pwrite(file.file.get(), "one", 3, 0) == 3);
  char text[3] = {};
  REQUIRE(::pread(file.view.get(), text, 3, 0) == 3);
  CHECK(std::string(text, 3) == "one");
  CHECK(::pwrite(file.view.get(), "two", 3, 0) == -1);
  CHECK(errno == EBADF);
  // The folder is empty.
  CHECK(::rmdir(folder.c_str()) == 0);
}

TEST_CASE("a folder that is missing is named") {
  Result<LayerFile> file = make_layer_file("/no/such/folder");
  REQUIRE_FALSE(file);
  CHECK(file.error().message.find("/no/such/folder") != std::string::npos);
  CHECK_FALSE(file.error().remedy.empty());
}
