// The library's own side of hutch_event: an event together with all that its fields point to.
#pragma once

#include <hutch.h>

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "protocol/vmm.h"

namespace hutch::lib {

// Takes back the credit of an OUTPUT event when the caller frees it.
class OutputOwner {
 public:
  virtual ~OutputOwner() = default;
  virtual void acknowledge(hutch_task task, int stream, size_t size) = 0;
};

struct Event : hutch_event {
  Event(hutch_event_kind event_kind, hutch_task event_task);
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  // Text for a person: control characters become spaces (or, with `lines`, all but line feeds) and
  // what is beyond `kMaxText` bytes is cut off. The source may be guest-controlled.
  void set_message(std::string_view text);
  void set_remedy(std::string_view text);
  void set_console_tail(std::string_view text);
  void set_data(std::vector<std::byte> bytes);
  void set_counters(const protocol::vmm::Report& report);

  std::weak_ptr<OutputOwner> owner;  // of an OUTPUT's credit

 private:
  std::string message_storage_, remedy_storage_, console_storage_;
  std::vector<std::byte> data_storage_;
  std::vector<std::string> counter_names_;
  std::vector<hutch_counter> counter_storage_;
};

using EventQueue = std::deque<std::unique_ptr<Event>>;

// `text` without control characters and at most `limit` bytes of it; with `lines`, line feeds stay.
std::string plain_text(std::string_view text, size_t limit, bool lines);

}  // namespace hutch::lib
