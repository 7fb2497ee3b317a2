// What a call fails with: the error object of the protocol, and the exception that carries it.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace hutch::agent::rpc {

using Json = nlohmann::json;

// Is thrown by a method and becomes `result.error` of its answer. The client makes an error of the
// class `constructor_name` from it; empty fields are left out.
struct Failure : std::exception {
  Failure(std::string the_class, std::string the_message, std::string the_code = {})
      : constructor_name(std::move(the_class)),
        message(std::move(the_message)),
        code(std::move(the_code)) {}
  const char* what() const noexcept override { return message.c_str(); }
  // Long texts are cut. They may hold anything: the document is dumped with what is no UTF-8
  // replaced.
  Json to_json() const;

  std::string constructor_name;
  std::string message;
  std::string code;  // never with "DOMException", whose code the client cannot set
  std::string name;
  std::string stack;
};

// A failed system call in the words of Deno: "No such file or directory (os error 2): stat '/x'".
// `what` is the operation and its path; empty: nothing stands behind the text.
Failure errno_failure(int number, std::string_view what = {});
// Throws the above for errno.
[[noreturn]] void throw_errno(std::string_view what);

Failure type_error(std::string message);
Failure abort_failure();
Failure broken_pipe();
// The name of an errno value, such as "ENOENT".
std::string errno_name(int number);

}  // namespace hutch::agent::rpc
