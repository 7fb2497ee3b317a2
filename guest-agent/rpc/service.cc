#include "guest-agent/rpc/service.h"

#include "guest-agent/rpc/fetch.h"
#include "guest-agent/rpc/files.h"
#include "guest-agent/rpc/parameters.h"
#include "guest-agent/rpc/stream_writer.h"
#include "guest-agent/rpc/write_file.h"

namespace hutch::agent::rpc {
namespace {
// Work on files at once; one that blocks, such as opening a FIFO, takes a thread for as long.
constexpr size_t kMaxWorkers = 64;
constexpr size_t kMaxWaiters = 256;
// The client must have looked at the answer that names a stream before the stream starts.
constexpr std::chrono::milliseconds kStreamDelay{10};
}  // namespace

Service::Service(Loop& loop, AgentLink& link, Environment environment, std::string socket_name)
    : loop_(loop),
      environment_(std::move(environment)),
      workers_(loop, kMaxWorkers),
      waiters_(loop, kMaxWaiters),
      processes_(link, environment_),
      deno_(loop, processes_, environment_, waiters_, std::move(socket_name)) {
  link.set_on_renew(
      [this](const std::vector<std::string>& variables) { environment_.set_all(variables); });
  add_methods();
  add_environment_methods();
}

Result<void> Service::connect(Fd in, Fd out, uint64_t stream_base, std::function<void()> on_end) {
  auto connection = std::make_shared<Connection>(
      loop_, std::move(in), std::move(out), stream_base,
      [this](const std::string& method, const std::shared_ptr<Call>& call) {
        answer(method, call);
      });
  auto started =
      connection->start([this, weak = std::weak_ptr(connection), on_end = std::move(on_end)] {
        auto ended = weak.lock();
        open_files_.close_all_of(ended.get());
        connections_.erase(ended);
        on_end();
      });
  if (started) connections_.insert(connection);
  return started;
}

void Service::answer(const std::string& method, const std::shared_ptr<Call>& call) {
  if (FileMethod on_files = find_file_method(method)) return answer_from(workers_, call, on_files);
  if (OpenFiles::Method on_open = OpenFiles::find_method(method)) {
    Workers& workers = OpenFiles::may_wait(method) ? waiters_ : workers_;
    return answer_from(workers, call,
                       [this, on_open, owner = std::weak_ptr(call->connection())](Json& params) {
                         auto connection = owner.lock();
                         if (!connection) throw abort_failure();
                         return (open_files_.*on_open)(params, connection.get());
                       });
  }
  auto found = methods_.find(method);
  if (found == methods_.end()) throw type_error("Method not found: " + method);
  found->second(call);
}

void Service::answer_from(Workers& workers, const std::shared_ptr<Call>& call,
                          std::function<std::string(Json& params)> job) {
  struct Outcome {
    std::string json;
    std::optional<Failure> failure;
  };
  auto outcome = std::make_shared<Outcome>();
  // abortId stays with the call; the rest moves to the job, which may run while the call is
  // aborted.
  auto params = std::make_shared<Json>(std::move(call->params));
  call->params = Json::object();
  if (params->contains("abortId")) call->params["abortId"] = (*params)["abortId"];
  workers.run(
      [outcome, params, job = std::move(job)] {
        try {
          outcome->json = job(*params);
        } catch (const Failure& failure) {
          outcome->failure = failure;
        } catch (const std::exception& error) {
          outcome->failure = Failure("Error", error.what());
        }
      },
      [outcome, call] {
        if (outcome->failure) return call->fail(*outcome->failure);
        call->ok_text(outcome->json);
      });
}

void Service::stream_walk(const std::shared_ptr<Call>& call, Walk walk) {
  auto connection = call->connection();
  if (!connection) return;
  auto stream = connection->open_stream();
  auto writer = StreamWriter::create(loop_, stream);
  waiters_.run(
      [writer, walk = std::move(walk)] {
        try {
          // One document a chunk, as the client reads them.
          walk([&](const WalkEntry& entry) { return writer->write(json_text(entry.to_json())); },
               [&] { return writer->is_wanted(); });
          writer->end();
        } catch (const Failure& failure) {
          writer->fail(failure);
        } catch (const std::exception& error) {
          writer->fail({"Error", error.what()});
        }
      },
      [] {});
  call->ok({{"streamId", stream->id()}});
  stream->release_after(kStreamDelay);
}

void Service::add_methods() {
  methods_["walk"] = [this](const auto& call) { stream_walk(call, make_walk(call->params)); };
  methods_["expandGlob"] = [this](const auto& call) {
    stream_walk(call, make_glob_expansion(call->params));
  };
  methods_["abort"] = [](const std::shared_ptr<Call>& call) {
    auto connection = call->connection();
    auto found = call->params.find("abortId");
    // The client tells of signals that come long after the call, too.
    if (connection && found != call->params.end()) {
      Json abort_id = *found;
      call->params.clear();  // or it would abort itself
      connection->abort(abort_id);
    }
    call->ok();
  };
  methods_["writeFile"] = [this](const auto& call) { start_write_file(workers_, call, false); };
  methods_["writeTextFile"] = [this](const auto& call) { start_write_file(workers_, call, true); };
  methods_["spawn"] = [this](const auto& call) { processes_.spawn(call); };
  methods_["processWait"] = [this](const auto& call) { processes_.wait(call); };
  methods_["processKill"] = [this](const auto& call) { processes_.kill(call); };
  methods_["fetch"] = [this](const auto& call) {
    start_fetch(loop_, waiters_, deno_, environment_, call);
  };
  methods_["spawnDeno"] = [this](const auto& call) { deno_.run(call); };
  methods_["denoHttpWait"] = [this](const auto& call) { deno_.wait_for_http(call); };
  methods_["spawnDenoRepl"] = [this](const auto& call) { deno_.start_repl(call); };
  methods_["denoReplClose"] = [this](const auto& call) { deno_.close_repl(call); };
  methods_["denoReplEval"] = [this](const auto& call) { deno_.evaluate(call); };
  methods_["denoReplCall"] = [this](const auto& call) { deno_.call_function(call); };
  for (const char* name : {"exposeHttp", "vscode"}) {
    methods_[name] = [name](const auto&) {
      throw Failure("Error", std::string(name) + " is not supported by this sandbox",
                    "NOT_SUPPORTED");
    };
  }
}

void Service::add_environment_methods() {
  methods_["envGet"] = [this](const std::shared_ptr<Call>& call) {
    auto found = environment_.all().find(text_of(call->params, "key"));
    call->ok(found == environment_.all().end() ? Json(nullptr) : Json(found->second));
  };
  methods_["envSet"] = [this](const std::shared_ptr<Call>& call) {
    environment_.set(text_of(call->params, "key"), text_of(call->params, "value"));
    call->ok();
  };
  methods_["envDelete"] = [this](const std::shared_ptr<Call>& call) {
    environment_.remove(text_of(call->params, "key"));
    call->ok();
  };
  methods_["envToObject"] = [this](const std::shared_ptr<Call>& call) {
    Json variables = Json::object();
    for (const auto& [name, value] : environment_.all()) variables[name] = value;
    call->ok(variables);
  };
}

}  // namespace hutch::agent::rpc
