#include "guest-agent/rpc/http.h"

#include <strings.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "guest-agent/rpc/failure.h"

namespace hutch::agent::rpc {
namespace {

// Of a line, and of all headers: they have to fit into one answer that the control plane can hold.
constexpr size_t kMaxHead = 128 * 1024;
constexpr size_t kReadSize = 64 * 1024;

Failure bad_answer(const std::string& why) {
  return type_error("error reading the HTTP response: " + why);
}

size_t parse_size(std::string_view text, int base) {
  size_t size = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size, base);
  if (error != std::errc() || end == text.data()) throw bad_answer("a size that is no number");
  return size;
}

}  // namespace

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char character) {
    return (character >= '0' && character <= '9') || (character >= 'a' && character <= 'z') ||
           (character >= 'A' && character <= 'Z') ||
           std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(character)) !=
               std::string_view::npos;
  });
}

bool is_header_value(std::string_view text) {
  return text.find_first_of(std::string_view("\r\n\0", 3)) == text.npos;
}

bool equal_names(const std::string& left, const char* right) {
  return ::strcasecmp(left.c_str(), right) == 0;
}

bool HttpReader::fill() {
  size_t at = held_.size();
  held_.resize(at + kReadSize);
  ssize_t count;
  do {
    count = ::read(fd_, held_.data() + at, kReadSize);
  } while (count < 0 && errno == EINTR);
  int error_number = errno;
  held_.resize(at + static_cast<size_t>(std::max<ssize_t>(count, 0)));
  if (count < 0) throw errno_failure(error_number, "reading the HTTP response");
  return count > 0;
}

std::string HttpReader::read_line() {
  size_t end;
  while ((end = held_.find('\n')) == std::string::npos) {
    if (held_.size() > kMaxHead) throw bad_answer("a line is too long");
    if (!fill()) throw bad_answer("it ended too early");
  }
  std::string line = held_.substr(0, end);
  held_.erase(0, end + 1);
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return line;
}

HttpResponse HttpReader::read_head() {
  for (;;) {
    HttpResponse head;
    std::string line = read_line();
    size_t space = line.find(' ');
    if (!line.starts_with("HTTP/") || space == std::string::npos) throw bad_answer("it is no HTTP");
    head.status = static_cast<int>(parse_size(std::string_view(line).substr(space + 1, 3), 10));
    if (line.size() > space + 5) head.status_text = line.substr(space + 5);
    // The client takes no other.
    std::erase_if(head.status_text, [](unsigned char character) {
      return (character < ' ' && character != '\t') || character == 0x7f;
    });
    size_t size = line.size();
    while (!(line = read_line()).empty()) {
      size += line.size();
      if (size > kMaxHead) throw bad_answer("its headers are too long");
      size_t colon = std::min(line.find(':'), line.size());
      size_t first = std::min(line.find_first_not_of(" \t", colon + 1), line.size());
      size_t end = std::max(line.find_last_not_of(" \t") + 1, first);
      std::string name = line.substr(0, colon), value = line.substr(first, end - first);
      if (colon == line.size() || !is_token(name) || !is_header_value(value))
        throw bad_answer("a header is malformed");
      head.headers.emplace_back(std::move(name), std::move(value));
    }
    if (head.status >= 200 && head.status <= 599) return head;
    if (head.status < 100 || head.status > 199 || head.status == 101)
      throw bad_answer("its status is " + std::to_string(head.status));
  }
}

bool HttpReader::pass(size_t size, const std::function<bool(std::string)>& take) {
  while (size > 0) {
    if (held_.empty() && !fill()) throw bad_answer("it ended too early");
    size_t count = std::min(size, held_.size());
    if (!take(held_.substr(0, count))) return false;
    held_.erase(0, count);
    size -= count;
  }
  return true;
}

void HttpReader::read_body(const HttpResponse& head, const std::function<bool(std::string)>& take) {
  bool chunked = false, sized = false;
  size_t size = 0;
  for (const auto& [name, value] : head.headers) {
    if (equal_names(name, "transfer-encoding")) chunked = true;
    if (equal_names(name, "content-length")) {
      sized = true;
      size = parse_size(value, 10);
    }
  }
  if (chunked) {
    while ((size = parse_size(read_line(), 16)) > 0) {
      if (!pass(size, take)) return;
      read_line();
    }
  } else if (sized) {
    pass(size, take);
  } else {
    read_rest(take);
  }
}

void HttpReader::read_rest(const std::function<bool(std::string)>& take) {
  do {
    if (!held_.empty() && !take(std::exchange(held_, {}))) return;
  } while (fill());
}

}  // namespace hutch::agent::rpc
