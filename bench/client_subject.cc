// The npm client in Node, which bench/client.mjs drives: a line with an order in, a line with
// nanoseconds out.
#include <signal.h>

#include <charconv>
#include <filesystem>

#include "artefacts/artefacts.h"
#include "base/sys.h"
#include "bench/child.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

class ClientSubject final : public Subject {
 public:
  ClientSubject(const ExecOptions& options, const Server& server) {
    Result<std::string> program = artefacts::find_shared("bench/client.mjs");
    if (!program) throw BenchFailure(program.error().text());
    std::string package = std::filesystem::absolute(options.sdk) / "node_modules/@deno/sandbox";
    if (!std::filesystem::exists(package))
      throw BenchFailure(fmt::format(
          "{} is missing; run there: npm install @deno/sandbox, or leave --sdk away", package));
    std::string origin = fmt::format("http://127.0.0.1:{}", server.port());
    // Not on its command line, where others would see the token.
    ::setenv("DENO_DEPLOY_TOKEN", server.token().c_str(), 1);
    child_ = start_child({"/usr/bin/env", "DENO_DEPLOY_ENDPOINT=" + origin,
                          "DENO_SANDBOX_ENDPOINT=" + origin, options.node, *program, package},
                         true);
    if (read_line(child_.output) != "ready") throw BenchFailure("the npm client made no sandbox");
  }
  ~ClientSubject() override {
    child_.input.reset();
    wait_for(child_);
  }

  uint64_t echo() override { return order("echo"); }
  uint64_t write_file(uint64_t size) override { return order(fmt::format("write {}", size)); }
  uint64_t read_file(uint64_t size) override { return order(fmt::format("read {}", size)); }

 private:
  uint64_t order(const std::string& text) {
    std::string line = text + "\n";
    if (!write_all(child_.input.get(), std::as_bytes(std::span(line))))
      throw BenchFailure("the npm client has ended");
    std::string answer = read_line(child_.output);
    uint64_t time = 0;
    auto [end, error] = std::from_chars(answer.data(), answer.data() + answer.size(), time);
    if (error != std::errc() || *end != '\0') throw BenchFailure("the npm client: " + answer);
    return time;
  }

  Child child_;
};

}  // namespace

std::unique_ptr<Subject> make_client_subject(const ExecOptions& options, const Server& server) {
  return std::make_unique<ClientSubject>(options, server);
}

}  // namespace hutch::bench
