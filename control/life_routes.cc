// The routes of saved machines: fork, pause, snapshots, templates.
#include <fmt/format.h>

#include "control/clock.h"
#include "control/problem.h"
#include "control/route_call.h"
#include "control/templates.h"

namespace hutch::control {
namespace {

using nlohmann::json;

constexpr int64_t kMostForks = 1000;

// Waits for several sandboxes; the first Problem ends them all and is the answer.
struct Forking {
  std::vector<std::shared_ptr<Sandbox>> forks;
  size_t missing = 0;
  Answer answer;

  void settled(const Problem* problem) {
    if (!answer) return;
    if (problem != nullptr) {
      ApiResponse response = problem_response(*problem);
      for (const std::shared_ptr<Sandbox>& fork : forks) fork->end("not all forks came to be");
      return std::exchange(answer, nullptr)(std::move(response));
    }
    if (--missing > 0) return;
    json ids = json::array();
    for (const std::shared_ptr<Sandbox>& fork : forks) ids.push_back(fork->id());
    std::exchange(answer, nullptr)(json_response({{"ids", ids}}));
  }
};

json parse_body(const Call& call) {
  return call.request.body.empty() ? json::object()
                                   : json::parse(call.request.body, nullptr, false);
}

// {count, stop_at_ms}: so many of what `wanted` says.
void fork_as_asked(const Call& call, SandboxConfig wanted, Answer answer) {
  json body = parse_body(call);
  json count = body.is_object() ? body.value("count", json(1)) : json();
  json stop = body.is_object() && body.contains("stop_at_ms") ? body["stop_at_ms"] : json();
  // Without a deadline a sandbox ends with its creator's connection, of which there is none here.
  if (!count.is_number_integer() || count < 1 || count > kMostForks || !stop.is_number_integer())
    throw Problem(400, "INVALID_BODY",
                  fmt::format(R"(the body wants {{"count": 1 to {}, "stop_at_ms": milliseconds )"
                              R"(since 1970}})",
                              kMostForks));
  wanted.stop_at_ms = stop.get<int64_t>();
  auto forking = std::make_shared<Forking>();
  forking->forks = call.services.sandboxes.fork(call.organisation, wanted, count.get<size_t>());
  forking->missing = forking->forks.size();
  forking->answer = std::move(answer);
  for (const std::shared_ptr<Sandbox>& fork : forking->forks)
    fork->when_ready([forking](const Problem* problem) { forking->settled(problem); });
}

json to_json(const Snapshot& snapshot) {
  json result{{"id", snapshot.id},
              {"name", snapshot.name},
              {"sandbox", snapshot.sandbox_id},
              {"createdAt", iso_time(snapshot.created_ms)},
              {"memory_mb", snapshot.memory >> 20},
              {"cpus", snapshot.cpus},
              {"allow_net", nullptr}};
  if (snapshot.egress) result["allow_net"] = snapshot.egress->patterns();
  if (snapshot.egress && snapshot.egress->allows_all()) result["allow_net"] = "all";
  return result;
}

// The part of the path after /snapshots/.
const std::string& snapshot_name(const Call& call) {
  return call.target.path[3];
}

// Boots a sandbox, which leaves a template behind, and ends it.
void leave_template(const Services& services, const std::string& organisation,
                    const SandboxConfig& wanted, const Shape& shape, const Answer& answer) {
  std::shared_ptr<Sandbox> sandbox = services.sandboxes.create(organisation, wanted);
  sandbox->when_ready(
      [&templates = services.templates, shape, sandbox, answer](const Problem* problem) {
        if (problem != nullptr) return answer(problem_response(*problem));
        templates.when_settled(shape, [sandbox, answer](bool is_there) {
          sandbox->end("its template is made");
          Problem failed(500, "TEMPLATE_FAILED",
                         "the template cannot be kept; the server's log says why");
          answer(is_there ? json_response({{"built", true}}) : problem_response(failed));
        });
      });
}

}  // namespace

void fork_sandbox(const Call& call, Answer answer) {
  SandboxConfig wanted;
  wanted.fork_of = call.id;
  fork_as_asked(call, wanted, std::move(answer));
}

void set_paused(const Call& call, Answer answer) {
  bool paused = call.target.path.back() == "pause";
  call.services.sandboxes.find(call.organisation, call.id)
      ->set_paused(paused, [paused, answer = std::move(answer)](const Problem* problem) {
        answer(problem != nullptr ? problem_response(*problem)
                                  : json_response({{"paused", paused}}));
      });
}

void take_snapshot(const Call& call, Answer answer) {
  json body = parse_body(call);
  json name = body.is_object() ? body.value("name", json("")) : json();
  if (!name.is_string())
    throw Problem(400, "INVALID_BODY", R"(the body wants {"name": text}, or nothing)");
  call.services.sandboxes.take_snapshot(
      call.organisation, call.id, name.get<std::string>(),
      [answer = std::move(answer)](const Snapshot& snapshot, const Problem* problem) {
        answer(problem != nullptr ? problem_response(*problem) : json_response(to_json(snapshot)));
      });
}

void list_snapshots(const Call& call, Answer answer) {
  json list = json::array();
  for (const Snapshot& snapshot : call.services.snapshots.list(call.organisation))
    list.push_back(to_json(snapshot));
  answer(json_response(list));
}

void show_snapshot(const Call& call, Answer answer) {
  answer(
      json_response(to_json(call.services.snapshots.find(call.organisation, snapshot_name(call)))));
}

void delete_snapshot(const Call& call, Answer answer) {
  call.services.snapshots.remove(call.organisation, snapshot_name(call));
  answer(json_response(json::object()));
}

void restore_snapshot(const Call& call, Answer answer) {
  SandboxConfig wanted;
  wanted.snapshot = snapshot_name(call);
  fork_as_asked(call, wanted, std::move(answer));
}

void build_template(const Call& call, Answer answer) {
  const Services& services = call.services;
  json body = parse_body(call);
  json memory =
      body.is_object() ? body.value("memory_mb", json(services.config.memory_default_mb)) : json();
  json network = body.is_object() ? body.value("network", json(false)) : json();
  if (!memory.is_number_integer() || !network.is_boolean())
    throw Problem(400, "INVALID_BODY",
                  R"(the body wants {"memory_mb": whole number, "network": true or false})");
  SandboxConfig wanted;
  wanted.memory_mb = memory.get<int64_t>();
  check_memory(wanted.memory_mb, services.config);
  if (network.get<bool>()) wanted.egress = policy::Policy();
  wanted.stop_at_ms = wall_ms() + services.config.boot_timeout_s * 1000;
  Shape shape{static_cast<uint64_t>(wanted.memory_mb) << 20,
              static_cast<uint32_t>(services.config.cpus), wanted.egress.has_value(),
              services.config.ipv6, call.organisation};
  if (services.config.no_templates)
    throw Problem(409, "TEMPLATES_OFF",
                  "this server makes no templates; start it without no_templates");
  services.templates.when_settled(shape, [services, wanted, shape, organisation = call.organisation,
                                          answer = std::move(answer)](bool is_there) {
    if (is_there) return answer(json_response({{"built", false}}));
    try {
      leave_template(services, organisation, wanted, shape, answer);
    } catch (const Problem& problem) {
      answer(problem_response(problem));
    }
  });
}

}  // namespace hutch::control
