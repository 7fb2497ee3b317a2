#include "guest-agent/rpc/fetch.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "base/sys.h"
#include "guest-agent/rpc/codecs.h"
#include "guest-agent/rpc/files.h"
#include "guest-agent/rpc/http.h"
#include "guest-agent/rpc/parameters.h"
#include "guest-agent/rpc/stream_writer.h"

namespace hutch::agent::rpc {
namespace {

// What curl is asked to say of a redirect, and how that line begins.
constexpr const char* kWriteOut = "%{stderr}\nredirect-url: %{redirect_url}\n";
constexpr std::string_view kRedirectLine = "\nredirect-url: ";

// A request's body is held until it is whole: a redirect may want it again.
constexpr size_t kMaxBody = size_t{64} << 20;
constexpr int kMaxRedirects = 20;
constexpr size_t kMaxRedirectBody = size_t{4} << 20;
// Of curl: where it writes the headers.
constexpr int kHeadDescriptor = 3;

struct Request {
  std::string url, method, body;
  HttpHeaders headers;
  bool has_body = false, follows = true;
  std::string socket;  // of a Deno process; empty: the network
  std::vector<std::string> environment;
  std::string curl;
};

struct Pipe {
  Fd reader, writer;
};

Pipe make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) throw_errno("making a pipe");
  return {Fd(ends[0]), Fd(ends[1])};
}

bool has_no_body(const Request& request, int status) {
  return request.method == "HEAD" || status == 204 || status == 205 || status == 304;
}

class Fetching : public std::enable_shared_from_this<Fetching> {
 public:
  Fetching(Loop& loop, Workers& waiters, std::shared_ptr<Call> call, Request request)
      : loop_(loop), waiters_(waiters), call_(std::move(call)), request_(std::move(request)) {}

  void start(std::shared_ptr<InboundStream> body) {
    call_->set_on_abort([weak = weak_from_this(), body] {
      if (auto self = weak.lock()) self->stop();
      if (body) body->cancel(abort_failure());
    });
    if (!body) return run();
    request_.has_body = true;
    body->set_on_data([self = shared_from_this(), body] { self->collect(body); });
    collect(body);
  }

 private:
  void collect(const std::shared_ptr<InboundStream>& body) {
    while (auto chunk = body->take()) request_.body += *chunk;
    bool too_large = request_.body.size() > kMaxBody;
    if (!too_large && !body->is_ended()) return;
    auto self = shared_from_this();
    std::optional<Failure> failure = body->failure();
    if (too_large)
      failure = Failure("Error",
                        "the body of a request has at most " + std::to_string(kMaxBody) + " bytes");
    body->cancel(failure.value_or(broken_pipe()));
    if (failure) return call_->fail(*failure);
    run();
  }

  // Ends what the worker waits for. Any thread.
  void stop() {
    std::lock_guard guard(mutex_);
    stopped_ = true;
    if (socket_ >= 0) ::shutdown(socket_, SHUT_RDWR);
    if (child_ > 0) ::kill(child_, SIGKILL);
  }

