#include "control/snapshots.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/sys.h"
#include "control/private_file.h"

using namespace hutch;
using namespace hutch::control;
namespace fs = std::filesystem;

namespace {

constexpr const char* kId = "snp_loc_00000000000000000000";
const SealKey kKey{1, 2, 3};

struct World {
  World() {
    char name[] = "/tmp/hutch-snapshots-test-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    folder = name;
  }
  ~World() { fs::remove_all(folder); }

  std::unique_ptr<Snapshots> snapshots(const std::string& image = "image", bool ipv6 = false,
                                       const SealKey& key = kKey, size_t most = 3) {
    return std::make_unique<Snapshots>(context, folder + "/snapshots", key,
                                       Snapshots::Host{image, ipv6}, most);
  }
  Snapshot snapshot(const std::string& id = kId) {
    Snapshot result{.id = id, .organisation = "one", .sandbox_id = "sbx_loc_x"};
    result.created_ms = 5;
    result.memory = 256 << 20;
    result.cpus = 2;
    result.egress = policy::Policy();
    return result;
  }
  // Keeps one whose memory has these bytes at 1 MiB, and a hole before. What was said of it.
  std::string keep(Snapshots& all, const Snapshot& snapshot, std::string_view memory = "memory") {
    boost::asio::io_context other;
    Templates templates(other, folder + "/templates", {}, true);
    std::unique_ptr<Draft> draft = templates.begin_own();
    auto write = [](const Fd& file, std::string_view text, off_t at) {
      return ::pwrite(file.get(), text.data(), text.size(), at) ==
             static_cast<ssize_t>(text.size());
    };
    REQUIRE(write(draft->memory, memory, 1 << 20));
    REQUIRE(write(draft->state, "state", 0));
    draft->layers.emplace_back(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    REQUIRE(write(draft->layers.back(), "layer", 0));
    all.claim(snapshot);
    std::string answer = "none";
    all.keep(snapshot, templates.finish_own(std::move(draft)),
             [&](const Problem* problem) { answer = problem ? problem->message() : ""; });
    wait([&] { return answer != "none"; });
    return answer;
  }
  // The reason, empty when it can be opened.
  std::string open(Snapshots& all, const std::string& id = kId) {
    std::string answer = "none";
    all.open(all.find("one", id),
             [&](const std::shared_ptr<const Template>& saved, const Problem* problem) {
               CHECK((saved == nullptr) == (problem != nullptr));
               answer = problem ? problem->message() : "";
             });
    wait([&] { return answer != "none"; });
    return answer;
  }
  void wait(const std::function<bool()>& condition) {
    for (int i = 0; i < 10'000 && !condition(); i++) {
      context.restart();
      if (context.poll() == 0) ::usleep(1000);
    }
    CHECK(condition());
  }
  std::string file(const std::string& name) {
    return fmt::format("{}/snapshots/{}/{}", folder, kId, name);
  }
  // Turns one bit over.
  void damage(const std::string& name, off_t at) {
    Fd fd = open_file(file(name), O_RDWR).value();
    char byte = 0;
    CHECK(::pread(fd.get(), &byte, 1, at) == 1);
    byte = static_cast<char>(byte ^ 4);
    CHECK(::pwrite(fd.get(), &byte, 1, at) == 1);
  }

  boost::asio::io_context context{1};
  std::string folder;
};

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

int status_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Problem& problem) {
    return problem.status();
  }
  return 0;
}

}  // namespace

TEST_CASE("a snapshot is kept, also for the next server, until it is deleted") {
  World world;
  Snapshot named = world.snapshot();
  named.name = "ready";
  {
    auto all = world.snapshots();
    CHECK(world.keep(*all, named) == "");
    CHECK(world.open(*all) == "");
  }
  auto all = world.snapshots();
  for (const char* name : {kId, "ready"}) {
    const Snapshot& found = all->find("one", name);
    CHECK(found.id == kId);
    CHECK(found.memory == 256 << 20);
    CHECK(found.cpus == 2);
    CHECK(found.egress == policy::Policy());
  }
  CHECK(status_of([&] { all->find("other", kId); }) == 404);
  CHECK(all->list("other").empty());
  CHECK(all->list("one").size() == 1);
  std::string content;
  bool is_open = false;
  all->open(all->find("one", kId),
            [&](const std::shared_ptr<const Template>& saved, const Problem*) {
              is_open = true;
              char text[6];
              REQUIRE(saved != nullptr);
              CHECK(::pread(saved->memory.get(), text, 6, 1 << 20) == 6);
              content = std::string(text, 6);
              REQUIRE(saved->layers.size() == 1);
              CHECK(::pread(saved->layers[0].get(), text, 6, 0) == 5);
              CHECK(std::string(text, 5) == "layer");
              CHECK(saved->key == kKey);
            });
  world.wait([&] { return is_open; });
  CHECK(content == "memory");
  CHECK(status_of([&] { all->remove("other", kId); }) == 404);
  all->remove("one", "ready");
  CHECK(all->list("one").empty());
  CHECK(status_of([&] { all->find("one", kId); }) == 404);
  all.reset();
  CHECK(fs::is_empty(world.folder + "/snapshots"));
}

