// Private copies of disk templates.
#include "lib/private_copy.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/sys.h"

using namespace hutch;
using namespace hutch::lib;

namespace {

constexpr uint64_t kSize = 64 << 20;

struct Folder {
  std::string path = "/tmp/hutch-copy-test-XXXXXX";
  Folder() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
  ~Folder() { ::rmdir(path.c_str()); }
};

// 64 MiB with "one" at 1 MiB and "two" at its very end.
Fd make_template() {
  char name[] = "/tmp/hutch-copy-test-XXXXXX";
  Fd file(::mkostemp(name, O_CLOEXEC));
  REQUIRE(file);
  ::unlink(name);
  REQUIRE(::ftruncate(file.get(), kSize) == 0);
  REQUIRE(::pwrite(file.get(), "one", 3, 1 << 20) == 3);
  REQUIRE(::pwrite(file.get(), "two", 3, kSize - 3) == 3);
  return file;
}

std::string read_at(int fd, uint64_t offset) {
  std::string text(3, '\0');
  REQUIRE(read_exactly_at(fd, std::as_writable_bytes(std::span(text)), offset));
  return text;
}

}  // namespace

TEST_CASE("a copy has the template's data and size, little else, and no name") {
  Folder folder;
  Fd source = make_template();
  Fd copy = private_copy(source.get(), folder.path, {}).value();
  CHECK(file_size(copy.get()).value() == kSize);
  CHECK(read_at(copy.get(), 1 << 20) == "one");
  CHECK(read_at(copy.get(), kSize - 3) == "two");
  CHECK(read_at(copy.get(), 5 << 20) == std::string(3, '\0'));
  struct stat status {};
  REQUIRE(::fstat(copy.get(), &status) == 0);
  CHECK(status.st_blocks * 512 < 1 << 20);
  CHECK(status.st_nlink == 0);
}

TEST_CASE("writing to a copy leaves the template as it is") {
  Folder folder;
  Fd source = make_template();
  Fd copy = private_copy(source.get(), folder.path, {}).value();
  REQUIRE(::pwrite(copy.get(), "new", 3, 1 << 20) == 3);
  CHECK(read_at(source.get(), 1 << 20) == "one");
}

TEST_CASE("given extents are copied, and nothing else") {
  Folder folder;
  Fd source = make_template();
  const Extent extents[] = {{kSize - 3, 3}};
  Fd copy = private_copy(source.get(), folder.path, extents).value();
  CHECK(read_at(copy.get(), kSize - 3) == "two");
  CHECK(file_size(copy.get()).value() == kSize);
}

TEST_CASE("extents beyond the template are refused") {
  Folder folder;
  Fd source = make_template();
  const Extent past_end[] = {{kSize - 3, 4}};
  CHECK_FALSE(private_copy(source.get(), folder.path, past_end));
  const Extent wrapping[] = {{UINT64_MAX, 2}};
  CHECK_FALSE(private_copy(source.get(), folder.path, wrapping));
}

TEST_CASE("a folder that is missing is named") {
  Fd source = make_template();
  Result<Fd> copy = private_copy(source.get(), "/no/such/folder", {});
  REQUIRE_FALSE(copy);
  CHECK(copy.error().message.find("/no/such/folder") != std::string::npos);
  CHECK_FALSE(copy.error().remedy.empty());
}