  void run() {
    auto connection = call_->connection();
    if (!connection || !call_->is_open()) return;
    stream_ = connection->open_stream();
    writer_ = StreamWriter::create(loop_, stream_, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->stop();
    });
    waiters_.run([self = shared_from_this()] { self->work(); },
                 [self = shared_from_this()] { self->finish(); });
  }

  // On a worker.
  void work() {
    try {
      if (request_.socket.empty()) {
        fetch_from_network();
      } else {
        fetch_from_socket();
      }
      writer_->end();
    } catch (const Failure& failure) {
      failure_ = failure;
    } catch (const std::exception& error) {
      failure_ = Failure("Error", error.what());
    }
  }

  // On the loop's thread, when the worker is through.
  void finish() {
    if (answered_) {
      if (failure_) stream_->fail(*failure_);
      return;
    }
    drop_stream();
    if (failure_) call_->fail(*failure_);
  }

  void drop_stream() {
    if (auto connection = call_->connection()) connection->forget_outbound(stream_->id());
    stream_->cancel();
  }

  // On a worker: the answer goes out before its body.
  void answer(const HttpResponse& head, bool has_body, bool decoded) {
    Json headers = Json::array();
    for (const auto& [name, value] : head.headers) {
      // The body comes decoded, whatever these said of it on the way.
      if (equal_names(name, "transfer-encoding") ||
          (decoded &&
           (equal_names(name, "content-encoding") || equal_names(name, "content-length"))))
        continue;
      headers.push_back({from_latin1(name), from_latin1(value)});
    }
    loop_.post([self = shared_from_this(), headers, has_body, status = head.status,
                text = from_latin1(head.status_text)] {
      if (!self->call_->is_open()) return self->stop();
      self->answered_ = true;
      auto connection = self->call_->connection();
      auto abort_id = self->call_->params.find("abortId");
      if (has_body && connection && abort_id != self->call_->params.end())
        connection->abort_with(*abort_id, self->stream_);
      if (!has_body) self->drop_stream();
      self->call_->ok({{"status", status},
                       {"statusText", text},
                       {"headers", headers},
                       {"bodyStreamId", has_body ? Json(self->stream_->id()) : Json(nullptr)}});
      if (has_body) self->stream_->release_after(std::chrono::milliseconds(10));
    });
  }

  bool encoded(const HttpResponse& head) const {
    return std::any_of(head.headers.begin(), head.headers.end(), [](const auto& header) {
      return equal_names(header.first, "content-encoding");
    });
  }

  void fetch_from_socket() {
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, request_.socket.data(),
                std::min(request_.socket.size(), sizeof address.sun_path - 1));
    if (!socket ||
        ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
      throw errno_failure(errno, "connecting to the HTTP server of the process");
    register_socket(socket.get());
    struct Forget {
      Fetching& fetching;
      ~Forget() { fetching.register_socket(-1); }
    } forget{*this};
    size_t scheme = request_.url.find("://");
    size_t host = scheme == std::string::npos ? 0 : scheme + 3;
    size_t path = std::min(request_.url.find_first_of("/?#", host), request_.url.size());
    std::string target = request_.url.substr(path, request_.url.find('#') - path);
    if (!target.starts_with('/')) target = "/" + target;
    std::string head = request_.method + " " + target + " HTTP/1.1\r\n";
    bool has_host = false;
    for (const auto& [name, value] : request_.headers) {
      // The body comes as it is: nothing here decodes it.
      if (equal_names(name, "content-length") || equal_names(name, "connection") ||
          equal_names(name, "transfer-encoding") || equal_names(name, "accept-encoding"))
        continue;
      has_host = has_host || equal_names(name, "host");
      head += name + ": " + value + "\r\n";
    }
    if (!has_host) head += "host: " + request_.url.substr(host, path - host) + "\r\n";
    if (request_.has_body)
      head += "content-length: " + std::to_string(request_.body.size()) + "\r\n";
    head += "connection: close\r\n\r\n";
    for (const std::string* part : {&head, &request_.body}) {
      auto written = write_all(socket.get(), std::as_bytes(std::span(*part)));
      if (!written) throw errno_failure(written.error().number, "sending the request");
    }
    HttpReader reader(socket.get());
    HttpResponse response = reader.read_head();
    bool has_body = !has_no_body(request_, response.status);
    answer(response, has_body, false);
    if (has_body)
      reader.read_body(response,
                       [&](std::string bytes) { return writer_->write(std::move(bytes)); });
  }

  void register_socket(int socket) {
    std::lock_guard guard(mutex_);
    socket_ = socket;
    if (stopped_ && socket >= 0) ::shutdown(socket, SHUT_RDWR);
  }

  void fetch_from_network() {
    for (int i = 0; i <= kMaxRedirects; i++) {
      if (!fetch_once()) return;
    }
    throw type_error("Fetch failed: Maximum number of redirects (20) reached");
  }

  // Runs curl for one exchange. True when it was a redirect, and the request has become the next.
  bool fetch_once() {
    Fd input(::memfd_create("body", MFD_CLOEXEC)), words(::memfd_create("words", MFD_CLOEXEC));
    if (!input || !words) throw_errno("creating a file in memory");
    Pipe head_pipe = make_pipe(), body_pipe = make_pipe();
    auto written = write_all(input.get(), std::as_bytes(std::span(request_.body)));
    if (!written) throw errno_failure(written.error().number, "keeping the request's body");
    ::lseek(input.get(), 0, SEEK_SET);
    // The headers beside the body: behind it there may be trailers. Nothing is held back for more.
    std::vector<std::string> arguments = {request_.curl,
                                          "-q",
                                          "-sS",
                                          "--no-buffer",
                                          "--dump-header",
                                          "/dev/fd/" + std::to_string(kHeadDescriptor),
                                          "--suppress-connect-headers",
                                          "--compressed",
                                          "--globoff",
                                          "--proto",
                                          "=http,https",
                                          "-w",
                                          kWriteOut,
                                          "-H",
                                          "Expect:"};
    if (request_.method == "HEAD") {
      arguments.push_back("--head");
    } else {
      arguments.insert(arguments.end(), {"-X", request_.method});
    }
    bool has_type = false;
    for (const auto& [name, value] : request_.headers) {
      has_type = has_type || equal_names(name, "content-type");
      if (equal_names(name, "content-length")) continue;
      arguments.insert(arguments.end(), {"-H", value.empty() ? name + ";" : name + ": " + value});
    }
    if (request_.has_body) arguments.insert(arguments.end(), {"--data-binary", "@-"});
    if (request_.has_body && !has_type) arguments.insert(arguments.end(), {"-H", "Content-Type:"});
    arguments.insert(arguments.end(), {"--url", request_.url});

    start_curl(arguments,
               {input.get(), body_pipe.writer.get(), words.get(), head_pipe.writer.get()});
    head_pipe.writer.reset();
    body_pipe.writer.reset();
    bool redirected = false;
    std::optional<Failure> failure;
    try {
      HttpResponse response = HttpReader(head_pipe.reader.get()).read_head();
      redirected = request_.follows && is_redirect(response);
      bool has_body = !has_no_body(request_, response.status);
      if (!redirected) answer(response, has_body, encoded(response));
      // Nobody is shown the body of a redirect, but curl tells where it leads only behind it.
      size_t unseen = 0;
      HttpReader(body_pipe.reader.get()).read_rest([&](std::string bytes) {
        unseen += bytes.size();
        if (redirected) return unseen <= kMaxRedirectBody;
        return !has_body || writer_->write(std::move(bytes));
      });
      if (redirected) change_method(response.status);
    } catch (const Failure& caught) {
      failure = caught;
    }
    body_pipe.reader.reset();
    int status = wait_for_curl();
    std::string text(16384, '\0');
    ssize_t size = ::pread(words.get(), text.data(), text.size(), 0);
    text.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
    // curl's own error stands before or behind the line that -w wrote.
    std::string next;
    if (size_t line = text.find(kRedirectLine); line != std::string::npos) {
      size_t begin = line + kRedirectLine.size(),
             end = std::min(text.find('\n', begin), text.size());
      next = text.substr(begin, end - begin);
      text.erase(line, end - line);
    }
    bool failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    if ((failed && !redirected) || failure) {
      std::string why = text;
      while (!why.empty() && why.back() == '\n') why.pop_back();
      if (why.empty() && failure) throw *failure;
      throw type_error("error sending request for url (" + request_.url + "): " + why);
    }
    if (redirected && next.empty())
      throw type_error("the redirect leads nowhere, or behind it comes too long a body");
    if (redirected) change_url(next);
    return redirected;
  }

  static bool is_redirect(const HttpResponse& head) {
    constexpr int kStatuses[] = {301, 302, 303, 307, 308};
    bool has_location =
        std::any_of(head.headers.begin(), head.headers.end(),
                    [](const auto& header) { return equal_names(header.first, "location"); });
    return has_location && std::find(std::begin(kStatuses), std::end(kStatuses), head.status) !=
                               std::end(kStatuses);
  }

  void change_method(int status) {
    bool becomes_get = (status <= 302 && request_.method == "POST") ||
                       (status == 303 && request_.method != "GET" && request_.method != "HEAD");
    if (!becomes_get) return;
    request_.method = "GET";
    request_.has_body = false;
    request_.body.clear();
    drop_headers({"content-type", "content-encoding", "content-language", "content-location"});
  }

  void change_url(const std::string& next) {
    auto origin = [](const std::string& url) {
      size_t host = url.find("://");
      return host == url.npos ? url : url.substr(0, url.find_first_of("/?#", host + 3));
    };
    // What was meant for one origin is not told to another.
    if (origin(next) != origin(request_.url))
      drop_headers({"authorization", "cookie", "proxy-authorization", "host"});
    request_.url = next;
  }

  void drop_headers(std::initializer_list<const char*> names) {
    std::erase_if(request_.headers, [&](const auto& header) {
      return std::any_of(names.begin(), names.end(),
                         [&](const char* name) { return equal_names(header.first, name); });
    });
  }

  // `fds`: what become the descriptors 0 to 3.
  void start_curl(std::vector<std::string>& arguments, std::array<int, 4> fds) {
    std::vector<char*> words, variables;
    for (std::string& argument : arguments) words.push_back(argument.data());
    for (std::string& variable : request_.environment) variables.push_back(variable.data());
    words.push_back(nullptr);
    variables.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    for (int number = 0; number <= kHeadDescriptor; number++)
      ::posix_spawn_file_actions_adddup2(&actions, fds[static_cast<size_t>(number)], number);
    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    sigset_t defaults;
    ::sigemptyset(&defaults);
    ::sigaddset(&defaults, SIGPIPE);
    ::posix_spawnattr_setsigdefault(&attributes, &defaults);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    pid_t child = -1;
    int failed = 0;
    {
      std::lock_guard guard(mutex_);
      failed = stopped_ ? ECANCELED
                        : ::posix_spawn(&child, arguments.front().c_str(), &actions, &attributes,
                                        words.data(), variables.data());
      if (failed == 0) child_ = child;
    }
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
    if (failed != 0) throw errno_failure(failed, "running curl");
  }

  int wait_for_curl() {
    // Left a zombie until nobody can signal its number any more.
    siginfo_t ignored;
    while (::waitid(P_PID, static_cast<id_t>(child_), &ignored, WEXITED | WNOWAIT) < 0 &&
           errno == EINTR) {
    }
    std::lock_guard guard(mutex_);
    int status = 0;
    ::waitpid(child_, &status, 0);
    child_ = -1;
    return status;
  }

  Loop& loop_;
  Workers& waiters_;
  const std::shared_ptr<Call> call_;
  Request request_;
  std::shared_ptr<OutboundStream> stream_;
  std::shared_ptr<StreamWriter> writer_;
  std::optional<Failure> failure_;
  bool answered_ = false;
  std::mutex mutex_;
  // Under mutex_:
  bool stopped_ = false;
  int socket_ = -1;
  pid_t child_ = -1;
};

}  // namespace

