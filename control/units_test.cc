// Configuration, the sandbox header, ids, tokens, the store and work in the background.
#include <doctest/doctest.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "control/background.h"
#include "control/clock.h"
#include "control/config.h"
#include "control/data_folder.h"
#include "control/free_space.h"
#include "control/ids.h"
#include "control/problem.h"
#include "control/sandbox_config.h"
#include "control/store.h"
#include "control/tokens.h"

using namespace hutch::control;
namespace serve_options = hutch::serve_options;

namespace {

std::string base64(std::string_view bytes) {
  constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  uint32_t bits = 0;
  int count = 0;
  for (char c : bytes) {
    bits = bits << 8 | static_cast<unsigned char>(c);
    for (count += 8; count >= 6; count -= 6) text += kAlphabet[bits >> (count - 6) & 63];
  }
  if (count > 0) text += kAlphabet[bits << (6 - count) & 63];
  while (text.size() % 4 != 0) text += '=';
  return text;
}

// The code of the Problem that parsing this document throws; empty: none.
std::string problem_code(const std::string& document) {
  try {
    parse_sandbox_config(base64(document), Config());
    return "";
  } catch (const Problem& problem) {
    return problem.code();
  }
}

std::string token_problem(const Store& store, const std::string& header, const std::string& org) {
  try {
    return authenticate(store, header, org);
  } catch (const Problem& problem) {
    return problem.code();
  }
}

}  // namespace

TEST_CASE("a TOML file sets keys; what is wrong in it is named") {
  Config config;
  apply_toml(config, "port = 80\nlisten = \"0.0.0.0\"\n", "f.toml");
  CHECK(config.port == 80);
  CHECK(config.listen == "0.0.0.0");
  for (const auto& [wrong, expected] : std::initializer_list<std::pair<const char*, const char*>>{
           {"prot = 1", "there is no key prot"},
           {"[table]\nport = 1", "there is no key table"},
           {"port = \"1\"", "port wants a whole number"},
           {"listen = 1", "listen wants a text"},
           {"port = 70000", "it may be 1 to 65535"},
           {"port = ", "line 1"}}) {
    std::string text = wrong;
    CAPTURE(text);
    std::string message;
    try {
      apply_toml(config, text, "f.toml");
    } catch (const ConfigError& error) {
      message = error.what();
    }
    CHECK(message.find("f.toml: ") == 0);
    CHECK(message.find(expected) != std::string::npos);
  }
}

TEST_CASE("every key of the file is a flag, and the flag comes after the file") {
  char folder[] = "/tmp/hutch-config-XXXXXX";
  REQUIRE(::mkdtemp(folder) != nullptr);
  std::string path = std::string(folder) + "/f.toml";
  auto text_of = [](const ConfigKey& key) -> std::string {
    // Values that are allowed together.
    static const std::map<std::string_view, std::string> kTexts{
        {"listen", "192.0.2.1"}, {"public_url", "https://a"},
        {"region", "ams"},       {"default_egress", "none"},
        {"tls_cert", ""},        {"tls_key", ""}};
    auto found = kTexts.find(key.name);
    return found == kTexts.end() ? "/" + std::string(key.name) : found->second;
  };
  for (const ConfigKey& key : serve_options::config_keys()) {
    CAPTURE(key.name);
    bool is_text = std::holds_alternative<std::string Config::*>(key.member);
    bool is_switch = std::holds_alternative<bool Config::*>(key.member);
    // The order of the memory keys has to hold.
    int64_t number = key.name.starts_with("memory_") ? key.low + 1152 : key.low + 1;
    if (key.name == "memory_min_mb") number = 128;
    std::string value = is_text     ? "\"" + text_of(key) + "\""
                        : is_switch ? "true"
                                    : std::to_string(number);
    auto holds = [&](const Config& config) {
      if (is_text) return config.*std::get<std::string Config::*>(key.member) == text_of(key);
      if (is_switch) return config.*std::get<bool Config::*>(key.member);
      return config.*std::get<int64_t Config::*>(key.member) == number;
    };
    std::ofstream(path) << "data_folder = \"/d\"\n"
                        << (key.name == "data_folder" ? "" : std::string(key.name) + " = " + value);
    auto load = [&](std::vector<std::string> words) {
      CLI::App app;
      serve_options::ServeVerb verb = serve_options::add_serve(app);
      words.insert(words.begin(), {"serve", "--config", path});
      std::reverse(words.begin(), words.end());
      app.parse(words);
      return load_config(verb.arguments->config);
    };
    if (key.name != "data_folder") CHECK(holds(load({})));
    std::ofstream(path) << "data_folder = \"/d\"\nport = 9999\n";
    std::vector<std::string> words{serve_options::flag_name(key.name)};
    if (!is_switch) words.push_back(is_text ? text_of(key) : std::to_string(number));
    CHECK(holds(load(words)));
  }
  CHECK_FALSE(serve_options::config_keys().empty());
  std::filesystem::remove_all(folder);
}

