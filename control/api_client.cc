#include "control/api_client.h"

#include <fmt/format.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <cstdlib>
#include <map>
#include <stdexcept>

#include "control/data_folder.h"
#include "control/ids.h"
#include "control/snapshots.h"

namespace hutch::control {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Response = http::response<http::string_body>;

// The longest answers that the server takes its time for are a minute without news, and many
// sandboxes that begin.
constexpr std::chrono::seconds kTime{75}, kTimeToBegin{600};
constexpr uint64_t kMaxBody = 16 << 20;

// The variables of lines `export NAME='value'`, as DataFolder writes them.
std::map<std::string, std::string> parse_environment(const std::string& text) {
  std::map<std::string, std::string> variables;
  for (size_t start = 0; start < text.size();) {
    size_t end = std::min(text.find('\n', start), text.size());
    std::string line = text.substr(start, end - start);
    start = end + 1;
    size_t equals = line.find("='");
    if (!line.starts_with("export ") || equals == std::string::npos || !line.ends_with('\''))
      continue;
    std::string value = line.substr(equals + 2, line.size() - equals - 3);
    for (size_t quote; (quote = value.find("'\\''")) != std::string::npos;)
      value.replace(quote, 4, "'");
    variables[line.substr(7, equals - 7)] = value;
  }
  return variables;
}

// One request on a stream of either kind, each step in its time.
template <typename Stream>
void exchange(asio::io_context& context, Stream& stream,
              const http::request<http::string_body>& request, Response& response) {
  beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(kMaxBody);
  boost::system::error_code failure;
  http::async_write(stream, request, [&](boost::system::error_code error, size_t) {
    if (error) {
      failure = error;
      return;
    }
    http::async_read(stream, buffer, parser,
                     [&](boost::system::error_code read_error, size_t) { failure = read_error; });
  });
  context.restart();
  context.run();
  if (failure) throw boost::system::system_error(failure);
  response = parser.release();
}

Response send(const Endpoint& endpoint, const http::request<http::string_body>& request,
              std::chrono::seconds time) {
  asio::io_context context(1);
  asio::ip::tcp::resolver resolver(context);
  asio::ssl::context tls(asio::ssl::context::tls_client);
  beast::tcp_stream stream(context);
  stream.expires_after(time);
  boost::system::error_code failure;
  stream.async_connect(resolver.resolve(endpoint.host, endpoint.port),
                       [&](boost::system::error_code error, const auto&) { failure = error; });
  context.run();
  if (failure) throw boost::system::system_error(failure);
  Response response;
  if (!endpoint.tls) {
    exchange(context, stream, request, response);
    return response;
  }
  tls.set_verify_mode(asio::ssl::verify_peer);
  tls.set_verify_callback(asio::ssl::host_name_verification(endpoint.host));
  if (endpoint.authority.empty()) {
    tls.set_default_verify_paths();
  } else {
    tls.load_verify_file(endpoint.authority);
  }
  asio::ssl::stream<beast::tcp_stream&> secure(stream, tls);
  SSL_set_tlsext_host_name(secure.native_handle(), endpoint.host.c_str());
  secure.async_handshake(asio::ssl::stream_base::client,
                         [&](boost::system::error_code error) { failure = error; });
  context.restart();
  context.run();
  if (failure) throw boost::system::system_error(failure);
  exchange(context, secure, request, response);
  return response;
}

}  // namespace

Endpoint parse_endpoint(const std::string& url) {
  Endpoint endpoint;
  std::string_view rest = url;
  auto refuse = [&] {
    throw std::runtime_error(
        fmt::format("\"{}\" is no address of a server; write "
                    "http://127.0.0.1:7777",
                    url));
  };
  if (rest.starts_with("https://")) {
    endpoint.tls = true;
    rest.remove_prefix(8);
  } else if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
  } else {
    refuse();
  }
  if (rest.ends_with('/')) rest.remove_suffix(1);
  endpoint.port = endpoint.tls ? "443" : "80";
  size_t end = rest.starts_with('[') ? rest.find(']') : rest.find(':');
  if (rest.starts_with('[')) {
    if (end == std::string_view::npos) refuse();
    endpoint.host = rest.substr(1, end - 1);
    rest.remove_prefix(end + 1);
  } else {
    endpoint.host = rest.substr(0, end);
    rest.remove_prefix(std::min(end, rest.size()));
  }
  if (rest.starts_with(':')) {
    endpoint.port = rest.substr(1);
    rest = {};
  }
  bool is_number = !endpoint.port.empty() && endpoint.port.size() <= 5 &&
                   endpoint.port.find_first_not_of("0123456789") == std::string::npos;
  if (!rest.empty() || endpoint.host.empty() || !is_number ||
      endpoint.host.find_first_of("/?#@ ") != std::string::npos)
    refuse();
  return endpoint;
}

Endpoint find_endpoint(const std::string& data_folder) {
  auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  std::string url = variable("DENO_SANDBOX_ENDPOINT"), token = variable("DENO_DEPLOY_TOKEN");
  std::string authority = variable("DENO_CERT");
  if (url.empty() || token.empty()) {
    std::map<std::string, std::string> left =
        parse_environment(DataFolder::read_environment(data_folder));
    // All of one place: a token is not sent to another's server.
    url = left["DENO_SANDBOX_ENDPOINT"];
    token = left["DENO_DEPLOY_TOKEN"];
    authority = left["DENO_CERT"];
  }
  Endpoint endpoint = parse_endpoint(url);
  endpoint.token = token;
  endpoint.authority = authority;
  return endpoint;
}

std::string sandbox_path(const std::string& id, const char* what) {
  if (!is_sandbox_id(id))
    throw std::runtime_error(fmt::format("\"{}\" is no id of a sandbox, such as sbx_loc_...", id));
  return fmt::format("/api/v3/sandbox/{}/{}", id, what);
}

std::string snapshot_path(const std::string& id, const char* what) {
  if (!is_snapshot_id(id) && !is_snapshot_name(id))
    throw std::runtime_error(
        fmt::format("\"{}\" is no id of a snapshot, such as snp_loc_..., and no name of one", id));
  return fmt::format("/api/v3/snapshots/{}{}", id, what);
}

nlohmann::json ApiClient::ask(const std::string& method, const std::string& target,
                              const std::string& body) const {
  http::request<http::string_body> request(http::string_to_verb(method), target, 11);
  request.set(http::field::host, endpoint_.host);
  request.set(http::field::authorization, "Bearer " + endpoint_.token);
  request.set(http::field::connection, "close");
  request.body() = body;
  request.prepare_payload();
  Response response;
  try {
    response = send(endpoint_, request, method == "POST" ? kTimeToBegin : kTime);
  } catch (const boost::system::system_error& error) {
    throw std::runtime_error(fmt::format("no answer from {}:{}: {}; is hutch serve running there?",
                                         endpoint_.host, endpoint_.port, error.code().message()));
  }
  nlohmann::json answer = nlohmann::json::parse(response.body(), nullptr, false);
  if (response.result_int() == 200 && !answer.is_discarded()) return answer;
  std::string message = answer.is_object() ? answer.value("message", "") : "";
  if (message.empty())
    message = fmt::format("{}:{} answered {}; is it hutch serve?", endpoint_.host, endpoint_.port,
                          response.result_int());
  throw std::runtime_error(message);
}

}  // namespace hutch::control