void start_fetch(Loop& loop, Workers& waiters, const Deno& deno, const Environment& environment,
                 const std::shared_ptr<Call>& call) {
  const Json& params = call->params;
  Request request;
  request.url = text_of(params, "url");
  request.method = optional_text(params, "method").value_or("GET");
  if (!is_token(request.method)) throw type_error("\"method\" is no method of HTTP");
  if (request.url.find_first_of("\r\n\t ") != std::string::npos)
    throw type_error("Invalid URL: '" + request.url + "'");
  request.follows = optional_text(params, "redirect").value_or("follow") != "manual";
  auto headers = params.find("headers");
  if (headers != params.end() && !headers->is_null()) {
    if (!headers->is_array()) throw type_error("\"headers\" must be a list of pairs");
    for (const Json& header : *headers) {
      if (!header.is_array() || header.size() != 2 || !header[0].is_string() ||
          !header[1].is_string())
        throw type_error("\"headers\" must be a list of pairs");
      std::string name = header[0];
      auto value = to_latin1(header[1].get<std::string>());
      if (!is_token(name) || !value || !is_header_value(*value))
        throw type_error("the header \"" + name + "\" is malformed");
      request.headers.emplace_back(std::move(name), *std::move(value));
    }
  }
  auto pid = optional_integer(params, "pid", 0, kMaxInteger);
  if (::strncasecmp(request.url.c_str(), "http://", 7) != 0 &&
      ::strncasecmp(request.url.c_str(), "https://", 8) != 0)
    throw type_error("Url scheme of '" + request.url + "' not supported, only http and https");
  if (pid) {
    request.socket = deno.http_socket(*pid);
  } else {
    auto path = environment.all().find("PATH");
    request.curl = find_program("curl", path == environment.all().end() ? "" : path->second);
    if (request.curl.empty())
      throw Failure("NotFound", "fetch needs the program curl in the image", "ENOENT");
    request.environment = environment.with({}, false);
  }
  auto body = optional_integer(params, "bodyStreamId", 0, kMaxInteger);
  std::shared_ptr<InboundStream> stream;
  if (body) stream = call->connection()->claim_stream(static_cast<uint64_t>(*body));
  std::make_shared<Fetching>(loop, waiters, call, std::move(request))->start(std::move(stream));
}

}  // namespace hutch::agent::rpc
