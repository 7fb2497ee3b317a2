#include "control/json_scanner.h"

namespace hutch::control {
namespace {

bool is_space(unsigned char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

bool is_digit(unsigned char c) {
  return c >= '0' && c <= '9';
}

bool is_hex(unsigned char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

}  // namespace

bool JsonScanner::feed(std::string_view bytes) {
  for (size_t i = 0; i < bytes.size() && state_ != State::kWrong; i++) {
    // The inside of long strings (file contents) is nearly all there is to read.
    if (state_ == State::kString && utf8_left_ == 0 && !keeps_)
      while (i < bytes.size()) {
        auto c = static_cast<unsigned char>(bytes[i]);
        if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\') break;
        i++;
      }
    if (i < bytes.size()) step(static_cast<unsigned char>(bytes[i]));
  }
  return state_ != State::kWrong;
}

bool JsonScanner::is_complete() const {
  if (document_ended_) return state_ != State::kWrong;
  return state_ == State::kNumber && objects_.empty() && number_may_end();
}

void JsonScanner::keep(unsigned char c) {
  if (!keeps_) return;
  if (kept_.size() >= kMaxKept) {
    keeps_ = false;
    kept_too_long_ = true;
    return;
  }
  kept_ += static_cast<char>(c);
}

void JsonScanner::step(unsigned char c) {
  switch (state_) {
    case State::kString:
    case State::kEscape:
    case State::kUnicode:
      string_byte(c);
      return;
    case State::kLiteral:
      if (c != static_cast<unsigned char>(literal_.front())) {
        state_ = State::kWrong;
        return;
      }
      keep(c);
      literal_.remove_prefix(1);
      if (literal_.empty()) end_value();
      return;
    case State::kNumber:
      number_byte(c);
      return;
    default:
      break;
  }
  if (is_space(c)) return;
  if (document_ended_) {
    state_ = State::kWrong;
    return;
  }
  switch (state_) {
    case State::kFirstElement:
      if (c == ']') {
        objects_.pop_back();
        end_value();
        return;
      }
      begin_value(c);
      return;
    case State::kValue:
      begin_value(c);
      return;
    case State::kFirstKey:
      if (c == '}') {
        objects_.pop_back();
        end_value();
        return;
      }
      [[fallthrough]];
    case State::kKey:
      if (c != '"') break;
      begin_string(true);
      return;
    case State::kColon:
      if (c != ':') break;
      state_ = State::kValue;
      return;
    case State::kAfterValue:
      if (c == ',') {
        state_ = objects_.back() ? State::kKey : State::kValue;
        target_ = nullptr;
        key_is_params_ = false;
        return;
      }
      if (c == (objects_.back() ? '}' : ']')) {
        objects_.pop_back();
        end_value();
        return;
      }
      break;
    default:
      break;
  }
  state_ = State::kWrong;
}

void JsonScanner::begin_value(unsigned char c) {
  kept_.clear();
  kept_too_long_ = false;
  keeps_ = target_ != nullptr;
  if (c == '{' || c == '[') {
    if (objects_.size() >= kMaxDepth) {
      state_ = State::kWrong;
      return;
    }
    // A later member of the same name counts, as in the client's parser.
    if (target_ != nullptr) target_->clear();
    target_ = nullptr;
    if (objects_.size() == 1 && objects_.back() && key_is_params_) {
      in_params_ = c == '{';
      stream_id_.clear();
    }
    key_is_params_ = false;
    keeps_ = false;
    objects_.push_back(c == '{');
    state_ = c == '{' ? State::kFirstKey : State::kFirstElement;
    return;
  }
  if (c == '"') {
    begin_string(false);
    return;
  }
  keep(c);
  if (c == 't' || c == 'f' || c == 'n') {
    state_ = State::kLiteral;
    literal_ = c == 't' ? "rue" : c == 'f' ? "alse" : "ull";
  } else if (c == '-' || is_digit(c)) {
    state_ = State::kNumber;
    number_ = c == '-' ? Number::kMinus : c == '0' ? Number::kZero : Number::kInteger;
  } else {
    state_ = State::kWrong;
  }
}

void JsonScanner::begin_string(bool is_key) {
  is_key_ = is_key;
  if (is_key) {
    if (objects_.size() == 1) outer_members_++;
    if (objects_.size() == 2) inner_members_++;
    kept_.clear();
    kept_too_long_ = false;
    // Keys further inside are nobody's business.
    keeps_ = objects_.size() == 1 || (objects_.size() == 2 && in_params_);
  } else {
    keep('"');
  }
  utf8_left_ = 0;
  state_ = State::kString;
}

void JsonScanner::string_byte(unsigned char c) {
  if (state_ == State::kEscape) {
    keep(c);
    if (c == 'u') {
      state_ = State::kUnicode;
      unicode_left_ = 4;
    } else {
      bool known =
          std::string_view("\"\\/bfnrt").find(static_cast<char>(c)) != std::string_view::npos;
      state_ = known ? State::kString : State::kWrong;
    }
    return;
  }
  if (state_ == State::kUnicode) {
    keep(c);
    if (!is_hex(c)) {
      state_ = State::kWrong;
    } else if (--unicode_left_ == 0) {
      state_ = State::kString;
    }
    return;
  }
  if (utf8_left_ > 0) {
    if (c < utf8_low_ || c > utf8_high_) {
      state_ = State::kWrong;
      return;
    }
    utf8_low_ = 0x80;
    utf8_high_ = 0xbf;
    utf8_left_--;
    keep(c);
    return;
  }
  if (c == '"') {
    end_string();
  } else if (c == '\\') {
    keep(c);
    state_ = State::kEscape;
  } else if (c < 0x20) {
    state_ = State::kWrong;
  } else {
    keep(c);
    if (c < 0x80) return;
    // RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
    utf8_low_ = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    utf8_high_ = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (c >= 0xc2 && c <= 0xdf) {
      utf8_left_ = 1;
    } else if (c >= 0xe0 && c <= 0xef) {
      utf8_left_ = 2;
    } else if (c >= 0xf0 && c <= 0xf4) {
      utf8_left_ = 3;
    } else {
      state_ = State::kWrong;
    }
  }
}

void JsonScanner::end_string() {
  if (!is_key_) {
    keep('"');
    end_value();
    return;
  }
  state_ = State::kColon;
  pick_target();
  keeps_ = false;
}

void JsonScanner::pick_target() {
  target_ = nullptr;
  key_is_params_ = false;
  if (kept_too_long_) return;
  // A key may be spelled with escapes, "\u0069d": the one who parses it for good would see `id`
  // where we do not. No client and no agent of ours writes such keys.
  if (keeps_ && kept_.find('\\') != std::string::npos) {
    state_ = State::kWrong;
    return;
  }
  if (objects_.size() == 1) {
    if (kept_ == "id") target_ = &id_;
    if (kept_ == "method") target_ = &method_;
    if (kept_ == "params") {
      key_is_params_ = true;
      in_params_ = false;
      stream_id_.clear();
    }
  } else if (objects_.size() == 2 && in_params_ && keeps_) {
    if (kept_ == "streamId") target_ = &stream_id_;
  }
}

bool JsonScanner::number_may_end() const {
  return number_ == Number::kZero || number_ == Number::kInteger || number_ == Number::kFraction ||
         number_ == Number::kExponent;
}

void JsonScanner::number_byte(unsigned char c) {
  bool ok = false;
  if (is_digit(c)) {
    switch (number_) {
      case Number::kMinus:
        number_ = c == '0' ? Number::kZero : Number::kInteger;
        ok = true;
        break;
      case Number::kZero:
        break;
      case Number::kInteger:
      case Number::kFraction:
      case Number::kExponent:
        ok = true;
        break;
      case Number::kPoint:
        number_ = Number::kFraction;
        ok = true;
        break;
      case Number::kE:
      case Number::kSign:
        number_ = Number::kExponent;
        ok = true;
        break;
    }
  } else if (c == '.') {
    ok = number_ == Number::kZero || number_ == Number::kInteger;
    number_ = Number::kPoint;
  } else if (c == 'e' || c == 'E') {
    ok = number_ == Number::kZero || number_ == Number::kInteger || number_ == Number::kFraction;
    number_ = Number::kE;
  } else if (c == '+' || c == '-') {
    ok = number_ == Number::kE;
    number_ = Number::kSign;
  } else if (number_may_end()) {
    end_value();
    step(c);
    return;
  }
  if (!ok) {
    state_ = State::kWrong;
    return;
  }
  keep(c);
}

void JsonScanner::end_value() {
  if (target_ != nullptr) {
    if (kept_too_long_) {
      target_->clear();
    } else {
      *target_ = kept_;
    }
    target_ = nullptr;
  }
  keeps_ = false;
  key_is_params_ = false;
  if (objects_.size() == 1) in_params_ = false;
  state_ = State::kAfterValue;
  if (objects_.empty()) document_ended_ = true;
}

}  // namespace hutch::control