TEST_CASE("C14: what is not as it was saved is refused, by name, before anything maps it") {
  struct Case {
    const char* reason;
    std::function<void(World&)> change;
  };
  const Case cases[] = {
      {"memory is damaged", [](World& world) { world.damage("memory", (1 << 20) + 2); }},
      // In what was a hole.
      {"memory is damaged", [](World& world) { world.damage("memory", 5000); }},
      {"state is damaged", [](World& world) { world.damage("state", 0); }},
      {"layer-0 is damaged", [](World& world) { world.damage("layer-0", 4); }},
      {"seal is damaged", [](World& world) { world.damage("seal", 3); }},
      {"seal is damaged", [](World& world) { world.damage("seal", 200); }},
      {"memory has", [](World& world) { fs::resize_file(world.file("memory"), 4096); }},
      {"layer-0 has", [](World& world) { fs::resize_file(world.file("layer-0"), 0); }},
      {"state cannot be read", [](World& world) { fs::remove(world.file("state")); }},
      {"memory is damaged",
       [](World& world) {
         // Another snapshot's of the same size.
         Fd fd = open_file(world.file("memory"), O_WRONLY).value();
         CHECK(::pwrite(fd.get(), "yromem", 6, 1 << 20) == 6);
       }},
      {"memory is damaged",
       [](World& world) {
         // The same page at another place.
         Fd fd = open_file(world.file("memory"), O_WRONLY).value();
         CHECK(::pwrite(fd.get(), "\0\0\0\0\0\0", 6, 1 << 20) == 6);
         CHECK(::pwrite(fd.get(), "memory", 6, 0) == 6);
       }},
      {"cannot be read",
       [](World& world) {
         fs::remove(world.file("memory"));
         fs::create_symlink("/etc/hostname", world.file("memory"));
       }},
  };
  for (const Case& one : cases) {
    World world;
    {
      auto all = world.snapshots();
      CHECK(world.keep(*all, world.snapshot()) == "");
    }
    auto all = world.snapshots();
    one.change(world);
    std::string reason = world.open(*all);
    CAPTURE(reason);
    CHECK(contains(reason, one.reason));
    // It stays: nothing of it is lost.
    CHECK(fs::exists(world.file("seal")));
  }
}

TEST_CASE("C14: what another server, or version, or image made is refused") {
  World world;
  {
    auto all = world.snapshots();
    CHECK(world.keep(*all, world.snapshot()) == "");
  }
  CHECK(contains(world.open(*world.snapshots("other image")), "another root image"));
  CHECK(contains(world.open(*world.snapshots("image", true)), "IPv6"));
  auto stranger = world.snapshots("image", false, SealKey{9});
  CHECK(stranger->list("one").empty());
  CHECK(fs::exists(world.file("memory")));
  // One that was moved to another's place.
  fs::rename(world.folder + "/snapshots/" + kId,
             world.folder + "/snapshots/snp_loc_00000000000000000001");
  CHECK(world.snapshots()->list("one").empty());
  fs::remove_all(world.folder + "/snapshots/snp_loc_00000000000000000001");
  // An older format: sealed well, but with other members.
  std::string folder = world.folder + "/snapshots/" + kId;
  fs::create_directories(folder);
  seal_folder(folder, kKey, {{"id", kId}});
  CHECK(world.snapshots()->list("one").empty());
  CHECK(fs::exists(folder));
}

TEST_CASE("a file that is copied, holes and all, is as it was sealed") {
  World world;
  {
    auto all = world.snapshots();
    CHECK(world.keep(*all, world.snapshot()) == "");
  }
  std::ifstream input(world.file("memory"), std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(input), {});
  CHECK(bytes.size() == (1 << 20) + 6);
  fs::remove(world.file("memory"));
  std::ofstream(world.file("memory"), std::ios::binary) << bytes;
  CHECK(world.open(*world.snapshots()) == "");
}

TEST_CASE("names and limits are checked before anything is saved") {
  World world;
  auto all = world.snapshots("image", false, kKey, 2);
  Snapshot one = world.snapshot();
  for (const char* bad : {"a", "A1", "-a", "a-", "a--b", "a_b", "../x", ""}) {
    one.name = bad;
    if (*bad != '\0') CHECK(status_of([&] { all->claim(one); }) == 400);
    CHECK(!is_snapshot_name(bad));
  }
  one.name = "ready";
  CHECK(world.keep(*all, one) == "");
  Snapshot two = world.snapshot("snp_loc_00000000000000000001");
  two.name = "ready";
  CHECK(status_of([&] { all->claim(two); }) == 409);
  two.name = "other";
  all->claim(two);
  // Not kept yet.
  CHECK(status_of([&] { all->find("one", "other"); }) == 404);
  Snapshot three = world.snapshot("snp_loc_00000000000000000002");
  CHECK(status_of([&] { all->claim(three); }) == 429);
  three.organisation = "other";
  CHECK(status_of([&] { all->claim(three); }) == 0);
  three.organisation = "one";
  all->drop_claim(two.id);
  CHECK(status_of([&] { all->claim(three); }) == 0);
}

TEST_CASE("one that cannot be written says so, and leaves nothing") {
  World world;
  auto all = world.snapshots();
  fs::remove_all(world.folder + "/snapshots");
  CHECK(world.keep(*all, world.snapshot()) != "");
  CHECK(all->list("one").empty());
  // Its name and its place are free again.
  fs::create_directories(world.folder + "/snapshots");
  CHECK(world.keep(*all, world.snapshot()) == "");
}
