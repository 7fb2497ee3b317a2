#include "broker/http_head.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

namespace hutch::broker {
namespace {

constexpr size_t kMaxMethod = 20;

HttpHead broken() {
  return {HttpHead::State::kBroken, "", 0};
}

bool is_token(std::string_view text) {
  constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           kOthers.find(c) != std::string_view::npos;
  });
}

bool is_method(std::string_view text) {
  return !text.empty() && text.size() <= kMaxMethod &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= 'A' && c <= 'Z') || c == '-' || c == '_'; });
}

bool is_plain(std::string_view text, char also) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    auto byte = static_cast<unsigned char>(c);
    return (byte > ' ' && byte != 0x7f) || (also != '\0' && (c == ' ' || c == also));
  });
}

bool is_name(std::string_view text, std::string_view wanted) {
  return std::equal(text.begin(), text.end(), wanted.begin(), wanted.end(), [](char a, char b) {
    return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b;
  });
}

// host or host:port; a user before an @ makes the host no host's name, so whoever compares refuses.
std::optional<HttpHead> read_authority(std::string_view text) {
  HttpHead head{HttpHead::State::kWhole, "", 0};
  size_t colon = text.rfind(':');
  // An IPv6 address has its own colons, inside brackets.
  if (colon != std::string_view::npos && text.find(']', colon) == std::string_view::npos) {
    std::string_view port = text.substr(colon + 1);
    auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), head.port);
    if (error != std::errc() || end != port.data() + port.size() || head.port == 0 ||
        port.front() == '0')
      return std::nullopt;
    text = text.substr(0, colon);
  }
  if (text.empty()) return std::nullopt;
  head.host = text;
  return head;
}

std::string_view without_blanks(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Whether the request line is one, and the authority of an absolute target; empty: it has none.
std::optional<std::string_view> read_request_line(std::string_view line) {
  size_t first = line.find(' '), last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return std::nullopt;
  std::string_view method = line.substr(0, first),
                   target = line.substr(first + 1, last - first - 1),
                   version = line.substr(last + 1);
  if (!is_method(method) || target.empty() || !is_plain(target, '\0') ||
      (version != "HTTP/1.1" && version != "HTTP/1.0"))
    return std::nullopt;
  // A tunnel would lead anywhere.
  if (method == "CONNECT") return std::nullopt;
  if (target.front() == '/' || target == "*") return std::string_view();
  constexpr std::string_view kScheme = "http://";
  if (!target.starts_with(kScheme)) return std::nullopt;
  target.remove_prefix(kScheme.size());
  std::string_view authority = target.substr(0, target.find_first_of("/?#"));
  if (authority.empty()) return std::nullopt;
  return authority;
}

HttpHead read_lines(std::string_view text) {
  std::optional<std::string_view> target, host;
  bool is_first = true;
  while (!text.empty()) {
    size_t end = text.find("\r\n");
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 2);
    // Neither a bare line feed nor a bare carriage return, nor other control characters.
    if (!is_plain(line, '\t')) return broken();
    if (is_first) {
      target = read_request_line(line);
      if (!target) return broken();
      is_first = false;
      continue;
    }
    size_t colon = line.find(':');
    if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) return broken();
    if (!is_name(line.substr(0, colon), "host")) continue;
    if (host) return broken();
    host = without_blanks(line.substr(colon + 1));
  }
  if (!host) return broken();
  std::optional<HttpHead> head = read_authority(*host);
  if (!head) return broken();
  if (target->empty()) return *head;
  std::optional<HttpHead> absolute = read_authority(*target);
  return absolute && absolute->host == head->host && absolute->port == head->port ? *head
                                                                                  : broken();
}

}  // namespace

bool may_be_http(std::span<const std::byte> bytes) {
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  size_t end = text.find(' ');
  if (end != std::string_view::npos) return is_method(text.substr(0, end));
  return text.empty() || is_method(text);
}

HttpHead read_http_head(std::span<const std::byte> bytes) {
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!may_be_http(bytes)) return broken();
  size_t end = text.find("\r\n\r\n");
  // A server that takes bare line feeds would see an end before that.
  std::string_view head = text.substr(0, end == std::string_view::npos ? end : end + 2);
  for (size_t at = head.find('\n'); at != std::string_view::npos; at = head.find('\n', at + 1))
    if (at == 0 || head[at - 1] != '\r') return broken();
  if (head.size() > kMaxHttpHead) return broken();
  if (end == std::string_view::npos) return {};
  return read_lines(head);
}

}  // namespace hutch::broker
