#include "control/store.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace hutch::control {
namespace {

constexpr int kBusyMs = 5000;
constexpr int64_t kSchemaVersion = 1;
constexpr int kMaxListed = 1000;

// A rollback journal, not a write-ahead log: the log's shared memory does not work over every file
// system that the emulated machine sees.
constexpr const char* kSettings =
    "PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;";
constexpr const char* kSchema = R"sql(
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS organisations (
  id INTEGER PRIMARY KEY,
  slug TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE IF NOT EXISTS tokens (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  hash BLOB NOT NULL UNIQUE,
  personal INTEGER NOT NULL,
  name TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  expires_ms INTEGER,
  revoked_ms INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS token_organisations (
  token INTEGER NOT NULL REFERENCES tokens (id),
  organisation INTEGER NOT NULL REFERENCES organisations (id),
  PRIMARY KEY (token, organisation)
) STRICT;
CREATE TABLE IF NOT EXISTS sandboxes (
  id TEXT PRIMARY KEY,
  organisation INTEGER NOT NULL REFERENCES organisations (id),
  region TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  stopped_ms INTEGER,
  labels TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS sandboxes_by_organisation ON sandboxes (organisation, created_ms);
COMMIT;
)sql";
constexpr const char* kTokenColumns =
    "SELECT t.id, t.hash, t.personal, t.name, t.created_ms, t.expires_ms, t.revoked_ms, "
    "(SELECT group_concat(o.slug, ' ') FROM token_organisations l JOIN organisations o "
    "ON o.id = l.organisation WHERE l.token = t.id) FROM tokens t";
constexpr const char* kSandboxColumns =
    "SELECT s.id, o.slug, s.region, s.created_ms, s.stopped_ms, s.labels FROM sandboxes s JOIN "
    "organisations o ON o.id = s.organisation";

[[noreturn]] void fail(sqlite3* database, const char* what) {
  throw std::runtime_error(fmt::format("{}: {}", what, sqlite3_errmsg(database)));
}

}  // namespace

// One prepared statement: parameters by position, then rows.
class Store::Statement {
 public:
  Statement(sqlite3* database, const std::string& sql) : database_(database) {
    if (sqlite3_prepare_v2(database, sql.c_str(), -1, &statement_, nullptr) != SQLITE_OK)
      fail(database, "preparing a statement of the database");
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& bind(int64_t value) { return check(sqlite3_bind_int64(statement_, ++bound_, value)); }
  Statement& bind(const std::optional<int64_t>& value) {
    return value ? bind(*value) : check(sqlite3_bind_null(statement_, ++bound_));
  }
  Statement& bind(std::string_view text) {
    return check(sqlite3_bind_text64(statement_, ++bound_, text.data(), text.size(),
                                     SQLITE_TRANSIENT, SQLITE_UTF8));
  }
  Statement& bind(const TokenHash& hash) {
    return check(
        sqlite3_bind_blob64(statement_, ++bound_, hash.data(), hash.size(), SQLITE_TRANSIENT));
  }

  // The next row; false: there is none.
  bool step() {
    int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code != SQLITE_DONE) fail(database_, "using the database");
    return false;
  }
  int64_t number(int column) { return sqlite3_column_int64(statement_, column); }
  std::optional<int64_t> maybe_number(int column) {
    if (sqlite3_column_type(statement_, column) == SQLITE_NULL) return std::nullopt;
    return number(column);
  }
  std::string text(int column) {
    const unsigned char* bytes = sqlite3_column_text(statement_, column);
    if (bytes == nullptr) return "";
    return {reinterpret_cast<const char*>(bytes),
            static_cast<size_t>(sqlite3_column_bytes(statement_, column))};
  }
  TokenHash hash(int column) {
    TokenHash hash{};
    const void* bytes = sqlite3_column_blob(statement_, column);
    if (bytes != nullptr && sqlite3_column_bytes(statement_, column) == int{hash.size()})
      std::memcpy(hash.data(), bytes, hash.size());
    return hash;
  }

 private:
  Statement& check(int code) {
    if (code != SQLITE_OK) fail(database_, "using the database");
    return *this;
  }

  sqlite3* database_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
};

Store::Store(const std::string& path) {
  if (sqlite3_open_v2(path.c_str(), &database_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                      nullptr) != SQLITE_OK) {
    std::string why = sqlite3_errmsg(database_);
    sqlite3_close(database_);
    throw std::runtime_error(
        fmt::format("opening the database {}: {}; check the folder's rights", path, why));
  }
  try {
    sqlite3_busy_timeout(database_, kBusyMs);
    execute(kSettings);
    Statement version(database_, "PRAGMA user_version");
    if (version.step() && version.number(0) > kSchemaVersion)
      throw std::runtime_error(
          fmt::format("{} was written by a newer hutch; use that, or another --data-folder", path));
    execute(kSchema);
    execute(fmt::format("PRAGMA user_version = {}", kSchemaVersion).c_str());
  } catch (...) {
    sqlite3_close_v2(database_);
    throw;
  }
}

Store::~Store() {
  sqlite3_close_v2(database_);
}

void Store::execute(const char* sql) {
  if (sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) != SQLITE_OK)
    fail(database_, "using the database");
}

void Store::check() const {
  Statement(database_, "SELECT count(*) FROM organisations").step();
}

int64_t Store::organisation_id(const std::string& slug) {
  Statement(database_, "INSERT INTO organisations (slug) VALUES (?) ON CONFLICT DO NOTHING")
      .bind(slug)
      .step();
  Statement row(database_, "SELECT id FROM organisations WHERE slug = ?");
  if (!row.bind(slug).step()) fail(database_, "making an organisation");
  return row.number(0);
}

int64_t Store::add_token(const TokenHash& hash, bool personal, const std::string& name,
                         const std::vector<std::string>& organisations, int64_t created_ms,
                         std::optional<int64_t> expires_ms) {
  execute("BEGIN IMMEDIATE");
  try {
    Statement insert(database_,
                     "INSERT INTO tokens (hash, personal, name, created_ms, expires_ms) VALUES (?, "
                     "?, ?, ?, ?)");
    insert.bind(hash).bind(int64_t{personal}).bind(name).bind(created_ms).bind(expires_ms).step();
    int64_t id = sqlite3_last_insert_rowid(database_);
    for (const std::string& slug : organisations) {
      int64_t organisation = organisation_id(slug);
      Statement(database_,
                "INSERT INTO token_organisations (token, organisation) VALUES (?, ?) ON CONFLICT "
                "DO NOTHING")
          .bind(id)
          .bind(organisation)
          .step();
    }
    execute("COMMIT");
    return id;
  } catch (...) {
    sqlite3_exec(database_, "ROLLBACK", nullptr, nullptr, nullptr);
    throw;
  }
}

StoredToken Store::read_token(Statement& row) const {
  StoredToken token{row.number(0), row.hash(1),         row.number(2) != 0, row.text(3), {},
                    row.number(4), row.maybe_number(5), row.maybe_number(6)};
  std::string slugs = row.text(7);
  for (size_t start = 0; start < slugs.size();) {
    size_t end = std::min(slugs.find(' ', start), slugs.size());
    token.organisations.push_back(slugs.substr(start, end - start));
    start = end + 1;
  }
  return token;
}

std::optional<StoredToken> Store::find_token(const TokenHash& hash) const {
  Statement row(database_, std::string(kTokenColumns) + " WHERE t.hash = ?");
  if (!row.bind(hash).step()) return std::nullopt;
  return read_token(row);
}

std::vector<StoredToken> Store::tokens() const {
  std::vector<StoredToken> list;
  Statement row(database_, std::string(kTokenColumns) + " ORDER BY t.id");
  while (row.step()) list.push_back(read_token(row));
  return list;
}

bool Store::revoke_token(int64_t id, int64_t now_ms) {
  Statement(database_, "UPDATE tokens SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL")
      .bind(now_ms)
      .bind(id)
      .step();
  return sqlite3_changes(database_) == 1;
}

void Store::add_sandbox(const StoredSandbox& sandbox) {
  int64_t organisation = organisation_id(sandbox.organisation);
  Statement(database_,
            "INSERT INTO sandboxes (id, organisation, region, created_ms, stopped_ms, labels) "
            "VALUES (?, ?, ?, ?, ?, ?)")
      .bind(sandbox.id)
      .bind(organisation)
      .bind(sandbox.region)
      .bind(sandbox.created_ms)
      .bind(sandbox.stopped_ms)
      .bind(nlohmann::json(sandbox.labels)
                .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))
      .step();
}

