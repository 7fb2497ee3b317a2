// The protocol's encodings of bytes and dates, and the limits of a JSON document.
#pragma once

#include <time.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace hutch::agent::rpc {

// Standard base64 with padding, appended to `to`.
void append_base64(std::string& to, std::string_view bytes);
std::string to_base64(std::string_view bytes);
// Decodes within `text`, which may be large: standard or URL alphabet, padding may be missing,
// white space is skipped. False when it holds anything else or ends within a byte.
bool decode_base64(std::string& text);

// "2026-11-21T04:31:22.123Z"; what lies outside the years 0 to 9999 is brought to their bounds.
std::string to_iso_date(const timespec& time);
// The form above, with or without a fraction (cut to nanoseconds) and with Z or an offset.
std::optional<timespec> parse_iso_date(std::string_view text);

// Whether a JSON text nests arrays and objects deeper than `limit`.
bool nests_deeper(std::string_view text, size_t limit);
// `text` with every byte that is no part of valid UTF-8 replaced by U+FFFD.
std::string valid_utf8(std::string_view text);
// How many bytes `text`, of valid UTF-8, has as a string of JSON.
size_t json_size(std::string_view text);
// HTTP's headers are bytes, which JavaScript shows as U+0000 to U+00FF. The second has nothing for
// other characters, and for what is no UTF-8.
std::string from_latin1(std::string_view bytes);
std::optional<std::string> to_latin1(std::string_view text);

}  // namespace hutch::agent::rpc
