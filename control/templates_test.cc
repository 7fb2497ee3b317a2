#include "control/templates.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>

#include "base/sys.h"

using namespace hutch;
using namespace hutch::control;
namespace fs = std::filesystem;

namespace {

std::string text_of(const Fd& file) {
  std::string text(file_size(file.get()).value(), '\0');
  REQUIRE(read_exactly_at(file.get(), std::as_writable_bytes(std::span(text)), 0));
  return text;
}

const Shape kShape{.memory = 256 << 20, .cpus = 2, .organisation = "one"};

struct World {
  World() {
    char name[] = "/tmp/hutch-templates-test-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    folder = name;
    for (std::string* part :
         {&parts.kernel, &parts.initramfs, &parts.image, &parts.layer, &parts.vmm}) {
      *part = fmt::format("{}/part-{}", folder, static_cast<void*>(part));
      std::ofstream(*part) << "content";
    }
  }
  ~World() { fs::remove_all(folder); }
  std::unique_ptr<Templates> templates(bool on = true) {
    return std::make_unique<Templates>(context, folder + "/templates", parts, on);
  }
  // Once those that an earlier server left have been read.
  std::unique_ptr<Templates> settled_templates() {
    auto all = templates();
    settle(*all, kShape);
    return all;
  }
  bool settle(Templates& all, const Shape& shape) {
    std::optional<bool> is_there;
    all.when_settled(shape, [&](bool found) { is_there = found; });
    for (int i = 0; i < 10'000 && !is_there; i++) {
      context.restart();
      if (context.poll() == 0) ::usleep(1000);
    }
    REQUIRE(is_there);
    return *is_there;
  }
  // The one folder that there is.
  std::string only() {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder + "/templates"))
      if (entry.is_directory()) return entry.path();
    return "";
  }
  // A file without a name, in the file system of the templates or in another one.
  Fd layer(const std::string& text, const char* in = nullptr) {
    Fd file(::open(in != nullptr ? in : folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    REQUIRE(write_all(file.get(), std::as_bytes(std::span(text.data(), text.size()))));
    return file;
  }
  // Makes one, and waits for it.
  void make(const Shape& shape) {
    auto all = templates();
    std::unique_ptr<Draft> draft = all->begin(shape);
    REQUIRE(draft);
    REQUIRE(write_all(draft->memory.get(), std::as_bytes(std::span("memory", 6))));
    REQUIRE(write_all(draft->state.get(), std::as_bytes(std::span("state", 5))));
    draft->layers.push_back(layer("layer"));
    draft->layers.push_back(layer("second layer"));
    CHECK(!all->find(shape));
    CHECK(!all->begin(shape));
    all->finish(shape, std::move(draft));
    CHECK(all->find(shape));
    CHECK(!all->begin(shape));
    CHECK(settle(*all, shape));
    CHECK(all->find(shape));
  }

  boost::asio::io_context context{1};
  std::string folder;
  artefacts::Parts parts;
};

}  // namespace

