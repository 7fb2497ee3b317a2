#include "broker/classify.h"

#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <vector>

#include "broker/client_hello.h"
#include "broker/http_head.h"

using namespace hutch::broker;
using Verdict = Classification::Verdict;

namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string number(size_t value, size_t size) {
  std::string text;
  for (size_t i = size; i-- > 0;) text += static_cast<char>(value >> (8 * i));
  return text;
}
std::string vector(const std::string& content, size_t length_size) {
  return number(content.size(), length_size) + content;
}
std::string extension(uint16_t type, const std::string& content) {
  return number(type, 2) + vector(content, 2);
}
std::string server_name(const std::string& name) {
  return extension(0, vector(std::string(1, '\0') + vector(name, 2), 2));
}

// A handshake message with these extensions; none: without the vector.
std::string message(const std::optional<std::string>& extensions) {
  std::string body = number(0x0303, 2) + std::string(32, 'r') + vector(std::string(32, 's'), 1) +
                     vector(number(0x1301, 2), 2) + vector(std::string(1, '\0'), 1);
  if (extensions) body += vector(*extensions, 2);
  return '\x01' + vector(body, 3);
}

// In records of at most `size` bytes.
std::string records(const std::string& handshake, size_t size = 16384) {
  std::string text;
  for (size_t at = 0; at < handshake.size(); at += size)
    text += "\x16\x03\x01" + vector(handshake.substr(at, size), 2);
  return text;
}

std::string hello(const std::string& name) {
  return records(message(extension(0x000a, "xx") + server_name(name) + extension(0xff01, "")));
}

ClientHello::State state(const std::string& text) {
  return read_client_hello(bytes_of(text)).state;
}

Target target(const std::string& name, uint16_t port, bool names_port = true) {
  return {name, port, {"rule", names_port}};
}

Verdict verdict(const Target& of, const std::string& text) {
  return classify(of, bytes_of(text)).verdict;
}

}  // namespace

TEST_CASE("a ClientHello names its host, however it is cut") {
  std::string whole = hello("allowed.test");
  ClientHello read = read_client_hello(bytes_of(whole));
  CHECK(read.state == ClientHello::State::kWhole);
  CHECK(read.server_name == "allowed.test");
  for (size_t size = 0; size < whole.size(); size++) {
    CAPTURE(size);
    CHECK(state(whole.substr(0, size)) == ClientHello::State::kIncomplete);
  }
  // With early data behind it.
  CHECK(read_client_hello(bytes_of(whole + "\x17\x03\x03")).server_name == "allowed.test");
  for (size_t size : std::initializer_list<size_t>{1, 2, 3, 7, 50}) {
    std::string many = records(message(server_name("allowed.test")), size);
    CHECK(read_client_hello(bytes_of(many)).server_name == "allowed.test");
    CHECK(state(many.substr(0, many.size() - 1)) == ClientHello::State::kIncomplete);
  }
}