void Store::stop_sandbox(const std::string& id, int64_t now_ms) {
  Statement(database_, "UPDATE sandboxes SET stopped_ms = ? WHERE id = ? AND stopped_ms IS NULL")
      .bind(now_ms)
      .bind(id)
      .step();
}

void Store::stop_all_sandboxes(int64_t now_ms) {
  Statement(database_, "UPDATE sandboxes SET stopped_ms = ? WHERE stopped_ms IS NULL")
      .bind(now_ms)
      .step();
}

namespace {

StoredSandbox read_sandbox(auto& row) {
  return {row.text(0),         row.text(1),
          row.text(2),         row.number(3),
          row.maybe_number(4), nlohmann::json::parse(row.text(5)).template get<Labels>()};
}

}  // namespace

std::optional<StoredSandbox> Store::find_sandbox(const std::string& id) const {
  Statement row(database_, std::string(kSandboxColumns) + " WHERE s.id = ?");
  if (!row.bind(id).step()) return std::nullopt;
  return read_sandbox(row);
}

std::vector<StoredSandbox> Store::sandboxes(const std::string& organisation) const {
  std::vector<StoredSandbox> list;
  Statement row(database_, std::string(kSandboxColumns) +
                               " WHERE o.slug = ? ORDER BY s.created_ms DESC, s.id LIMIT ?");
  row.bind(organisation).bind(int64_t{kMaxListed});
  while (row.step()) list.push_back(read_sandbox(row));
  return list;
}

bool is_slug(std::string_view text) {
  return text.size() >= 2 && text.size() <= 32 && text.front() != '-' && text.back() != '-' &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
         });
}

}  // namespace hutch::control
