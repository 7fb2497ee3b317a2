// Sizes, durations, environments and disks as people write them.
#include "cli/values.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <stdexcept>

using namespace hutch::cli;
using namespace std::chrono_literals;
using Words = std::vector<std::string>;

TEST_CASE("sizes take binary units in every spelling") {
  CHECK(parse_size("768MiB") == 768ull << 20);
  CHECK(parse_size("768M") == 768ull << 20);
  CHECK(parse_size("768mb") == 768ull << 20);
  CHECK(parse_size("2G") == 2ull << 30);
  CHECK(parse_size("1.5GiB") == 3ull << 29);
  CHECK(parse_size("64k") == 65536);
  CHECK(parse_size("1TiB") == 1ull << 40);
  CHECK(parse_size("1048576") == 1048576);
  CHECK(parse_size("12B") == 12);
  CHECK(parse_size("0") == 0);
}

TEST_CASE("what is no size is refused") {
  for (const char* text : {"", "MiB", "-1M", "1.2.3M", "1 M", "12Q", "1e3", "nan", "0x10", "1.5",
                           "99999999999G", "1MiBs", " 1M", "+1M"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_size(text), std::invalid_argument);
  }
}

TEST_CASE("durations take units, also several") {
  CHECK(parse_duration("30s") == 30s);
  CHECK(parse_duration("500ms") == 500ms);
  CHECK(parse_duration("5m") == 5min);
  CHECK(parse_duration("1h30m") == 90min);
  CHECK(parse_duration("1.5s") == 1500ms);
  CHECK(parse_duration("90") == 90s);
}

TEST_CASE("what is no duration is refused") {
  for (const char* text : {"", "0", "0s", "-5s", "5x", "s", "1h30x", "5 s", "1000000000h"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_duration(text), std::invalid_argument);
  }
}

TEST_CASE("a variable with a value stands as it is") {
  CHECK(parse_environment("A=b") == Words{"A=b"});
  CHECK(parse_environment("A=") == Words{"A="});
  CHECK(parse_environment("A=b=c d") == Words{"A=b=c d"});
}

TEST_CASE("a variable without a value takes the one that it has here, or none") {
  ::setenv("HUTCH_TEST_VALUE", "from here", 1);
  CHECK(parse_environment("HUTCH_TEST_VALUE") == Words{"HUTCH_TEST_VALUE=from here"});
  ::unsetenv("HUTCH_TEST_VALUE");
  CHECK(parse_environment("HUTCH_TEST_VALUE").empty());
}

TEST_CASE("a variable needs a name") {
  CHECK_THROWS_AS(parse_environment(""), std::invalid_argument);
  CHECK_THROWS_AS(parse_environment("=x"), std::invalid_argument);
}

TEST_CASE("an environment file has one variable a line, taken as it stands") {
  Words words =
      parse_environment_file("# comment\n\nA=1\r\n  B=\"two words\" # kept\n\t# indented\nC=");
  CHECK(words == Words{"A=1", "B=\"two words\" # kept", "C="});
}

TEST_CASE("a line of an environment file that names no variable is refused with its number") {
  CHECK_THROWS_WITH_AS(parse_environment_file("A=1\n=2\n"),
                       "line 2 does not name a variable; write NAME=value", std::invalid_argument);
  CHECK_THROWS_AS(parse_environment_file("export A=1"), std::invalid_argument);
}

TEST_CASE("disks are writable unless they say otherwise") {
  CHECK(parse_disk("a.img").path == "a.img");
  CHECK_FALSE(parse_disk("a.img").read_only);
  CHECK(parse_disk("a.img:ro").path == "a.img");
  CHECK(parse_disk("a.img:ro").read_only);
  CHECK_FALSE(parse_disk("a.img:rw").read_only);
  CHECK(parse_disk("a:b").path == "a:b");
  CHECK_THROWS_AS(parse_disk(":ro"), std::invalid_argument);
  CHECK_THROWS_AS(parse_disk(""), std::invalid_argument);
}
