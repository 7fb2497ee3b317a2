// The parts of the service that need no process.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

#include "base/fd.h"
#include "base/wire.h"
#include "guest-agent/rpc/codecs.h"
#include "guest-agent/rpc/failure.h"
#include "guest-agent/rpc/framing.h"

namespace hutch::agent::rpc {
namespace {

std::string decoded(std::string text) {
  return decode_base64(text) ? text : "(invalid)";
}

TEST_CASE("base64") {
  CHECK(to_base64("") == "");
  CHECK(to_base64("f") == "Zg==");
  CHECK(to_base64("fo") == "Zm8=");
  CHECK(to_base64("foo") == "Zm9v");
  CHECK(to_base64("\xff\xfe\xfd") == "//79");
  CHECK(decoded("Zm8=") == "fo");
  CHECK(decoded("Zm8") == "fo");
  CHECK(decoded("Z\nm 8=") == "fo");
  CHECK(decoded("__79") == "\xff\xfe\xfd");
  CHECK(decoded("Z") == "(invalid)");
  CHECK(decoded("Zm8=Zm8=") == "(invalid)");
  CHECK(decoded("Zm8!") == "(invalid)");
  for (size_t size = 0; size < 300; size++) {
    std::string bytes;
    for (size_t i = 0; i < size; i++) bytes += static_cast<char>(i * 37 + size);
    CHECK(decoded(to_base64(bytes)) == bytes);
  }
}

TEST_CASE("dates") {
  CHECK(to_iso_date({.tv_sec = 0, .tv_nsec = 0}) == "1970-01-01T00:00:00.000Z");
  CHECK(to_iso_date({.tv_sec = 1700000000, .tv_nsec = 123999999}) == "2023-11-14T22:13:20.123Z");
  auto time = parse_iso_date("2023-11-14T22:13:20.123Z");
  REQUIRE(time);
  CHECK(time->tv_sec == 1700000000);
  CHECK(time->tv_nsec == 123000000);
  CHECK(parse_iso_date("2023-11-15T00:13:20+02:00")->tv_sec == 1700000000);
  CHECK(parse_iso_date("1969-12-31T23:59:59Z")->tv_sec == -1);
  for (const char* wrong :
       {"", "2023", "2023-13-01T00:00:00Z", "2023-11-14 22:13:20Z", "2023-11-14T22:13:20",
        "2023-11-14T22:13:20.Z", "2023-11-14T22:13:20Zx"})
    CHECK_FALSE(parse_iso_date(wrong));
}

TEST_CASE("nesting is counted outside of strings") {
  CHECK_FALSE(nests_deeper(R"({"a":["[[[[", "\"[[[["]})", 2));
  CHECK(nests_deeper("[[[", 2));
  CHECK_FALSE(nests_deeper("[][][][]", 1));
}

TEST_CASE("what is no UTF-8 is replaced") {
  CHECK(valid_utf8("a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80") ==
        "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
  CHECK(valid_utf8("\xff|\xc3|\xed\xa0\x80") ==
        "\xef\xbf\xbd|\xef\xbf\xbd|\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_CASE("errors have Deno's class, words and code") {
  Failure failure = errno_failure(ENOENT, "stat '/x'");
  CHECK(failure.to_json() == Json{{"constructorName", "NotFound"},
                                  {"message", "No such file or directory (os error 2): stat '/x'"},
                                  {"code", "ENOENT"}});
  CHECK(errno_failure(ENOTEMPTY).constructor_name == "Error");
  CHECK(errno_failure(ENOTEMPTY).code == "ENOTEMPTY");
  CHECK(errno_failure(EPERM).constructor_name == "PermissionDenied");
  CHECK_FALSE(abort_failure().to_json().contains("code"));
}

TEST_CASE("messages pass a pipe in pieces") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0);
  Fd reader(ends[0]), writer(ends[1]);
  std::string large(3 * kMaxPiece + 5, 'm');
  for (size_t i = 0; i < large.size(); i++) large[i] = static_cast<char>(i % 251);
  MessageQueue queue;
  queue.push("first");
  queue.push(large);
  queue.push("last");
  CHECK(queue.bytes() == large.size() + 9);
  MessageReader messages;
  std::vector<std::string> received;
  std::string buffer(30'001, '\0');
  while (received.size() < 3) {
    REQUIRE(queue.write_to(writer.get()));
    ssize_t count = ::read(reader.get(), buffer.data(), buffer.size());
    REQUIRE(count > 0);
    std::string_view input(buffer.data(), static_cast<size_t>(count));
    while (auto message = messages.next(input)) received.push_back(*message);
  }
  CHECK(received == std::vector<std::string>{"first", large, "last"});
  CHECK(queue.empty());
  CHECK(queue.bytes() == 0);
  ::signal(SIGPIPE, SIG_IGN);
  reader.reset();
  queue.push("nobody reads");
  CHECK_FALSE(queue.write_to(writer.get()));
}

TEST_CASE("a message above the limit is an error") {
  MessageReader reader;
  std::string piece(kMaxPiece, 'x');
  le32 number = kMaxPiece | 1U << 31;
  std::string header(reinterpret_cast<const char*>(&number), sizeof number);
  bool thrown = false;
  size_t total = 0;
  while (!thrown && total < 2 * kMaxMessageIn) {
    std::string_view input = header;
    try {
      bool is_complete = reader.next(input).has_value();
      input = piece;
      is_complete = is_complete || reader.next(input).has_value();
      CHECK_FALSE(is_complete);
      total += piece.size();
    } catch (const std::runtime_error&) {
      thrown = true;
    }
  }
  CHECK(thrown);
  CHECK(total == kMaxMessageIn);
}

TEST_CASE("bytes of HTTP as text") {
  CHECK(from_latin1("a\xe9\xff\x80") == "a\xc3\xa9\xc3\xbf\xc2\x80");
  CHECK(to_latin1("a\xc3\xa9\xc3\xbf\xc2\x80") == "a\xe9\xff\x80");
  CHECK_FALSE(to_latin1("\xc4\x80"));
  CHECK_FALSE(to_latin1("\xe2\x82\xac"));
  CHECK_FALSE(to_latin1("\xe9"));
}

TEST_CASE("the size of a text in JSON") {
  for (std::string text : {"", "plain", "\"\\\b\f\n\r\t", "\x01\x1f\x7f", "\xc3\xa9\xe2\x82\xac"})
    CHECK(json_size(text) == Json(text).dump().size());
}

}  // namespace
}  // namespace hutch::agent::rpc
