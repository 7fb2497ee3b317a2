#include "control/guest_messages.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "control/ids.h"

namespace hutch::control {
namespace {

using nlohmann::json;

constexpr int kMaxErrorDepth = 16;
constexpr uint64_t kMaxSafeInteger = (uint64_t{1} << 53) - 1;
constexpr size_t kMaxWatcherId = 128;

const json* member(const json& object, const char* name) {
  auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

bool is_text_or_nothing(const json* value) {
  return value == nullptr || value->is_null() || value->is_string();
}

// Bytes as the client decodes them, at least one.
bool is_chunk(const json* value) {
  if (value == nullptr || !value->is_string()) return false;
  const auto& text = value->get_ref<const std::string&>();
  if (text.empty() || text.size() % 4 != 0) return false;
  size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  return std::all_of(text.begin(), text.end() - static_cast<ptrdiff_t>(padding), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' ||
           c == '/';
  });
}

bool is_error_or_null(const json* value) {
  return value != nullptr && (value->is_null() || is_error_object(*value));
}

// The normal form of an id given as JSON text; nothing when it is neither number nor string.
std::optional<std::string> id_key(const std::string& raw) {
  json id = json::parse(raw, nullptr, false);
  if (!id.is_number() && !id.is_string()) return std::nullopt;
  return id.dump();
}

// The members of an answer that hold stream numbers, by method.
struct StreamMembers {
  std::string_view method;
  std::array<const char*, 2> members;
};
constexpr StreamMembers kStreamMembers[] = {
    {"spawn", {"stdoutStreamId", "stderrStreamId"}},
    {"spawnDeno", {"stdoutStreamId", "stderrStreamId"}},
    {"spawnDenoRepl", {"stdoutStreamId", "stderrStreamId"}},
    {"vscode", {"stdoutStreamId", "stderrStreamId"}},
    {"walk", {"streamId", nullptr}},
    {"expandGlob", {"streamId", nullptr}},
    {"fetch", {"bodyStreamId", nullptr}},
};

const StreamMembers* stream_members(std::string_view method) {
  for (const StreamMembers& row : kStreamMembers)
    if (row.method == method) return &row;
  return nullptr;
}

}  // namespace

bool is_error_object(const json& value, int depth) {
  if (!value.is_object() || depth > kMaxErrorDepth) return false;
  const json* constructor = member(value, "constructorName");
  const json* message = member(value, "message");
  if (constructor == nullptr || !constructor->is_string() || message == nullptr ||
      !message->is_string())
    return false;
  for (const char* name : {"code", "stack", "name"})
    if (!is_text_or_nothing(member(value, name))) return false;
  // The client's decoder cannot set the code of a DOMException, and throws.
  const json* code = member(value, "code");
  if (*constructor == "DOMException" && code != nullptr && !code->is_null()) return false;
  for (const char* name : {"cause", "suppressed", "error"}) {
    const json* inner = member(value, name);
    if (inner != nullptr && !inner->is_null() && !is_error_object(*inner, depth + 1)) return false;
  }
  const json* errors = member(value, "errors");
  if (errors == nullptr || errors->is_null()) return true;
  return errors->is_array() && std::all_of(errors->begin(), errors->end(), [&](const json& inner) {
           return is_error_object(inner, depth + 1);
         });
}

bool GuestMessages::note_client(const std::string& id, const std::string& method,
                                const std::string& stream_id) {
  json name = json::parse(method.empty() ? "null" : method, nullptr, false);
  if (id.empty()) {
    if (name == "$sandbox.stream.cancel" && !stream_id.empty()) {
      json number = json::parse(stream_id, nullptr, false);
      if (number.is_number_unsigned()) streams_.erase(number.get<uint64_t>());
    }
    return true;
  }
  std::optional<std::string> key = id_key(id);
  if (!key || !name.is_string()) return true;  // no call; the guest says what is wrong with it
  Call& call = calls_[*key];
  call.method = name.get<std::string>();
  call.count++;
  return calls_.size() <= kMaxCalls;
}

bool GuestMessages::is_ours(const json& number) const {
  return number.is_number_unsigned() && number.get<uint64_t>() >= base_ &&
         number.get<uint64_t>() - base_ < kStreamsPerConnection;
}

GuestMessages::Verdict GuestMessages::check(std::string_view document) {
  // The parser takes a zero byte for the end of the document, and the client does not.
  if (document.find('\0') != std::string_view::npos) return Verdict::kDrop;
  json message = json::parse(document, nullptr, false);
  if (!message.is_object()) return Verdict::kDrop;
  const json* version = member(message, "jsonrpc");
  if (version == nullptr || *version != "2.0") return Verdict::kDrop;
  return message.contains("method") ? check_notification(message) : check_answer(message);
}

GuestMessages::Verdict GuestMessages::check_answer(const json& message) {
  const json* id = member(message, "id");
  const json* result = member(message, "result");
  if (id == nullptr || result == nullptr || !result->is_object() || message.size() != 3)
    return Verdict::kDrop;
  auto call = calls_.find(id->dump());
  if (call == calls_.end()) return Verdict::kDrop;
  const json* error = member(*result, "error");
  const json* ok = member(*result, "ok");
  if ((error == nullptr) == (ok == nullptr)) return Verdict::kDrop;
  if (error != nullptr && !is_error_object(*error)) return Verdict::kDrop;
  if (ok != nullptr) {
    Verdict verdict = check_streams(call->second.method, *ok);
    if (verdict != Verdict::kPass) return verdict;
  }
  end_call(call);
  return Verdict::kPass;
}

GuestMessages::Verdict GuestMessages::check_streams(const std::string& method,
                                                    const json& ok) const {
  const StreamMembers* row = stream_members(method);
  if (row == nullptr) return Verdict::kPass;
  if (!ok.is_object()) return Verdict::kDrop;
  for (const char* name : row->members) {
    if (name == nullptr) continue;
    const json* number = member(ok, name);
    if (number == nullptr) return Verdict::kDrop;
    if (!number->is_null() && !is_ours(*number)) return Verdict::kBreach;
  }
  return Verdict::kPass;
}

GuestMessages::Verdict GuestMessages::check_notification(const json& message) {
  const json* method = member(message, "method");
  const json* params = member(message, "params");
  if (!method->is_string() || params == nullptr || !params->is_object() || message.size() != 3)
    return Verdict::kDrop;
  if (*method == "$sandbox.deno.watcher.restart") {
    const json* watcher = member(*params, "watcherId");
    bool good = watcher != nullptr && watcher->is_string() &&
                watcher->get_ref<const std::string&>().size() <= kMaxWatcherId;
    return good ? Verdict::kPass : Verdict::kDrop;
  }
  const json* stream = member(*params, "streamId");
  if (stream == nullptr || !stream->is_number_unsigned()) return Verdict::kDrop;
  auto number = stream->get<uint64_t>();
  if (*method == "$sandbox.stream.cancel") {
    // The client's own stream.
    bool good = number <= kMaxSafeInteger && is_error_or_null(member(*params, "reason"));
    return good ? Verdict::kPass : Verdict::kDrop;
  }
  bool starts = *method == "$sandbox.stream.start";
  bool ends = *method == "$sandbox.stream.end" || *method == "$sandbox.stream.error";
  if (!starts && !ends && *method != "$sandbox.stream.enqueue") return Verdict::kDrop;
  if (!is_ours(*stream)) return Verdict::kBreach;
  if (starts) {
    if (streams_.size() >= kMaxStreams) return Verdict::kDrop;
    return streams_.insert(number).second ? Verdict::kPass : Verdict::kDrop;
  }
  if (!streams_.contains(number)) return Verdict::kDrop;
  if (*method == "$sandbox.stream.error" && !is_error_or_null(member(*params, "error")))
    return Verdict::kDrop;
  if (!ends) return is_chunk(member(*params, "data")) ? Verdict::kPass : Verdict::kDrop;
  streams_.erase(number);
  return Verdict::kPass;
}

bool GuestMessages::check_long(std::string_view start) {
  constexpr std::string_view kBegin = R"({"jsonrpc":"2.0","id":)";
  constexpr std::string_view kResult = R"(,"result":{"ok":)";
  if (!start.starts_with(kBegin)) return false;
  start.remove_prefix(kBegin.size());
  size_t end = start.find(kResult);
  if (end == std::string_view::npos || end > 256) return false;
  std::optional<std::string> key = id_key(std::string(start.substr(0, end)));
  if (!key) return false;
  auto call = calls_.find(*key);
  if (call == calls_.end() || stream_members(call->second.method) != nullptr) return false;
  long_id_ = *key;
  return true;
}

bool GuestMessages::finish_long(uint64_t outer_members, uint64_t inner_members) {
  auto call = calls_.find(long_id_);
  if (call == calls_.end() || outer_members != 3 || inner_members != 1) return false;
  end_call(call);
  return true;
}

void GuestMessages::end_call(Calls::iterator call) {
  if (--call->second.count <= 0) calls_.erase(call);
}

}  // namespace hutch::control
