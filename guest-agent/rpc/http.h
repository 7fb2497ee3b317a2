// HTTP/1.1 on a connected socket or pipe: what one exchange needs, no more. Blocking; on a worker.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hutch::agent::rpc {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// Its texts are Latin-1, as they came.
struct HttpResponse {
  int status = 0;
  std::string status_text;
  HttpHeaders headers;
};

// Whether a text is what HTTP calls a token: a method, or the name of a header.
bool is_token(std::string_view text);
// Whether a text holds nothing that ends a header's value.
bool is_header_value(std::string_view text);
bool equal_names(const std::string& left, const char* right);

// Reads an answer. Throws Failure for what is none.
class HttpReader {
 public:
  explicit HttpReader(int fd) : fd_(fd) {}

  // The head of the answer, behind those of status 1xx.
  HttpResponse read_head();
  // Passes the body on until `take` returns false.
  void read_body(const HttpResponse& head, const std::function<bool(std::string)>& take);
  // The same with all up to the end of the input.
  void read_rest(const std::function<bool(std::string)>& take);

 private:
  bool fill();
  std::string read_line();
  // `take` gets what there is of the next `size` bytes. False when it wants no more.
  bool pass(size_t size, const std::function<bool(std::string)>& take);

  const int fd_;
  std::string held_;
};

}  // namespace hutch::agent::rpc
