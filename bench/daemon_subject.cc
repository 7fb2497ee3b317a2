// A server of our own, and JSON-RPC to it by hand: what the client says on the wire, without the
// client.
#include <openssl/evp.h>
#include <signal.h>
#include <unistd.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "artefacts/artefacts.h"
#include "base/sys.h"
#include "bench/child.h"
#include "bench/subject.h"

namespace hutch::bench {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using nlohmann::json;

constexpr const char* kFile = "hutch-bench";
constexpr size_t kWriteBuffer = 256 << 10;
constexpr size_t kMaxMessage = 100 << 20;  // as the client's WebSocket library has it

std::string base64(std::string_view bytes) {
  std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                             reinterpret_cast<const unsigned char*>(bytes.data()),
                             static_cast<int>(bytes.size()));
  text.resize(static_cast<size_t>(size));
  return text;
}

std::string from_base64(std::string_view text) {
  std::string bytes(text.size() / 4 * 3, '\0');
  int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                             reinterpret_cast<const unsigned char*>(text.data()),
                             static_cast<int>(text.size()));
  if (size < 0) throw BenchFailure("the server's answer is not base64");
  // It counts the padding as zero bytes.
  size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  bytes.resize(static_cast<size_t>(size) - padding);
  return bytes;
}

class DaemonSubject final : public Subject {
 public:
  explicit DaemonSubject(const Server& server) : socket_(context_) {
    try {
      beast::get_lowest_layer(socket_).connect(
          asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), server.port()));
      beast::get_lowest_layer(socket_).set_option(asio::ip::tcp::no_delay(true));
      socket_.read_message_max(kMaxMessage);
      // What is masked is copied: in pieces of this size, with a system call each.
      socket_.write_buffer_bytes(kWriteBuffer);
      socket_.auto_fragment(false);
      socket_.set_option(
          beast::websocket::stream_base::decorator([&](beast::websocket::request_type& request) {
            request.set("authorization", "Bearer " + server.token());
            request.set("x-deno-sandbox-config", base64(R"({"memory_mb":1280,"volumes":[]})"));
          }));
      beast::websocket::response_type answer;
      socket_.handshake(answer, "127.0.0.1", "/api/v3/sandboxes/create");
      path_ = std::string(answer["x-hutch-path"]);
    } catch (const boost::system::system_error& error) {
      throw BenchFailure(fmt::format("the server made no sandbox: {}", error.what()));
    }
  }

  uint64_t echo() override {
    std::string output;
    uint64_t start = monotonic_ns();
    json child = call(
        "spawn",
        {{"command", "/bin/echo"}, {"args", {"hello"}}, {"stdout", "piped"}, {"stderr", "null"}});
    send("processWait", {{"pid", child.at("pid")}});
    json status;
    bool ended = false;
    while (!ended || status.is_null()) {
      json message = receive();
      if (message.contains("id")) {
        status = result(message);
        continue;
      }
      if (message.at("params").at("streamId") != child.at("stdoutStreamId")) continue;
      if (message.at("method") == "$sandbox.stream.enqueue")
        output += from_base64(message.at("params").at("data").get_ref<const std::string&>());
      ended = message.at("method") == "$sandbox.stream.end";
    }
    uint64_t end = monotonic_ns();
    if (output != "hello\n" || status.at("code") != 0)
      throw BenchFailure("echo failed over the server");
    return end - start;
  }

  std::string path() const override { return path_; }

  uint64_t write_file(uint64_t size) override {
    std::string content = file_content(size);
    uint64_t start = monotonic_ns();
    call("writeFile", {{"path", kFile}, {"content", base64(content)}});
    return monotonic_ns() - start;
  }

  uint64_t read_file(uint64_t size) override {
    uint64_t start = monotonic_ns();
    json answer = call("readFile", {{"path", kFile}});
    std::string content = from_base64(answer.get_ref<const std::string&>());
    uint64_t end = monotonic_ns();
    if (content != file_content(size)) throw BenchFailure("the server read the file otherwise");
    return end - start;
  }

 private:
  void send(const char* method, json params) {
    json message{{"jsonrpc", "2.0"}, {"id", next_id_++}, {"method", method}};
    message["params"] = std::move(params);
    socket_.text(true);
    try {
      socket_.write(asio::buffer(message.dump()));
    } catch (const boost::system::system_error& error) {
      throw BenchFailure(fmt::format("writing to the server: {}", error.what()));
    }
  }

  json receive() {
    try {
      socket_.read(buffer_);
    } catch (const boost::system::system_error& error) {
      throw BenchFailure(fmt::format("reading from the server: {}", error.what()));
    }
    auto bytes = buffer_.data();
    json message = json::parse(static_cast<const char*>(bytes.data()),
                               static_cast<const char*>(bytes.data()) + bytes.size());
    buffer_.consume(buffer_.size());
    return message;
  }

  static json result(const json& message) {
    const json& result = message.at("result");
    if (!result.contains("ok")) throw BenchFailure("the server refused: " + result.dump());
    return result.at("ok");
  }

  json call(const char* method, json params) {
    send(method, std::move(params));
    for (;;) {
      json message = receive();
      if (message.contains("id")) return result(message);
    }
  }

  asio::io_context context_;
  beast::websocket::stream<asio::ip::tcp::socket> socket_;
  beast::flat_buffer buffer_;
  std::string path_;
  int64_t next_id_ = 0;
};

}  // namespace

Server::Server(const ExecOptions& options, bool templates) {
  Result<std::string> program = artefacts::find_program(artefacts::kServeProgram);
  if (!program) throw BenchFailure(program.error().text());
  Result<uint16_t> port = free_local_port();
  if (!port) throw BenchFailure(port.error().text());
  port_ = *port;
  char name[] = "/tmp/hutch-bench-XXXXXX";
  if (::mkdtemp(name) == nullptr) throw BenchFailure("no folder can be made in /tmp");
  folder_ = name;
  Child child;
  try {
    // It ends with us, also when we are killed.
    std::vector<std::string> words{"setpriv", "--pdeathsig", "TERM",
                                   *program,  "serve",       "--data-folder",
                                   folder_,   "--port",      std::to_string(port_),
                                   "--image", options.image};
    if (!templates) words.emplace_back("--no-templates");
    child = start_child(words);
    process_id_ = child.process_id;
    wait_until_ready(child.output.get());
  } catch (...) {
    stop();
    throw;
  }
}

void Server::wait_until_ready(int output) {
  constexpr std::string_view kTokenLine = "export DENO_DEPLOY_TOKEN='";
  Fd lines(::dup(output));
  for (std::string line = read_line(lines); line != "ready"; line = read_line(lines))
    if (line.starts_with(kTokenLine))
      token_ =
          line.substr(kTokenLine.size(), line.find('\'', kTokenLine.size()) - kTokenLine.size());
  if (token_.empty()) throw BenchFailure("the server printed no token");
}

void Server::stop() {
  if (process_id_ != 0) {
    ::kill(process_id_, SIGTERM);
    Child child;
    child.process_id = process_id_;
    wait_for(child);
  }
  std::error_code error;
  std::filesystem::remove_all(folder_, error);
}

Server::~Server() {
  stop();
}

std::unique_ptr<Subject> make_daemon_subject(const Server& server) {
  return std::make_unique<DaemonSubject>(server);
}

}  // namespace hutch::bench
