// The server's state that outlives it: organisations, tokens and what sandboxes there were. One
// SQLite database; several processes may use it at a time (`hutch token` beside `hutch serve`).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "control/sandbox_config.h"

struct sqlite3;

namespace hutch::control {

using TokenHash = std::array<unsigned char, 32>;

struct StoredToken {
  int64_t id = 0;
  TokenHash hash{};
  bool personal = false;
  std::string name;
  std::vector<std::string> organisations;  // slugs; an organisation's token has one
  int64_t created_ms = 0;
  std::optional<int64_t> expires_ms;
  std::optional<int64_t> revoked_ms;
};

struct StoredSandbox {
  std::string id;
  std::string organisation;  // slug
  std::string region;
  int64_t created_ms = 0;
  std::optional<int64_t> stopped_ms;
  Labels labels;
};

class Store {
 public:
  // Opens or makes the database; `path` may be ":memory:". Throws std::runtime_error with the cause
  // and what mends it.
  explicit Store(const std::string& path);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // Throws when the database does not answer.
  void check() const;
  // Makes organisations that are missing.
  int64_t add_token(const TokenHash& hash, bool personal, const std::string& name,
                    const std::vector<std::string>& organisations, int64_t created_ms,
                    std::optional<int64_t> expires_ms);
  std::optional<StoredToken> find_token(const TokenHash& hash) const;
  std::vector<StoredToken> tokens() const;
  // False: there is none, or it is revoked already.
  bool revoke_token(int64_t id, int64_t now_ms);

  void add_sandbox(const StoredSandbox& sandbox);
  void stop_sandbox(const std::string& id, int64_t now_ms);
  // Those that a server which is gone has left running.
  void stop_all_sandboxes(int64_t now_ms);
  std::optional<StoredSandbox> find_sandbox(const std::string& id) const;
  // Of an organisation, the newest first, at most 1000.
  std::vector<StoredSandbox> sandboxes(const std::string& organisation) const;

 private:
  class Statement;
  void execute(const char* sql);
  int64_t organisation_id(const std::string& slug);
  StoredToken read_token(Statement& row) const;

  sqlite3* database_ = nullptr;
};

// A slug: 2 to 32 of a-z, 0-9 and -, no - at either end.
bool is_slug(std::string_view text);

}  // namespace hutch::control
