#include "bench/exec.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "artefacts/artefacts.h"
#include "base/sys.h"
#include "bench/interrupt.h"
#include "bench/results.h"

namespace hutch::bench {
namespace {

using nlohmann::json;

constexpr int kWarmUps = 5;
// Echoes of one subject before it is another's turn.
constexpr uint32_t kTurn = 5;
constexpr const char* kHostName = "posix_spawn on this host";

struct Row {
  std::string name;
  std::unique_ptr<Subject> subject;
  std::vector<double> echo_ms;
  std::vector<double> write_mib_s;
  std::vector<double> read_mib_s;
};

double milliseconds(uint64_t ns) {
  return static_cast<double>(ns) / 1e6;
}

// Each subject has its turn, forwards and then backwards, so that a drift of the host strikes all
// alike.
template <typename Action>
void in_turns(std::vector<Row>& rows, const Action& action) {
  throw_if_interrupted();
  for (Row& row : rows) action(row);
  for (size_t i = rows.size(); i-- > 0;) action(rows[i]);
}

void measure_echo(std::vector<Row>& rows, uint32_t count) {
  for (Row& row : rows)
    for (int i = 0; i < kWarmUps; i++) row.subject->echo();
  while (rows.front().echo_ms.size() < count) {
    show_progress(fmt::format("echo: {} of {}", rows.front().echo_ms.size(), count));
    in_turns(rows, [&](Row& row) {
      for (uint32_t i = 0; i < kTurn && row.echo_ms.size() < count; i++)
        row.echo_ms.push_back(milliseconds(row.subject->echo()));
    });
  }
}

void measure_files(std::vector<Row>& rows, uint32_t mib, uint32_t count) {
  uint64_t size = uint64_t{mib} << 20;
  auto rate = [&](uint64_t ns) { return mib / (static_cast<double>(ns) / 1e9); };
  for (Row& row : rows) row.subject->write_file(size);
  while (rows.front().read_mib_s.size() < count) {
    show_progress(fmt::format("file: {} of {}", rows.front().read_mib_s.size(), count));
    in_turns(rows, [&](Row& row) {
      if (row.read_mib_s.size() == count) return;
      row.write_mib_s.push_back(rate(row.subject->write_file(size)));
      row.read_mib_s.push_back(rate(row.subject->read_file(size)));
    });
  }
}

void print_tables(const std::vector<Row>& rows, const ExecOptions& options) {
  const Row& host = rows.front();
  print_place();
  fmt::print("\necho, from the request to its output and exit status, {} times\n", options.count);
  fmt::print("{:28}{:>12}{:>12}   to the first row (95 % interval)\n", "", "p50 ms", "p99 ms");
  for (const Row& row : rows)
    fmt::print("{:28}{:12.3f}{:12.3f}   {}\n", row.name, percentile(row.echo_ms, 0.5),
               percentile(row.echo_ms, 0.99), show(ratio_of_medians(row.echo_ms, host.echo_ms)));
  fmt::print("\na file of {} MiB, median of {}\n", options.file_mib, options.file_count);
  fmt::print("{:28}{:>14}{:>14}\n", "", "write MiB/s", "read MiB/s");
  for (const Row& row : rows)
    fmt::print("{:28}{:14.1f}{:14.1f}\n", row.name, median(row.write_mib_s),
               median(row.read_mib_s));
}

void write_json(const std::vector<Row>& rows, const std::string& path) {
  constexpr const char* kKeys[] = {"host", "agent", "daemon", "client"};
  const Row& host = rows.front();
  json list = json::array();
  for (size_t i = 1; i < rows.size(); i++) {
    list.push_back(result_entry(fmt::format("exec_{}", kKeys[i]), "ms", rows[i].echo_ms,
                                host.echo_ms, kHostName));
    list.push_back(result_entry(fmt::format("file_write_{}", kKeys[i]), "MiB/s",
                                rows[i].write_mib_s, host.write_mib_s, kHostName));
    list.push_back(result_entry(fmt::format("file_read_{}", kKeys[i]), "MiB/s", rows[i].read_mib_s,
                                host.read_mib_s, kHostName));
  }
  write_results(list, path);
}

}  // namespace

std::string file_content(uint64_t size) {
  std::string content(size, '\0');
  for (uint64_t i = 0; i < size / 8; i++) {
    uint64_t number = i * 0x9e3779b97f4a7c15;
    std::memcpy(content.data() + 8 * i, &number, 8);
  }
  return content;
}

void measure_exec(const ExecOptions& options) {
  show_progress("starting three machines");
  // The sandboxes, which are ended first, end before it.
  Server server(options);
  std::vector<Row> rows;
  auto add = [&](const char* name, std::unique_ptr<Subject> subject) {
    rows.push_back({name, std::move(subject), {}, {}, {}});
  };
  add(kHostName, make_host_subject());
  add("agent (libhutch)", make_agent_subject(options));
  add("daemon (JSON-RPC)", make_daemon_subject(server));
  if (!options.sdk.empty()) add("@deno/sandbox (Node)", make_client_subject(options, server));
  measure_echo(rows, options.count);
  measure_files(rows, options.file_mib, options.file_count);
  show_progress("");
  print_tables(rows, options);
  if (options.sdk.empty())
    fmt::print("\nThe npm client is not in it: give --sdk a folder in which it is installed.\n");
  if (!options.json_file.empty()) write_json(rows, options.json_file);
}

}  // namespace hutch::bench
