#include "lib/event.h"

namespace hutch::lib {
namespace {
constexpr size_t kMaxText = 4096;
constexpr size_t kMaxConsole = 64 * 1024;
}  // namespace

std::string plain_text(std::string_view text, size_t limit, bool lines) {
  std::string plain;
  for (char c : text.substr(0, limit)) {
    auto byte = static_cast<unsigned char>(c);
    bool control = byte < 0x20 || byte == 0x7f;
    if (!control || (lines && c == '\n')) {
      plain += c;
    } else if (!lines || c == '\t') {
      plain += ' ';
    }
  }
  return plain;
}

Event::Event(hutch_event_kind event_kind, hutch_task event_task) : hutch_event{} {
  size = sizeof(hutch_event);
  kind = event_kind;
  task = event_task;
  message = remedy = console_tail = "";
}

void Event::set_message(std::string_view text) {
  message_storage_ = plain_text(text, kMaxText, false);
  message = message_storage_.c_str();
}

void Event::set_remedy(std::string_view text) {
  remedy_storage_ = plain_text(text, kMaxText, false);
  remedy = remedy_storage_.c_str();
}

void Event::set_console_tail(std::string_view text) {
  if (text.size() > kMaxConsole) text.remove_prefix(text.size() - kMaxConsole);
  console_storage_ = plain_text(text, kMaxConsole, true);
  console_tail = console_storage_.c_str();
}

void Event::set_data(std::vector<std::byte> bytes) {
  data_storage_ = std::move(bytes);
  data = data_storage_.data();
  data_size = data_storage_.size();
}

void Event::set_counters(const protocol::vmm::Report& report) {
  counter_names_.reserve(report.counters.size());
  for (const protocol::vmm::Counter& counter : report.counters) {
    counter_names_.push_back(plain_text(counter.name, kMaxText, false));
    counter_storage_.push_back({counter_names_.back().c_str(), counter.value});
  }
  counters = counter_storage_.data();
  counter_count = counter_storage_.size();
}

}  // namespace hutch::lib