TEST_CASE("a ClientHello of 20 KiB is read whole, one of more than 64 KiB is not waited for") {
  std::string large = message(extension(51, std::string(20'000, 'k')) + server_name("a.test"));
  CHECK(read_client_hello(bytes_of(records(large))).server_name == "a.test");
  std::string head = std::string("\x16\x03\x01") + number(100, 2) + "\x01" + number(65'536, 3);
  CHECK(state(head + std::string(96, 'x')) == ClientHello::State::kBroken);
}

TEST_CASE("a ClientHello without a name has none") {
  for (const std::string& text : {records(message(std::nullopt)), records(message("")),
                                  records(message(extension(10, "ab")))}) {
    ClientHello read = read_client_hello(bytes_of(text));
    CHECK(read.state == ClientHello::State::kWhole);
    CHECK(read.server_name.empty());
  }
}

TEST_CASE("what two readers could take for different names is broken") {
  std::string name = std::string(1, '\0') + vector("allowed.test", 2);
  std::string other = std::string(1, '\0') + vector("evil.test", 2);
  for (const std::string& extensions :
       {server_name("allowed.test") + server_name("evil.test"),  // the extension twice
        extension(0, vector(name + other, 2)),                   // two names
        extension(0, vector(name, 2) + "x"),                     // more behind the list
        extension(0, vector("", 2)),                             // no name
        extension(0, vector(std::string(1, '\0') + vector("", 2), 2)),
        extension(0, vector('\x01' + vector("allowed.test", 2), 2)),  // another type
        extension(0, ""),
        extension(0, std::string("\0\x10\0\0\x0d"
                                 "a",
                                 6)),
        extension(10, "ab") + extension(10, "ab"),
        server_name("allowed.test") + std::string(1, '\0')}) {
    CAPTURE(extensions);
    CHECK(state(records(message(extensions))) == ClientHello::State::kBroken);
  }
  // Another message in the same record, another message at all, other records.
  std::string good = message(server_name("a.test"));
  CHECK(state(records(good + good)) == ClientHello::State::kBroken);
  // Known as soon as the message is there.
  CHECK(state(records(good + "x").substr(0, good.size() + 5)) == ClientHello::State::kBroken);
  CHECK(state(records('\x02' + good.substr(1))) == ClientHello::State::kBroken);
  CHECK(state("\x15\x03\x01" + vector("xx", 2)) == ClientHello::State::kBroken);
  CHECK(state("\x16\x02\x01" + vector(good, 2)) == ClientHello::State::kBroken);
  CHECK(state(std::string("\x16\x03\x01\0\0", 5)) == ClientHello::State::kBroken);
  CHECK(state("\x16\x03\x01\x40\x01") == ClientHello::State::kBroken);
  CHECK(state("SSH-2.0-x\r\n") == ClientHello::State::kBroken);
  std::string in_between = records(good, 40);
  in_between.insert(45, "\x17\x03\x03" + vector("data", 2));
  CHECK(state(in_between) == ClientHello::State::kBroken);
  // Lengths that lie.
  for (size_t at = 5; at < 60; at++) {
    std::string lying = records(good);
    lying[at] = static_cast<char>(lying[at] + 1);
    ClientHello read = read_client_hello(bytes_of(lying));
    CHECK((read.server_name.empty() || read.server_name == "a.test"));
  }
}

TEST_CASE("TLS passes for the name that the connection was made for") {
  for (const char* name : {"allowed.test", "ALLOWED.Test", "allowed.test."}) {
    CAPTURE(name);
    CHECK(verdict(target("allowed.test", 443), hello(name)) == Verdict::kPass);
    CHECK(verdict(target("allowed.test", 8443, false), hello(name)) == Verdict::kPass);
  }
  for (const std::string& name : {std::string("evil.test"), std::string("allowed.test\0", 13),
                                  std::string("sub.allowed.test"), std::string("93.184.216.34"),
                                  std::string("allowed.test.."), std::string("allowed.test:443"),
                                  std::string(" allowed.test"), std::string("allowed.tes")}) {
    CAPTURE(name);
    CHECK(verdict(target("allowed.test", 443), hello(name)) == Verdict::kRefuse);
  }
  CHECK(verdict(target("allowed.test", 443), records(message(std::nullopt))) == Verdict::kRefuse);
  CHECK(verdict(target("allowed.test", 443), "GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n") ==
        Verdict::kRefuse);
  CHECK(verdict(target("allowed.test", 443), "SSH-2.0-OpenSSH\r\n") == Verdict::kRefuse);
  CHECK(verdict(target("allowed.test", 443), "") == Verdict::kNeedMore);
  CHECK(verdict(target("allowed.test", 443), "\x16") == Verdict::kNeedMore);
}

TEST_CASE("HTTP passes for the host that the connection was made for") {
  Target web = target("allowed.test", 80), other = target("allowed.test", 8080, false);
  for (const char* text :
       {"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
        "GET / HTTP/1.0\r\nhost:ALLOWED.test\r\n\r\n",
        "GET /a?b=c HTTP/1.1\r\nA: b\r\nHost: \t allowed.test:80 \r\nX: \xc3\xa9 y\tz\r\n\r\nbody",
        "OPTIONS * HTTP/1.1\r\nHost: allowed.test.\r\n\r\n",
        "GET http://allowed.test/x HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
        "M-SEARCH / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"}) {
    CAPTURE(text);
    CHECK(verdict(web, text) == Verdict::kPass);
  }
  CHECK(verdict(other, "GET / HTTP/1.1\r\nHost: allowed.test:8080\r\n\r\n") == Verdict::kPass);
  CHECK(verdict(other, "GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n") == Verdict::kRefuse);
  std::string whole = "GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n";
  for (size_t size = 0; size < whole.size(); size++)
    CHECK(verdict(web, whole.substr(0, size)) == Verdict::kNeedMore);
}

TEST_CASE("requests that servers read differently are refused") {
  Target web = target("allowed.test", 80);
  for (const std::string& text :
       {std::string("GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\n\r\n"),
        std::string("\r\nGET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: allowed.test\r\nHost: evil.test\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: allowed.test\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: a@allowed.test\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: allowed.test:8080\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: allowed.test:080\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: allowed.test:\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: allowed.test\0\r\n\r\n", 40),
        std::string("GET / HTTP/1.1\r\nHost: allowed.test, evil.test\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: allowed.test evil.test\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost : allowed.test\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: allowed.test\r\n folded\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\n Host: allowed.test\r\n\r\n"),
        std::string("GET / HTTP/1.1\nHost: allowed.test\n\n"),
        std::string("GET / HTTP/1.1\r\nA: b\nHost: evil.test\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nA: b\rHost: evil.test\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nno colon\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET http://evil.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET http://allowed.test@evil.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET https://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET evil.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET  / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET / x HTTP/1.1\r\nHost: allowed.test\r\n\r\n"),
        std::string("get / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET /\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET / HTTP/2.0\r\nHost: allowed.test\r\n\r\n"),
        std::string("GET / HTTP/0.9\r\nHost: allowed.test\r\n\r\n"),
        std::string("CONNECT allowed.test:80 HTTP/1.1\r\nHost: allowed.test\r\n\r\n"),
        std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        hello("allowed.test"),
        std::string("GET / HTTP/1.1\r\nHost: allowed.test\r\nX: \x01\r\n\r\n")}) {
    CAPTURE(text);
    CHECK(verdict(web, text) == Verdict::kRefuse);
  }
  CHECK(verdict(web, "GET / HTTP/1.1\r\nX: " + std::string(kMaxHttpHead, 'x')) == Verdict::kRefuse);
}

TEST_CASE("on a port that no rule names only TLS and HTTP are spoken, elsewhere what one likes") {
  CHECK_FALSE(needs_classification(target("git.test", 22)));
  CHECK_FALSE(needs_classification(target("", 443)));
  CHECK_FALSE(needs_classification(target("", 80, false)));
  for (uint16_t port : {uint16_t{80}, uint16_t{443}}) {
    CHECK(needs_classification(target("a.test", port)));
    CHECK(needs_classification(target("a.test", port, false)));
  }
  CHECK(needs_classification(target("git.test", 22, false)));
  CHECK(verdict(target("git.test", 22), "") == Verdict::kPass);
  CHECK(verdict(target("git.test", 22, false), "SSH-2.0-x\r\n") == Verdict::kRefuse);
  CHECK(verdict(target("git.test", 22, false), "\x05\x01") == Verdict::kRefuse);
  CHECK(verdict(target("git.test", 22, false), "") == Verdict::kNeedMore);
}