TEST_CASE("no sandbox starts where too little disk is left") {
  CHECK_NOTHROW(check_free_space("/tmp", 0));
  try {
    check_free_space("/tmp", int64_t{1} << 30);
    FAIL("it has no such space");
  } catch (const Problem& problem) {
    CHECK(problem.status() == 503);
    CHECK(problem.code() == "DISK_LIMIT_REACHED");
  }
}

TEST_CASE("keys that contradict each other are refused") {
  auto refused = [](auto change) {
    Config config;
    config.data_folder = "/x";
    change(config);
    try {
      finish_config(config);
      return false;
    } catch (const ConfigError&) {
      return true;
    }
  };
  CHECK_FALSE(refused([](Config&) {}));
  CHECK(refused([](Config& c) { c.listen = "localhost"; }));
  CHECK_FALSE(refused([](Config& c) { c.default_egress = "all"; }));
  CHECK(refused([](Config& c) { c.default_egress = "some"; }));
  CHECK(refused([](Config& c) { c.region = "LOC"; }));
  CHECK(refused([](Config& c) { c.tls_cert = "x"; }));
  CHECK(refused([](Config& c) { c.tls_cert = c.tls_key = "x", c.tls_self_made = true; }));
  CHECK(refused([](Config& c) { c.memory_min_mb = 2000; }));
  CHECK(refused([](Config& c) { c.public_url = "https://a/"; }));
  CHECK(refused([](Config& c) { c.public_url = "https://a'$(x)"; }));
}

TEST_CASE("the URL of a server follows from where it listens") {
  Config config;
  CHECK(base_url(config) == "http://127.0.0.1:7777");
  config.listen = "::";
  config.tls_cert = "x";
  CHECK(base_url(config) == "https://[::1]:7777");
  config.public_url = "https://example.com";
  CHECK(base_url(config) == "https://example.com");
}

TEST_CASE("a sandbox header is base64 of JSON, in Latin-1 or UTF-8") {
  Config config;
  CHECK(parse_sandbox_config("", config).memory_mb == 1280);
  SandboxConfig wanted = parse_sandbox_config(
      base64(R"({"memory_mb":2048,"volumes":[],"stop_at_ms":5,"labels":{"k":"v"},"allow_net":[],)"
             R"("secrets":{},"env":{"A":"B"},"root":null})"),
      config);
  CHECK(wanted.memory_mb == 2048);
  CHECK(wanted.stop_at_ms == 5);
  CHECK(wanted.labels == Labels{{"k", "v"}});
  CHECK(parse_sandbox_config(base64("{\"labels\":{\"k\":\"\xe4\"}}"), config).labels["k"] ==
        "\xc3\xa4");
  CHECK(parse_sandbox_config(base64("{\"labels\":{\"k\":\"\xc3\xa4\"}}"), config).labels["k"] ==
        "\xc3\xa4");
}

TEST_CASE("what a sandbox may reach is what its header says, else what the server does") {
  Config config;
  CHECK_FALSE(parse_sandbox_config("", config).egress);
  CHECK_FALSE(parse_sandbox_config(base64("{}"), config).egress);
  CHECK(parse_sandbox_config(base64(R"({"allow_net":[]})"), config).egress->is_empty());
  hutch::policy::Policy some =
      parse_sandbox_config(base64(R"({"allow_net":["B.test","*.a.test:443"]})"), config)
          .egress.value();
  CHECK(some.patterns() == std::vector<std::string>{"*.a.test:443", "b.test"});
  config.default_egress = "all";
  CHECK(parse_sandbox_config("", config).egress->allows_all());
  CHECK(parse_sandbox_config(base64("{}"), config).egress->allows_all());
  CHECK(parse_sandbox_config(base64(R"({"allow_net":[]})"), config).egress->is_empty());
  CHECK_FALSE(
      parse_sandbox_config(base64(R"({"allow_net":["a.test"]})"), config).egress->allows_all());
}

