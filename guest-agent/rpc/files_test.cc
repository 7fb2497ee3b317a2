// The methods on files, each with what it answers and how it fails.
#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "base/sys.h"
#include "guest-agent/rpc/codecs.h"
#include "guest-agent/rpc/rpc_client.h"

namespace hutch::agent::rpc {
namespace {

// A client and a folder that goes when the test ends.
struct Files {
  Files() : client(sandbox) {
    char name[] = "/tmp/hutch-rpc-test-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    folder = name;
  }
  ~Files() { std::filesystem::remove_all(folder); }
  std::string operator/(const std::string& name) const { return folder + "/" + name; }
  void write(const std::string& name, const std::string& text) {
    client.call("writeTextFile", {{"path", *this / name}, {"content", text}});
  }
  std::string text(const std::string& name) { return read_file(*this / name, 1 << 28).value(); }
  mode_t mode(const std::string& name) {
    struct stat status {};
    REQUIRE(::stat((*this / name).c_str(), &status) == 0);
    return status.st_mode & 07777;
  }

  Sandbox sandbox;
  RpcClient client;
  std::string folder;
};

TEST_CASE("files are read and written whole") {
  Files files;
  std::string bytes("\0\xff binary", 9);
  CHECK(files.client.call("writeFile", {{"path", files / "a"}, {"content", to_base64(bytes)}}) ==
        nullptr);
  CHECK(files.text("a") == bytes);
  CHECK(files.client.call("readFile", {{"path", files / "a"}}) == to_base64(bytes));
  CHECK(files.client.call("readTextFile", {{"path", files / "a"}}) ==
        std::string("\0\xef\xbf\xbd binary", 11));
  CHECK(files.client.error("readFile", {{"path", files / "no"}}) == "NotFound/ENOENT");
  CHECK(files.client.last_message() ==
        "No such file or directory (os error 2): readfile '" + files / "no" + "'");
  CHECK(files.client.error("readTextFile", {{"path", files.folder}}) == "IsADirectory/EISDIR");
  CHECK(files.client.error("readFile", {{"path", std::string("a\0b", 3)}}) == "TypeError");

  auto with = [&](Json options) {
    return Json{{"path", files / "t"}, {"content", "text"}, {"options", options}};
  };
  CHECK(files.client.error("writeTextFile", with({{"create", false}})) == "NotFound/ENOENT");
  CHECK(files.client.call("writeTextFile", with({{"mode", 0640}})) == nullptr);
  CHECK(files.mode("t") == 0640);
  CHECK(files.client.call("writeTextFile", with({{"append", true}, {"mode", 0600}})) == nullptr);
  CHECK(files.mode("t") == 0600);
  CHECK(files.text("t") == "texttext");
  CHECK(files.client.call("writeTextFile", with(nullptr)) == nullptr);
  CHECK(files.text("t") == "text");
  CHECK(files.client.error("writeTextFile", with({{"createNew", true}})) == "AlreadyExists/EEXIST");
  CHECK(files.client.error("writeFile", {{"path", files / "t"}, {"content", "!"}}) == "TypeError");
  CHECK(files.client.error("writeFile", {{"path", files / "t"}}) == "TypeError");
  CHECK(files.client.error("writeTextFile", with({{"append", 1}})) == "TypeError");
}

TEST_CASE("large files pass, too large ones do not") {
  Files files;
  std::string large(20'000'000, 'l');
  files.write("large", large);
  CHECK(files.text("large") == large);
  CHECK(files.client.call("readTextFile", {{"path", files / "large"}}) == large);
  REQUIRE(::truncate((files / "large").c_str(), 80'000'000) == 0);
  CHECK(files.client.error("readFile", {{"path", files / "large"}}) == "Error/EFBIG");
}

TEST_CASE("a file is written from a stream") {
  Files files;
  files.client.start_stream(1);
  files.client.send_chunk(1, "early ");
  int writing = files.client.send("writeFile", {{"path", files / "s"}, {"contentStreamId", 1}});
  std::string piece(900'000, 'p');
  for (int i = 0; i < 5; i++) files.client.send_chunk(1, piece);
  CHECK_FALSE(files.client.has_answer(writing));
  files.client.end_stream(1);
  CHECK(files.client.wait(writing)["ok"] == nullptr);
  CHECK(files.text("s") == "early " + piece + piece + piece + piece + piece);

  files.client.start_stream(2);
  writing =
      files.client.send("writeTextFile", {{"path", files / "no/such"}, {"contentStreamId", 2}});
  CHECK(files.client.wait(writing)["error"]["code"] == "ENOENT");
  CHECK(files.client.wait_for([&] { return files.client.cancels().size() == 1; }));

  files.client.start_stream(3);
  files.client.notify(
      "$sandbox.stream.error",
      {{"streamId", 3}, {"error", {{"constructorName", "RangeError"}, {"message", "mine"}}}});
  writing = files.client.send("writeFile", {{"path", files / "e"}, {"contentStreamId", 3}});
  CHECK(files.client.wait(writing)["error"]["constructorName"] == "RangeError");
}

TEST_CASE("folders are made, listed and removed") {
  Files files;
  CHECK(files.client.call("mkdir", {{"path", files / "d"}, {"options", {{"mode", 0700}}}}) ==
        nullptr);
  CHECK(files.mode("d") == 0700);
  CHECK(files.client.error("mkdir", {{"path", files / "d"}}) == "AlreadyExists/EEXIST");
  CHECK(files.client.error("mkdir", {{"path", files / "x/y"}}) == "NotFound/ENOENT");
  Json recursive{{"recursive", true}};
  CHECK(files.client.call("mkdir", {{"path", files / "d/e/f"}, {"options", recursive}}) == nullptr);
  CHECK(files.client.call("mkdir", {{"path", files / "d/e/f"}, {"options", recursive}}) == nullptr);
  files.write("d/file", "");
  CHECK(files.client.error("mkdir", {{"path", files / "d/file"}, {"options", recursive}}) ==
        "AlreadyExists/EEXIST");
  CHECK(files.client.call("symlink", {{"target", "nowhere"}, {"path", files / "d/link"}}) ==
        nullptr);
  std::map<std::string, std::string> kinds;
  for (const Json& entry : files.client.call("readDir", {{"path", files / "d"}}))
    kinds[entry["name"]] = std::string(entry["isFile"] ? "f" : "") +
                           (entry["isDirectory"] ? "d" : "") + (entry["isSymlink"] ? "l" : "");
  CHECK(kinds == std::map<std::string, std::string>{{"e", "d"}, {"file", "f"}, {"link", "l"}});
  CHECK(files.client.error("readDir", {{"path", files / "no"}}) == "NotFound/ENOENT");
  CHECK(files.client.error("readDir", {{"path", files / "d/file"}}) == "NotADirectory/ENOTDIR");
  CHECK(files.client.error("remove", {{"path", files / "d"}}) == "Error/ENOTEMPTY");
  CHECK(files.client.call("remove", {{"path", files / "d/link"}}) == nullptr);
  CHECK(files.client.call("remove", {{"path", files / "d"}, {"options", recursive}}) == nullptr);
  CHECK(files.client.error("remove", {{"path", files / "d"}, {"options", recursive}}) ==
        "NotFound/ENOENT");
}

TEST_CASE("what is known of a file") {
  Files files;
  files.write("f", "12345");
  REQUIRE(::symlink("f", (files / "l").c_str()) == 0);
  Json date = "2001-02-03T04:05:06.789Z";
  CHECK(files.client.call("utime", {{"path", files / "f"}, {"atime", date}, {"mtime", date}}) ==
        nullptr);
  Json info = files.client.call("stat", {{"path", files / "l"}});
  CHECK(info.size() == 21);
  CHECK(info["isFile"] == true);
  CHECK(info["isSymlink"] == false);
  CHECK(info["size"] == 5);
  CHECK(info["mtime"] == date);
  CHECK(info["uid"] == ::getuid());
  CHECK((info["mode"].get<unsigned>() & S_IFMT) == S_IFREG);
  for (const char* key : {"atime", "birthtime", "ctime"}) CHECK(info[key].is_string());
  info = files.client.call("lstat", {{"path", files / "l"}});
  CHECK(info["isFile"] == false);
  CHECK(info["isSymlink"] == true);
  CHECK(files.client.error("stat", {{"path", files / "no"}}) == "NotFound/ENOENT");
  CHECK(files.client.error("lstat", {{"path", files / "f/x"}}) == "NotADirectory/ENOTDIR");
  CHECK(files.client.error("stat", Json::object()) == "TypeError");
  REQUIRE(::symlink("loop", (files / "loop").c_str()) == 0);
  CHECK(files.client.error("stat", {{"path", files / "loop"}}) == "FilesystemLoop/ELOOP");
  CHECK(files.client.error("utime", {{"path", files / "f"}, {"atime", "now"}, {"mtime", date}}) ==
        "TypeError");
  CHECK(files.client.error("utime", {{"path", files / "no"}, {"atime", date}, {"mtime", date}}) ==
        "NotFound/ENOENT");
}

TEST_CASE("names, links and copies") {
  Files files;
  files.write("a", "text");
  REQUIRE(::chmod((files / "a").c_str(), 0751) == 0);
  CHECK(files.client.call("copyFile", {{"fromPath", files / "a"}, {"toPath", files / "b"}}) ==
        nullptr);
  CHECK(files.text("b") == "text");
  CHECK(files.mode("b") == 0751);
  CHECK(files.client.call("copyFile", {{"fromPath", files / "a"}, {"toPath", files / "a"}}) ==
        nullptr);
  CHECK(files.text("a") == "text");
  CHECK(files.client.error("copyFile", {{"fromPath", files / "no"}, {"toPath", files / "b"}}) ==
        "NotFound/ENOENT");
  CHECK(files.client.last_message() == "No such file or directory (os error 2): copy '" +
                                           files / "no" + "' -> '" + files / "b" + "'");
  CHECK(files.client.call("rename", {{"oldPath", files / "b"}, {"newPath", files / "c"}}) ==
        nullptr);
  CHECK(files.client.error("rename", {{"oldPath", files / "b"}, {"newPath", files / "c"}}) ==
        "NotFound/ENOENT");
  CHECK(files.client.call("link", {{"target", files / "a"}, {"path", files / "hard"}}) == nullptr);
  CHECK(files.client.call("stat", {{"path", files / "a"}})["nlink"] == 2);
  CHECK(files.client.error("link", {{"target", files / "a"}, {"path", files / "hard"}}) ==
        "AlreadyExists/EEXIST");
  CHECK(files.client.call("symlink", {{"target", "../x y"}, {"path", files / "soft"}}) == nullptr);
  CHECK(files.client.call("readLink", {{"path", files / "soft"}}) == "../x y");
  CHECK(files.client.error("readLink", {{"path", files / "a"}}) == "Error/EINVAL");
  CHECK(files.client.error("symlink", {{"target", "x"}, {"path", files / "soft"}}) ==
        "AlreadyExists/EEXIST");
  std::string real = std::filesystem::canonical(files.folder);
  CHECK(files.client.call("realPath", {{"path", files / "./../" + real.substr(5) + "/a"}}) ==
        real + "/a");
  CHECK(files.client.error("realPath", {{"path", files / "no"}}) == "NotFound/ENOENT");
}

TEST_CASE("modes, owners, sizes") {
  Files files;
  files.write("f", "0123456789");
  CHECK(files.client.call("chmod", {{"path", files / "f"}, {"mode", 0604}}) == nullptr);
  CHECK(files.mode("f") == 0604);
  CHECK(files.client.error("chmod", {{"path", files / "no"}, {"mode", 0604}}) == "NotFound/ENOENT");
  CHECK(files.client.error("chmod", {{"path", files / "f"}, {"mode", "x"}}) == "TypeError");
  CHECK(files.client.call("chown", {{"path", files / "f"}, {"uid", nullptr}, {"gid", nullptr}}) ==
        nullptr);
  CHECK(files.client.call(
            "chown", {{"path", files / "f"}, {"uid", ::getuid()}, {"gid", nullptr}}) == nullptr);
  CHECK(files.client.error("chown", {{"path", files / "no"}, {"uid", 1}, {"gid", 1}}) ==
        "NotFound/ENOENT");
  CHECK(files.client.call("truncate", {{"name", files / "f"}, {"length", 4}}) == nullptr);
  CHECK(files.text("f") == "0123");
  CHECK(files.client.call("truncate", {{"name", files / "f"}}) == nullptr);
  CHECK(files.text("f") == "");
  CHECK(files.client.error("truncate", {{"name", files / "no"}}) == "NotFound/ENOENT");
  CHECK(files.client.error("truncate", {{"name", files / "f"}, {"length", -1}}) == "TypeError");
  Json before = files.client.call("umask", {{"mask", 077}});
  CHECK(files.client.call("umask") == 077);
  files.write("private", "");
  CHECK(files.mode("private") == 0600);
  CHECK(files.client.call("umask", {{"mask", before}}) == 077);
  CHECK(files.client.error("umask", {{"mask", "x"}}) == "TypeError");
}

TEST_CASE("open files") {
  Files files;
  auto id_of = [&](const std::string& method, Json options) {
    return files.client.call(method, {{"path", files / "f"}, {"options", options}})["fileHandleId"];
  };
  Json file = id_of("create", nullptr);
  auto call = [&](const std::string& method, Json params = Json::object()) {
    params["fileHandleId"] = file;
    return files.client.call(method, params);
  };
  auto error = [&](const std::string& method, Json params = Json::object()) {
    if (!params.contains("fileHandleId")) params["fileHandleId"] = file;
    return files.client.error(method, params);
  };
  CHECK(call("fileWrite", {{"data", to_base64("0123456789")}})["bytesWritten"] == 10);
  CHECK(call("fileSeek", {{"offset", "2"}, {"whence", 0}})["position"] == 2);
  CHECK(call("fileSeek", {{"offset", 1}, {"whence", 1}})["position"] == 3);
  CHECK(call("fileRead", {{"length", 4}})["data"] == to_base64("3456"));
  CHECK(call("fileSeek", {{"offset", -1}, {"whence", 2}})["position"] == 9);
  CHECK(call("fileRead", {{"length", 65536}})["data"] == to_base64("9"));
  CHECK(call("fileRead", {{"length", 65536}})["data"] == nullptr);
  CHECK(call("fileSync") == nullptr);
  CHECK(call("fileSyncData") == nullptr);
  CHECK(call("fileTruncate", {{"len", 3}}) == nullptr);
  Json date = "2001-02-03T04:05:06.789Z";
  CHECK(call("fileUtime", {{"atime", date}, {"mtime", date}}) == nullptr);
  Json info = call("fileStat");
  CHECK(info.size() == 21);
  CHECK(info["size"] == 3);
  CHECK(info["mtime"] == date);
  CHECK(call("fileTruncate") == nullptr);
  CHECK(call("fileStat")["size"] == 0);
  CHECK(error("fileSeek", {{"offset", -1}, {"whence", 0}}) == "Error/EINVAL");
  CHECK(error("fileSeek", {{"offset", "x"}, {"whence", 0}}) == "TypeError");
  CHECK(error("fileWrite", {{"data", "!"}}) == "TypeError");
  CHECK(error("fileUtime", {{"atime", "x"}, {"mtime", date}}) == "TypeError");
  for (const char* method :
       {"fileRead", "fileWrite", "fileSeek", "fileStat", "fileSync", "fileSyncData", "fileTruncate",
        "fileUtime", "fileLock", "fileUnlock", "fileClose"})
    CHECK(error(method, {{"fileHandleId", 999}}) == "BadResource/EBADF");

  // A second handle waits for the lock of the first.
  Json other = id_of("open", {{"read", true}});
  CHECK(call("fileLock", {{"exclusive", true}}) == nullptr);
  int locking = files.client.send("fileLock", {{"fileHandleId", other}, {"exclusive", true}});
  CHECK(error("fileRead", {{"length", "x"}}) == "TypeError");
  CHECK_FALSE(files.client.has_answer(locking));
  CHECK(call("fileUnlock") == nullptr);
  CHECK(files.client.wait(locking)["ok"] == nullptr);
  CHECK(files.client.error("fileWrite", {{"fileHandleId", other}, {"data", "YQ=="}}) ==
        "BadResource/EBADF");

  CHECK(call("fileClose") == nullptr);
  CHECK(error("fileClose") == "BadResource/EBADF");
  auto open_error = [&](const std::string& name, Json options) {
    return files.client.error("open", {{"path", files / name}, {"options", options}});
  };
  CHECK(open_error("no", nullptr) == "NotFound/ENOENT");
  CHECK(open_error("f", {{"write", true}, {"createNew", true}}) == "AlreadyExists/EEXIST");
  CHECK(open_error("f", {{"read", false}}) == "TypeError");
  CHECK(open_error("f", {{"create", true}}) == "TypeError");
  CHECK(files.client.error("create", {{"path", files / "x/y"}}) == "NotFound/ENOENT");
  Json appending = id_of("open", {{"append", true}, {"mode", 0600}});
  CHECK(files.client.call("fileWrite", {{"fileHandleId", appending},
                                        {"data", to_base64("end")}})["bytesWritten"] == 3);
  CHECK(files.text("f") == "end");
}

// The paths, below the folder, of what a walk or a glob finds.
std::vector<std::string> found(Files& files, const std::string& method, Json params) {
  Json id = files.client.call(method, params)["streamId"];
  const Received& received = files.client.wait_stream(id);
  std::vector<std::string> paths;
  for (const std::string& chunk : received.chunks) {
    Json entry = Json::parse(chunk);
    CHECK(entry.size() == 5);
    std::string path = entry["path"];
    CHECK(path.substr(path.rfind('/') + 1) == entry["name"].get<std::string>());
    paths.push_back(path.size() > files.folder.size() ? path.substr(files.folder.size() + 1) : ".");
  }
  if (!received.error.is_null()) paths.push_back(received.error["constructorName"]);
  return paths;
}

using Paths = std::vector<std::string>;

void make_tree(Files& files) {
  for (const char* folder : {"a", "a/b", "c.d"})
    REQUIRE(::mkdir((files / folder).c_str(), 0755) == 0);
  for (const char* file : {"a/one.ts", "a/b/two.ts", "a/b/.hidden", "c.d/three.js", "zero.ts"})
    files.write(file, "");
  REQUIRE(::symlink("a", (files / "link").c_str()) == 0);
}

TEST_CASE("walk") {
  Files files;
  make_tree(files);
  auto walk = [&](Json options) {
    options["path"] = files.folder;
    return found(files, "walk", options);
  };
  CHECK(walk(Json::object()) == Paths{".", "a", "a/b", "a/b/.hidden", "a/b/two.ts", "a/one.ts",
                                      "c.d", "c.d/three.js", "link", "zero.ts"});
  CHECK(walk({{"maxDepth", 0}}) == Paths{"."});
  CHECK(walk({{"maxDepth", 1}}) == Paths{".", "a", "c.d", "link", "zero.ts"});
  CHECK(walk({{"includeDirs", false}, {"includeSymlinks", false}, {"exts", {"ts"}}}) ==
        Paths{"a/b/two.ts", "a/one.ts", "zero.ts"});
  CHECK(walk({{"includeFiles", false}}) == Paths{".", "a", "a/b", "c.d", "link"});
  CHECK(walk({{"match", {{{"source", "T[WH][or]"}, {"flags", "i"}}}}}) ==
        Paths{"a/b/two.ts", "c.d/three.js"});
  CHECK(walk({{"skip", {{{"source", "\\/a$"}, {"flags", ""}}}}}) ==
        Paths{".", "c.d", "c.d/three.js", "link", "zero.ts"});
  CHECK(walk({{"followSymlinks", true}, {"canonicalize", false}, {"exts", {".ts"}}}) ==
        Paths{"a/b/two.ts", "a/one.ts", "link/b/two.ts", "link/one.ts", "zero.ts"});
  CHECK(walk({{"followSymlinks", true}, {"exts", {".ts"}}}) ==
        Paths{"a/b/two.ts", "a/one.ts", "a/b/two.ts", "a/one.ts", "zero.ts"});
  CHECK(found(files, "walk", {{"path", files / "no"}}) == Paths{"NotFound"});
  CHECK(
      files.client.error("walk", {{"path", "/"}, {"match", {{{"source", "("}, {"flags", ""}}}}}) ==
      "SyntaxError");
  CHECK(
      files.client.error("walk", {{"path", "/"}, {"match", {{{"source", "x"}, {"flags", "v"}}}}}) ==
      "SyntaxError");
  CHECK(files.client.error("walk", {{"path", "/"}, {"maxDepth", "1"}}) == "TypeError");
  CHECK(files.client.error("walk") == "TypeError");
}

TEST_CASE("expandGlob") {
  Files files;
  make_tree(files);
  auto glob = [&](const std::string& pattern, Json options = Json::object()) {
    options["glob"] = pattern;
    if (!options.contains("root")) options["root"] = files.folder;
    return found(files, "expandGlob", options);
  };
  CHECK(glob("*") == Paths{"a", "c.d", "link", "zero.ts"});
  CHECK(glob("*", {{"includeDirs", false}}) == Paths{"link", "zero.ts"});
  CHECK(glob("*/") == Paths{"a", "c.d"});
  CHECK(glob("**/*.ts") == Paths{"a/b/two.ts", "a/one.ts", "zero.ts"});
  CHECK(glob("**/*.ts", {{"globstar", false}}) == Paths{"a/one.ts"});
  CHECK(glob("**/*.ts", {{"exclude", {"a/b"}}}) == Paths{"a/one.ts", "zero.ts"});
  CHECK(glob("a/{one,b}*") == Paths{"a/b", "a/one.ts"});
  CHECK(glob("@(zero|one).ts") == Paths{"zero.ts"});
  CHECK(glob("!(zero*)") == Paths{"a", "c.d", "link"});
  CHECK(glob("[a-b]") == Paths{"a"});
  CHECK(glob("[!a-l]*") == Paths{"zero.ts"});
  CHECK(glob("ZERO.?s") == Paths{});
  CHECK(glob("ZERO.?s", {{"caseInsensitive", true}}) == Paths{"zero.ts"});
  CHECK(glob("a/*/../one.ts") == Paths{"a/one.ts"});
  CHECK(glob("zero.ts") == Paths{"zero.ts"});
  CHECK(glob("no/*") == Paths{});
  CHECK(glob(files / "c.d/*", {{"root", "/usr"}}) == Paths{"c.d/three.js"});
  CHECK(files.client.error("expandGlob") == "TypeError");
  CHECK(files.client.error("expandGlob", {{"glob", "x"}, {"exclude", {1}}}) == "TypeError");
}

TEST_CASE("a walk that nobody follows waits, and ends when the client cancels") {
  Files files;
  Json id = files.client.call("walk", {{"path", "/usr"}})["streamId"];
  REQUIRE(files.client.wait_for([&] { return files.client.stream(id).started; }));
  files.client.notify("$sandbox.stream.cancel", {{"streamId", id}, {"reason", nullptr}});
  files.client.call("envGet", {{"key", "HOME"}});

  // Where links lead in circles a walk that shows nothing has no end but this.
  for (const char* name : {"one", "two"}) REQUIRE(::symlink(".", (files / name).c_str()) == 0);
  for (int i = 0; i < 300; i++) {  // more than there are threads for
    id = files.client.call("walk", {{"path", files.folder},
                                    {"followSymlinks", true},
                                    {"canonicalize", false},
                                    {"exts", {"none"}}})["streamId"];
    files.client.notify("$sandbox.stream.cancel", {{"streamId", id}, {"reason", nullptr}});
  }
  id = files.client.call("walk", {{"path", files.folder}, {"maxDepth", 0}})["streamId"];
  CHECK(files.client.wait_stream(id).chunks.size() == 1);
}

TEST_CASE("temporary files and folders") {
  Files files;
  Json options{{"dir", files.folder}, {"prefix", "pre-"}, {"suffix", ".txt"}};
  std::string path = files.client.call("makeTempFile", {{"options", options}});
  CHECK(path.starts_with(files / "pre-"));
  CHECK(path.ends_with(".txt"));
  CHECK(files.client.call("stat", {{"path", path}})["size"] == 0);
  CHECK(files.mode(path.substr(files.folder.size() + 1)) == 0600);
  std::string folder = files.client.call("makeTempDir", {{"options", options}});
  CHECK(files.client.call("stat", {{"path", folder}})["isDirectory"] == true);
  CHECK(files.mode(folder.substr(files.folder.size() + 1)) == 0700);
  std::string elsewhere = files.client.call("makeTempDir");
  CHECK(elsewhere.starts_with("/tmp/"));
  CHECK(files.client.call("remove", {{"path", elsewhere}}) == nullptr);
  options["dir"] = files / "no";
  CHECK(files.client.error("makeTempDir", {{"options", options}}) == "NotFound/ENOENT");
  CHECK(files.client.error("makeTempFile", {{"options", options}}) == "NotFound/ENOENT");
  CHECK(files.client.error("makeTempFile", {{"options", {{"prefix", "a/b"}}}}) == "TypeError");
}

}  // namespace
}  // namespace hutch::agent::rpc