TEST_CASE("a template is found once it is finished, by its shape, also by the next server") {
  World world;
  world.make(kShape);
  auto all = world.templates();
  // Not before its files have been read.
  CHECK(!all->find(kShape));
  CHECK(!all->begin(kShape));
  CHECK(world.settle(*all, kShape));
  std::shared_ptr<const Template> found = all->find(kShape);
  REQUIRE(found);
  REQUIRE(found->layers.size() == 2);
  CHECK(text_of(found->layers[0]) == "layer");
  CHECK(text_of(found->layers[1]) == "second layer");
  std::string bytes(6, 0);
  REQUIRE(read_exactly_at(found->memory.get(), std::as_writable_bytes(std::span(bytes)), 0));
  CHECK(bytes == "memory");
  CHECK(found->key == all->key());
  CHECK(!all->begin(kShape));
  struct stat status {};
  REQUIRE(::stat((world.folder + "/templates").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0700);
  for (Shape other :
       {Shape{512 << 20, 2, false, false, "one"}, Shape{256 << 20, 1, false, false, "one"},
        Shape{256 << 20, 2, true, false, "one"}, Shape{256 << 20, 2, true, true, "one"},
        Shape{256 << 20, 2, false, false, "other"}}) {
    CHECK(!all->find(other));
    CHECK(all->begin(other));
  }
}

TEST_CASE("what a machine is made of being another makes it another template") {
  World world;
  world.make(kShape);
  std::string old = world.only();
  std::ofstream(world.parts.initramfs) << "another content";
  auto all = world.settled_templates();
  CHECK(!all->find(kShape));
  CHECK(all->begin(kShape));
  // What nobody can use takes no space.
  all.reset();
  CHECK(!fs::exists(old));
}

TEST_CASE("C14: one that was damaged while no server ran is none, and another one is made") {
  for (const char* name : {"/memory", "/state", "/layer-0", "/layer-1", "/seal"}) {
    World world;
    world.make(kShape);
    std::string file = world.only() + name;
    std::string text = read_file(file, 1 << 20).value();
    text[3] = static_cast<char>(text[3] ^ 1);
    std::ofstream(file) << text;
    auto all = world.settled_templates();
    CHECK(!all->find(kShape));
    CHECK(world.only().empty());
    CHECK(all->begin(kShape));
  }
}

TEST_CASE("what is not finished is none, and is removed by the next server") {
  World world;
  {
    auto all = world.templates();
    std::unique_ptr<Draft> draft = all->begin(kShape);
    REQUIRE(draft);
    all->give_up(kShape, std::move(draft));
    CHECK(!all->find(kShape));
    draft = all->begin(kShape);
    REQUIRE(draft);
    // A crash.
    fs::copy(world.folder + "/templates", world.folder + "/left", fs::copy_options::recursive);
  }
  fs::remove_all(world.folder + "/templates");
  fs::rename(world.folder + "/left", world.folder + "/templates");
  auto count = [&] {
    return std::distance(fs::directory_iterator(world.folder + "/templates"), {});
  };
  CHECK(count() == 2);  // the key, and what is left
  auto all = world.templates();
  CHECK(count() == 1);
  CHECK(all->begin(kShape));
}

TEST_CASE("one that is of no use is removed, and not made again") {
  World world;
  world.make(kShape);
  auto all = world.settled_templates();
  REQUIRE(all->find(kShape));
  all->discard(kShape);
  CHECK(!all->find(kShape));
  CHECK(!all->begin(kShape));
  CHECK(world.templates()->begin(kShape));
}

TEST_CASE(
    "one that was saved just now is found before it is on the disk, and not written any more") {
  World world;
  auto all = world.templates();
  std::unique_ptr<Draft> draft = all->begin(kShape);
  REQUIRE(draft);
  REQUIRE(write_all(draft->memory.get(), std::as_bytes(std::span("memory", 6))));
  draft->layers.push_back(world.layer("layer"));
  all->finish(kShape, std::move(draft));
  std::shared_ptr<const Template> found = all->find(kShape);
  REQUIRE(found);
  CHECK(text_of(found->memory) == "memory");
  REQUIRE(found->layers.size() == 1);
  CHECK(text_of(found->layers[0]) == "layer");
  for (const Fd* file : {&found->memory, &found->state, &found->layers[0]})
    CHECK((::fcntl(file->get(), F_GETFL) & O_ACCMODE) == O_RDONLY);
  // It does not work: what is on its way to the disk is of no use either.
  all->discard(kShape);
  CHECK(!all->find(kShape));
  CHECK(!world.settle(*all, kShape));
  CHECK(world.only().empty());
}

TEST_CASE("the pages of a first command are recorded by one fork at a time, until there are some") {
  World world;
  world.make(kShape);
  auto all = world.templates();
  CHECK(!all->wants_pages(kShape));
  CHECK(world.settle(*all, kShape));
  CHECK(all->wants_pages(kShape));
  CHECK(!all->wants_pages(kShape));
  all->keep_pages(kShape, Fd());
  CHECK(!all->find(kShape)->pages);
  CHECK(all->wants_pages(kShape));
  all->keep_pages(kShape, world.layer("pages"));
  CHECK(text_of(all->find(kShape)->pages) == "pages");
  CHECK(!all->wants_pages(kShape));
  // Of a template that is gone.
  all->discard(kShape);
  all->keep_pages(kShape, world.layer("pages"));
  CHECK(!all->wants_pages(kShape));
}

TEST_CASE("one that cannot be kept is none") {
  World world;
  auto all = world.templates();
  std::unique_ptr<Draft> draft = all->begin(kShape);
  REQUIRE(draft);
  fs::remove_all(world.only());
  all->finish(kShape, std::move(draft));
  CHECK(!world.settle(*all, kShape));
  CHECK(!all->find(kShape));
  CHECK(all->begin(kShape));
}

TEST_CASE("one of its own is there as long as somebody has it") {
  World world;
  auto all = world.templates(false);
  std::unique_ptr<Draft> draft = all->begin_own();
  draft->layers.push_back(world.layer("layer"));
  std::shared_ptr<const Template> own = all->finish_own(std::move(draft));
  REQUIRE(own->layers.size() == 1);
  CHECK(text_of(own->layers[0]) == "layer");
  auto files = [&] {
    return std::distance(fs::directory_iterator(world.folder + "/templates"), {});
  };
  CHECK(files() == 2);  // the key, and its folder
  own.reset();
  CHECK(files() == 1);
}

TEST_CASE("a layer of another file system is copied, and its holes stay holes") {
  World world;
  {
    auto all = world.templates();
    std::unique_ptr<Draft> draft = all->begin(kShape);
    Fd layer = world.layer("start", "/dev/shm");
    REQUIRE(::pwrite(layer.get(), "end", 3, 64 << 20) == 3);
    draft->layers.push_back(std::move(layer));
    all->finish(kShape, std::move(draft));
  }
  auto all = world.settled_templates();
  std::shared_ptr<const Template> found = all->find(kShape);
  REQUIRE(found);
  REQUIRE(found->layers.size() == 1);
  std::string text = text_of(found->layers[0]);
  CHECK(text.size() == (64 << 20) + 3);
  CHECK(text.starts_with("start"));
  CHECK(text.ends_with("end"));
  struct stat status {};
  REQUIRE(::fstat(found->layers[0].get(), &status) == 0);
  CHECK(status.st_blocks * 512 < 1 << 20);
}

TEST_CASE("without templates there are none") {
  World world;
  auto all = world.templates(false);
  CHECK(!all->find(kShape));
  CHECK(!all->begin(kShape));
}

TEST_CASE("a folder that cannot be made is said") {
  World world;
  std::ofstream(world.folder + "/templates") << "a file";
  CHECK_THROWS_AS(world.templates(), std::runtime_error);
}
