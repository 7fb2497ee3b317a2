// What may pass from a guest to the client of one connection. Everything a guest says is hostile:
// the client's tables of calls and streams are shared by all sandboxes that its program talks to,
// and some messages that look harmless end that program.
//
// Passed on are: an answer {jsonrpc, id, result} whose id is of a call under way, result being
// {ok} or {error: E}; and the six notifications, streams among them only with numbers of this
// connection and in their order: start, chunks, one end.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <string_view>

namespace hutch::control {

class GuestMessages {
 public:
  static constexpr size_t kMaxCalls = 4096;
  static constexpr size_t kMaxStreams = 65536;

  enum class Verdict {
    kPass,
    kDrop,
    kLate,    // of a stream that the client has cancelled: dropped as well, and no fault
    kBreach,  // it names what is another connection's: the connection is to end
  };

  // `stream_base`: see new_stream_base().
  explicit GuestMessages(uint64_t stream_base) : base_(stream_base) {}

  // The client has sent a message with these members, raw JSON text, empty when absent. False: too
  // many calls are under way.
  bool note_client(const std::string& id, const std::string& method, const std::string& stream_id);

  // A whole message of the guest.
  Verdict check(std::string_view document);

  // The beginning of a message too long to be held. It can only be an answer that begins
  // {"jsonrpc":"2.0","id":ID,"result":{"ok": in this order and spelling, and whose method names no
  // streams. True: the rest may pass while a JsonScanner finds it well formed; finish_long() then
  // has the last word, before the last part is sent.
  bool check_long(std::string_view start);
  bool finish_long(uint64_t outer_members, uint64_t inner_members);

 private:
  struct Call {
    std::string method;
    int count = 0;
  };
  using Calls = std::map<std::string, Call>;

  Verdict check_answer(const nlohmann::json& message);
  Verdict check_notification(const nlohmann::json& message);
  Verdict check_streams(const std::string& method, const nlohmann::json& ok) const;
  bool is_ours(const nlohmann::json& number) const;
  void end_call(Calls::iterator call);

  uint64_t base_;
  Calls calls_;  // by the id's JSON text
  std::string long_id_;
  std::set<uint64_t> streams_;    // started by the guest and neither ended nor cancelled
  std::set<uint64_t> cancelled_;  // started, cancelled by the client, and not ended by the guest
};

// E of the protocol: {constructorName, message} and optional members, nested at most 16 deep.
bool is_error_object(const nlohmann::json& value, int depth = 0);

}  // namespace hutch::control
