// What a benchmark of commands compares: ways to run one command and to move one file. Each is
// started once, used many times, and measures from the request to the answer's last byte.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace hutch::bench {

// What went wrong, in one sentence, with what mends it where there is something.
class BenchFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Subject {
 public:
  virtual ~Subject() = default;
  // Runs `echo hello`; nanoseconds until its output, the end of it and its exit status have
  // arrived. Throws BenchFailure when they are not what they should be.
  virtual uint64_t echo() = 0;
  // How its machine came to be: boot, fork or restore; empty where nobody says.
  virtual std::string path() const { return {}; }
  // Writes a file of `size` bytes anew; nanoseconds until that is confirmed.
  virtual uint64_t write_file(uint64_t size) = 0;
  // Reads that file; nanoseconds until all of it is here. Throws when it is not as it was written.
  virtual uint64_t read_file(uint64_t size) = 0;
};

// As cli/bench_verb.cc read them, which has their defaults.
struct ExecOptions {
  uint32_t count = 0, file_mib = 0, file_count = 0;
  std::string image, node;
  std::string sdk;        // folder with node_modules/@deno/sandbox; empty: without the client
  std::string json_file;  // empty: none
};

// The bytes of the file: every 8 of them are a different number.
std::string file_content(uint64_t size);

// Without any machine: posix_spawn and pipes on this host.
std::unique_ptr<Subject> make_host_subject();
// libhutch and the agent's protocol, no server in between.
std::unique_ptr<Subject> make_agent_subject(const ExecOptions& options);

// A hutch-serve of its own, with a data folder that is gone with it.
class Server {
 public:
  // Without templates each sandbox is a boot.
  explicit Server(const ExecOptions& options, bool templates = true);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  uint16_t port() const { return port_; }
  const std::string& token() const { return token_; }

 private:
  void wait_until_ready(int output);
  void stop();

  std::string folder_;
  int process_id_ = 0;
  uint16_t port_ = 0;
  std::string token_;
};
// JSON-RPC on a WebSocket of that server, spoken by hand. Its sandbox ends with it.
std::unique_ptr<Subject> make_daemon_subject(const Server& server);
// The npm client @deno/sandbox in Node.
std::unique_ptr<Subject> make_client_subject(const ExecOptions& options, const Server& server);

}  // namespace hutch::bench