TEST_CASE("what a sandbox header must not ask for is refused with its code") {
  CHECK(problem_code("{}").empty());
  CHECK(problem_code("x") == "INVALID_SANDBOX_CONFIG");
  CHECK(problem_code("[]") == "INVALID_SANDBOX_CONFIG");
  CHECK(problem_code(R"({"memory_mb":"1"})") == "INVALID_SANDBOX_CONFIG");
  CHECK(problem_code(R"({"memory_mb":255})") == "MEMORY_OUT_OF_RANGE");
  CHECK(problem_code(R"({"memory_mb":4097})") == "MEMORY_OUT_OF_RANGE");
  CHECK(problem_code(R"({"memory_mb":18446744073709551615})") == "MEMORY_OUT_OF_RANGE");
  CHECK(problem_code(R"({"stop_at_ms":1.5})") == "INVALID_SANDBOX_CONFIG");
  CHECK(problem_code(R"({"labels":{"a":1}})") == "INVALID_SANDBOX_CONFIG");
  CHECK(problem_code(R"({"labels":{"a":"1","b":"","c":"","d":"","e":"","f":""}})") ==
        "INVALID_SANDBOX_CONFIG");
  CHECK(problem_code(R"({"labels":{")" + std::string(65, 'k') + R"(":""}})") ==
        "INVALID_SANDBOX_CONFIG");
  CHECK(problem_code(R"({"labels":{"k":")" + std::string(129, 'v') + R"("}})") ==
        "INVALID_SANDBOX_CONFIG");
  CHECK(problem_code(R"({"volumes":[{"volume":"v","path":"/p"}]})") == "NOT_SUPPORTED");
  for (const char* bad : {R"("fork:sbx_loc_00000000000000000000")", "5", "{}", R"({"volume":5})",
                          R"({"volume":"fork:"})", R"({"volume":"fork:../x"})", R"({"volume":"v"})",
                          R"({"volume":"../x"})"})
    CHECK(problem_code(R"({"root":)" + std::string(bad) + "}") == "INVALID_SANDBOX_CONFIG");
  CHECK(problem_code(R"({"allow_net":"example.com"})") == "INVALID_SANDBOX_CONFIG");
  CHECK(problem_code(R"({"allow_net":[1]})") == "INVALID_SANDBOX_CONFIG");
  for (const char* bad : {"", "*", "*.com", "a.*.b", "https://example.com", "10.0.0.0/8",
                          "example.com:0", "localhost", "2130706433"})
    CHECK(problem_code(fmt::format(R"({{"allow_net":["ok.test","{}"]}})", bad)) ==
          "INVALID_ALLOW_NET");
  CHECK(problem_code(R"({"secrets":{"K":{"hosts":["h"],"value":"v"}}})") == "NOT_SUPPORTED");
  CHECK_THROWS_AS(parse_sandbox_config("?", Config()), Problem);
}

TEST_CASE("ids look as clients want them, and differ") {
  std::set<std::string> ids;
  for (int i = 0; i < 200; i++) {
    std::string id = new_sandbox_id("loc");
    CHECK(is_sandbox_id(id));
    ids.insert(id);
    uint64_t base = new_stream_base();
    CHECK(base % kStreamsPerConnection == 0);
    CHECK(base > 0);
    CHECK(base < uint64_t{1} << 50);
  }
  CHECK(ids.size() == 200);
  for (const char* wrong :
       {"", "sbx_loc_", "sbx_LOC_00000000000000000000", "sbx_loc_0000000000000000000i",
        "sbx_loc_000000000000000000000", "sbx-loc-00000000000000000000"})
    CHECK_FALSE(is_sandbox_id(wrong));
}

