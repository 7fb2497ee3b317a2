#include "cli/timings.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

namespace hutch::cli {
namespace {

using Json = nlohmann::ordered_json;
constexpr uint64_t kPageKib = 4;

// The names under which the VMM counts all the way to the moment of the query are the counts until
// the reply, since that is when they are asked for.
std::string reported_name(const std::string& name) {
  constexpr std::string_view kSoFar = "user_exits";
  if (name == kSoFar || name.starts_with("user_exits/"))
    return "user_exits_until_reply" + name.substr(kSoFar.size());
  return name;
}

// What the parts of a group are told apart by; empty for a counter that usually has none.
std::string parts_name(const std::string& group) {
  if (group.starts_with("user_exits_until_")) return "by_address";
  return group == "kernel_exits" ? "by_reason" : "";
}

std::optional<uint64_t> resident_by_mapping(pid_t process_id) {
  std::ifstream file(fmt::format("/proc/{}/smaps", process_id));
  uint64_t sum = 0, resident = 0;
  bool any = false, anonymous = false;
  // Each mapping is a header line, `Name: value kB` lines and at last its VmFlags. Guest RAM is
  // anonymous memory that is left out of core files, flag `dd`.
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string first, second;
    words >> first >> second;
    if (first == "Rss:") {
      resident = std::stoull(second);
    } else if (first == "VmFlags:") {
      bool guest_memory = anonymous && (line + " ").find(" dd ") != std::string::npos;
      if (!guest_memory) sum += resident;
      any = true;
    } else if (first.find('-') != std::string::npos && !first.ends_with(':')) {
      std::string offset, device, inode, name;
      words >> offset >> device >> inode >> name;
      anonymous = inode == "0" && (name.empty() || name.starts_with("[anon"));
    }
  }
  if (!any) return std::nullopt;
  return sum;
}

}  // namespace

void Timings::set_mark(const hutch_event& event) {
  switch (event.mark) {
    case HUTCH_MARK_FIRST_RUN:
      first_run_ns = event.monotonic_ns;
      break;
    case HUTCH_MARK_KERNEL:
      kernel_ns = event.monotonic_ns;
      break;
    case HUTCH_MARK_INIT:
      init_ns = event.monotonic_ns;
      break;
    case HUTCH_MARK_AGENT:
      agent_ns = event.monotonic_ns;
      break;
    default:
      break;
  }
}

void Timings::set_counters(const hutch_event& event) {
  for (size_t i = 0; i < event.counter_count; i++)
    counters[reported_name(event.counters[i].name)] = event.counters[i].value;
}

std::string Timings::json() const {
  Json marks = Json::object();
  auto mark = [&](const char* name, uint64_t ns) {
    marks[name] = ns >= start_ns && ns != 0 ? Json((ns - start_ns) / 1000) : Json(nullptr);
  };
  mark("first_run", first_run_ns);
  mark("kernel", kernel_ns);
  mark("init", init_ns);
  mark("agent", agent_ns);
  mark("reply", reply_ns);
  mark("gone", gone_ns);

  // "NAME" is a total; "NAME/PART" is one part of it, by address or reason.
  Json counts = Json::object();
  for (const char* name : {"user_exits_until_init", "user_exits_until_reply", "kernel_exits"})
    counts[name] = nullptr;
  for (const char* name : {"pages_touched", "syscalls_until_first_run", "waits_until_first_run"})
    counts[name] = nullptr;
  for (const auto& [name, value] : counters) {
    size_t slash = name.find('/');
    std::string group = name.substr(0, slash);
    std::string parts = parts_name(group);
    if (parts.empty() && slash == std::string::npos) {
      counts[group] = value;
      continue;
    }
    if (parts.empty()) parts = "by_step";
    Json& target = counts[group];
    if (!target.is_object()) target = Json{{"total", nullptr}, {parts, Json::object()}};
    if (slash == std::string::npos || name == "kernel_exits/exits") {
      target["total"] = value;
    } else {
      target[parts][name.substr(slash + 1)] = value;
    }
  }
  // A group whose total was not counted has the sum of its parts.
  for (auto& [name, group] : counts.items()) {
    if (!group.is_object() || !group["total"].is_null()) continue;
    uint64_t sum = 0;
    for (const Json& parts : group)
      if (parts.is_object())
        for (const Json& part : parts) sum += part.get<uint64_t>();
    group["total"] = sum;
  }
  counts["syscalls_until_first_run"] =
      syscalls_until_first_run ? Json(*syscalls_until_first_run) : Json(nullptr);

  Json report{{"path", "boot"},
              {"marks_us", marks},
              {"counts", counts},
              {"vmm_kib", vmm_kib ? Json(*vmm_kib) : Json(nullptr)}};
  return report.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string Timings::text() const {
  std::string result;
  auto line = [&](const char* name, uint64_t ns) {
    if (ns >= start_ns && ns != 0)
      result += fmt::format("hutch: {:<10} {:>10.3f} ms\n", name,
                            static_cast<double>(ns - start_ns) / 1e6);
  };
  line("first run", first_run_ns);
  line("kernel", kernel_ns);
  line("init", init_ns);
  line("agent", agent_ns);
  line("reply", reply_ns);
  line("gone", gone_ns);
  for (const auto& [name, value] : counters)
    if (name.find('/') == std::string::npos)
      result += fmt::format("hutch: {:<32} {:>10}\n", name, value);
  if (vmm_kib)
    result += fmt::format("hutch: {:<32} {:>10} KiB\n", "VMM beyond guest RAM", *vmm_kib);
  return result;
}

std::optional<uint64_t> vmm_resident_kib(pid_t process_id,
                                         const std::map<std::string, uint64_t>& counters) {
  if (std::optional<uint64_t> exact = resident_by_mapping(process_id)) return exact;
  std::ifstream file(fmt::format("/proc/{}/statm", process_id));
  uint64_t all = 0, resident = 0;
  auto touched = counters.find("pages_touched");
  if (!(file >> all >> resident) || touched == counters.end() || resident < touched->second)
    return std::nullopt;
  return (resident - touched->second) * kPageKib;
}

}  // namespace hutch::cli
