// Reads one JSON document (RFC 8259) as it arrives, without keeping it: says whether it is well
// formed, UTF-8 included, and keeps the few short values that a relay has to know.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hutch::control {

class JsonScanner {
 public:
  // Deeper documents are refused: the client's own parser would be at risk.
  static constexpr size_t kMaxDepth = 256;
  // Longer keys and values are not kept.
  static constexpr size_t kMaxKept = 256;

  // False when the document is wrong; further calls change nothing. `bytes` may be hostile.
  bool feed(std::string_view bytes);
  // The document is well formed and complete.
  bool is_complete() const;
  bool is_wrong() const { return state_ == State::kWrong; }

  // The raw text of members of the outermost object, strings with their quotes; empty when absent,
  // longer than kMaxKept, or an object or array.
  const std::string& id() const { return id_; }
  const std::string& method() const { return method_; }
  // The member `streamId` of the outermost `params`.
  const std::string& stream_id() const { return stream_id_; }
  // How many members the outermost object has had, and how many the objects directly inside it.
  uint64_t outer_members() const { return outer_members_; }
  uint64_t inner_members() const { return inner_members_; }

 private:
  enum class State : uint8_t {
    kValue,         // a value must follow
    kFirstElement,  // a value or ]
    kFirstKey,      // a key or }
    kKey,           // a key
    kColon,
    kAfterValue,  // , or the end of the container
    kString,
    kEscape,
    kUnicode,
    kLiteral,
    kNumber,
    kWrong,
  };
  // What a number has had so far.
  enum class Number : uint8_t { kMinus, kZero, kInteger, kPoint, kFraction, kE, kSign, kExponent };

  void step(unsigned char c);
  void begin_value(unsigned char c);
  void begin_string(bool is_key);
  void end_string();
  void string_byte(unsigned char c);
  void number_byte(unsigned char c);
  bool number_may_end() const;
  void end_value();
  void keep(unsigned char c);
  void pick_target();

  State state_ = State::kValue;
  Number number_ = Number::kMinus;
  std::vector<bool> objects_;  // the containers that are open: object or array
  bool document_ended_ = false;
  bool is_key_ = false;
  uint8_t utf8_left_ = 0, utf8_low_ = 0x80, utf8_high_ = 0xbf;
  uint8_t unicode_left_ = 0;
  std::string_view literal_;  // what must follow
  std::string kept_;
  bool keeps_ = false;
  bool kept_too_long_ = false;
  std::string* target_ = nullptr;
  bool in_params_ = false;  // the object at depth 2 is `params`
  bool key_is_params_ = false;
  std::string id_, method_, stream_id_;
  uint64_t outer_members_ = 0, inner_members_ = 0;
};

}  // namespace hutch::control