TEST_CASE("tokens are valid for their organisations, until they expire or are revoked") {
  Store store(":memory:");
  NewToken own = create_token(store, false, "n", {"acme"}, {});
  NewToken old = create_token(store, false, "", {"acme"}, wall_ms() - 1);
  NewToken personal = create_token(store, true, "", {"acme", "other"}, wall_ms() + 100'000);
  CHECK(own.text.starts_with("ddo_"));
  CHECK(own.text.size() == 68);
  CHECK(token_problem(store, "Bearer " + own.text, "") == "acme");
  CHECK(token_problem(store, "bearer " + own.text, "acme") == "acme");
  CHECK(token_problem(store, "Bearer " + own.text, "other") == "ORGANIZATION_NOT_FOUND");
  CHECK(token_problem(store, own.text, "") == "INVALID_TOKEN");
  CHECK(token_problem(store, "", "") == "INVALID_TOKEN");
  CHECK(token_problem(store, "Bearer " + old.text, "") == "INVALID_TOKEN");
  CHECK(token_problem(store, "Bearer " + personal.text, "") == "MISSING_ORG");
  CHECK(token_problem(store, "Bearer " + personal.text, "other") == "other");
  CHECK(token_problem(store, "Bearer " + personal.text, "third") == "ORGANIZATION_NOT_FOUND");
  CHECK(store.tokens().size() == 3);
  CHECK(store.revoke_token(own.id, wall_ms()));
  CHECK_FALSE(store.revoke_token(own.id, wall_ms()));
  CHECK_FALSE(store.revoke_token(99, wall_ms()));
  CHECK(token_problem(store, "Bearer " + own.text, "") == "INVALID_TOKEN");
}

TEST_CASE("the store keeps no token, and what it keeps is there for the next") {
  char folder[] = "/tmp/hutch-store-XXXXXX";
  REQUIRE(::mkdtemp(folder) != nullptr);
  std::string path = std::string(folder) + "/db";
  NewToken token;
  {
    Store store(path);
    token = create_token(store, false, "", {"acme"}, {});
    store.add_sandbox({"sbx_1", "acme", "loc", 10, {}, {{"k", "v'"}}});
    store.add_sandbox({"sbx_2", "acme", "loc", 20, {}, {}});
    store.stop_sandbox("sbx_2", 25);
  }
  Store store(path);
  CHECK(token_problem(store, "Bearer " + token.text, "") == "acme");
  CHECK(store.find_sandbox("sbx_1")->labels == Labels{{"k", "v'"}});
  CHECK_FALSE(store.find_sandbox("sbx_3"));
  store.stop_all_sandboxes(30);
  std::vector<StoredSandbox> list = store.sandboxes("acme");
  REQUIRE(list.size() == 2);
  CHECK(list[0].id == "sbx_2");
  CHECK(list[0].stopped_ms == 25);
  CHECK(list[1].stopped_ms == 30);
  CHECK(store.sandboxes("other").empty());
  FILE* file = ::fopen(path.c_str(), "rb");
  REQUIRE(file != nullptr);
  std::string bytes(1 << 20, '\0');
  bytes.resize(::fread(bytes.data(), 1, bytes.size(), file));
  ::fclose(file);
  CHECK(bytes.find(token.text.substr(4)) == std::string::npos);
  std::filesystem::remove_all(folder);
}

TEST_CASE("the data folder is for its user alone, keeps its token, and has one server") {
  char parent[] = "/tmp/hutch-data-XXXXXX";
  REQUIRE(::mkdtemp(parent) != nullptr);
  std::string path = std::string(parent) + "/a/b";
  DataFolder folder(path);
  Store store(folder.database());
  std::string token = folder.local_token(store);
  CHECK(folder.local_token(store) == token);
  CHECK_THROWS(DataFolder::read_environment(path));
  std::string block = folder.write_environment(Config(), token, "");
  CHECK(block == "export DENO_DEPLOY_TOKEN='" + token +
                     "'\nexport DENO_DEPLOY_ENDPOINT='http://127.0.0.1:7777'\n"
                     "export DENO_SANDBOX_ENDPOINT='http://127.0.0.1:7777'\n");
  CHECK(DataFolder::read_environment(path) == block);
  for (const char* name : {"/token", "/environment"}) {
    struct stat status {};
    REQUIRE(::stat((path + name).c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0600);
  }
  CHECK(store.revoke_token(1, wall_ms()));
  CHECK(folder.local_token(store) != token);
  {
    hutch::Fd lock = folder.lock();
    CHECK_THROWS(folder.lock());
  }
  CHECK_NOTHROW(folder.lock());
  ::chmod(path.c_str(), 0755);
  CHECK_THROWS(DataFolder(path));
  std::filesystem::remove_all(parent);
}

TEST_CASE("work in the background is done on another thread, or here when the host has none") {
  boost::asio::io_context context(1);
  std::optional<pthread_t> worker;
  bool done = false;
  Background background(context);
  auto run = [&] {
    done = false;
    background.run([&] { worker = ::pthread_self(); }, [&] { done = true; });
  };
  run();
  for (int i = 0; i < 10'000 && !done; i++) {
    context.restart();
    if (context.poll() == 0) ::usleep(1000);
  }
  REQUIRE(done);
  REQUIRE(worker);
  CHECK(!::pthread_equal(*worker, ::pthread_self()));

  // No host has room for such a thread.
  pthread_attr_t before, huge;
  REQUIRE(::pthread_getattr_default_np(&before) == 0);
  REQUIRE(::pthread_attr_init(&huge) == 0);
  REQUIRE(::pthread_attr_setstacksize(&huge, size_t{1} << 46) == 0);
  REQUIRE(::pthread_setattr_default_np(&huge) == 0);
  worker.reset();
  run();
  REQUIRE(::pthread_setattr_default_np(&before) == 0);
  REQUIRE(worker);
  CHECK(::pthread_equal(*worker, ::pthread_self()));
  CHECK(!done);
  context.restart();
  context.poll();
  CHECK(done);
  ::pthread_attr_destroy(&before);
  ::pthread_attr_destroy(&huge);
}
