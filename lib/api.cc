// The C functions of hutch.h: check what is given, translate, and call Vm and AgentConnection.
#include <fcntl.h>
#include <hutch.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "lib/vm.h"
#include "policy/policy.h"

using hutch::Error;
using hutch::fail;
using hutch::Fd;
using hutch::Result;
using hutch::lib::AgentConnection;
using hutch::lib::Event;
using hutch::lib::Poller;
using hutch::lib::SavedFiles;
using hutch::lib::Vm;
using hutch::lib::VmDisk;
using hutch::lib::VmOptions;

struct hutch_error {
  int code;
  Error error;
};

// An agent of a VM has neither poller nor deadline: the VM's serve it.
struct hutch_agent {
  AgentConnection* connection = nullptr;
  std::unique_ptr<Poller> poller;
  std::shared_ptr<AgentConnection> owned;
  uint64_t deadline = 0;
  bool lost = false;
};

struct hutch_vm {
  std::unique_ptr<Vm> vm;
  hutch_agent agent;
};

struct hutch_shell {
  hutch::lib::Shell shell;
};

namespace {

constexpr uint64_t kDefaultTimeout = 60'000'000'000;
constexpr uint64_t kDefaultLogLimit = uint64_t{64} << 20;
constexpr uint32_t kAgentTag = 1;

int code_of(const Error& error) {
  switch (error.number) {
    case 0:
      return HUTCH_STATE;
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return HUTCH_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
      return HUTCH_PERMISSION;
    default:
      return HUTCH_HOST;
  }
}

int give(hutch_error** target, int code, Error error) {
  if (target != nullptr) *target = new hutch_error{code, std::move(error)};
  return code;
}

int give(hutch_error** target, Error error) {
  int code = code_of(error);
  return give(target, code, std::move(error));
}

int invalid(hutch_error** target, std::string message, std::string remedy = {}) {
  return give(target, HUTCH_INVALID, Error{std::move(message), std::move(remedy)});
}

std::string text(const char* value) {
  return value != nullptr ? value : "";
}

// Copies a caller's option structure of whatever version: shorter ones are filled with zeros, of
// longer ones the unknown part must be zero. False: its size or that part makes no sense.
template <typename T>
bool read_options(const T* given, T* options) {
  *options = T{};
  if (given == nullptr || given->size < sizeof(size_t) || given->size > 65536) return false;
  std::memcpy(options, given, std::min(given->size, sizeof(T)));
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (size_t i = sizeof(T); i < given->size; i++)
    if (bytes[i] != 0) return false;
  return true;
}

constexpr const char* kBadOptions =
    "the options are NULL, have no size set, or use what this version does not know";

Result<Fd> duplicate(int fd) {
  Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy) return hutch::fail_errno(errno, fmt::format("duplicating descriptor {}", fd));
  return copy;
}

std::string kvm_path(const char* given) {
  return given != nullptr ? given : "/dev/kvm";
}

int read_disk(const hutch_disk* given, VmDisk* disk, hutch_error** error) {
  hutch_disk options;
  if (!read_options(given, &options)) return invalid(error, kBadOptions);
  if (options.path == nullptr && options.fd <= 0)
    return invalid(error, "a disk needs a path or a descriptor");
  disk->path = text(options.path);
  disk->read_only = options.read_only != 0;
  disk->layered = options.layered != 0;
  if (disk->layered && disk->read_only)
    return invalid(error, "a disk with layers of its own is one that the guest writes to");
  disk->id = text(options.id);
  if (disk->id.size() > 20) return invalid(error, "a disk's id has at most 20 bytes");
  if (options.layers == nullptr && options.layer_count != 0)
    return invalid(error, "layer_count without layers");
  if (!disk->layered && options.layer_count != 0)
    return invalid(error, "layers of a disk that is not layered");
  if (options.layer_count > hutch::protocol::vmm::kMaxLayers)
    return invalid(error, fmt::format("{} frozen layers; at most {} are possible",
                                      options.layer_count, hutch::protocol::vmm::kMaxLayers));
  for (size_t i = 0; i < options.layer_count; i++) {
    Result<Fd> copy = duplicate(options.layers[i]);
    if (!copy) return give(error, copy.error());
    disk->layers.push_back(std::move(*copy));
  }
  if (options.fd > 0) {
    Result<Fd> copy = duplicate(options.fd);
    if (!copy) return give(error, copy.error());
    disk->file = std::move(*copy);
  }
  return HUTCH_OK;
}

int read_list(const char* const* list, size_t count, std::vector<std::string>* out,
              hutch_error** error) {
  if (list == nullptr && count != 0) return invalid(error, "a count without its list");
  for (size_t i = 0; i < count; i++) out->push_back(text(list[i]));
  return HUTCH_OK;
}

int read_policy(int allow_all, const char* const* hosts, size_t host_count,
                hutch::protocol::broker::Policy* out, hutch_error** error) {
  int code = read_list(hosts, host_count, &out->patterns, error);
  if (code != HUTCH_OK) return code;
  out->allows_all = allow_all != 0;
  if (out->allows_all && !out->patterns.empty()) return invalid(error, "hosts beside allow_all");
  auto policy = hutch::policy::Policy::parse(out->patterns);
  if (!policy) return give(error, HUTCH_INVALID, policy.error());
  return HUTCH_OK;
}

int read_network(const hutch_network* given, hutch::lib::NetworkOptions* out, hutch_error** error) {
  hutch_network options;
  if (!read_options(given, &options)) return invalid(error, kBadOptions);
  int code = read_policy(options.allow_all, options.hosts, options.host_count, &out->policy, error);
  if (code == HUTCH_OK)
    code = read_list(options.opened_blocks, options.opened_block_count, &out->opened, error);
  if (code == HUTCH_OK)
    code = read_list(options.dns_servers, options.dns_server_count, &out->servers, error);
  if (code != HUTCH_OK) return code;
  out->ipv6 = options.ipv6 != 0;
  out->broker_path = text(options.broker_path);
  out->log_limit = options.decision_log_limit != 0 ? options.decision_log_limit : kDefaultLogLimit;
  if (options.decision_log_fd > 0) {
    Result<Fd> copy = duplicate(options.decision_log_fd);
    if (!copy) return give(error, copy.error());
    out->log = std::move(*copy);
  }
  return HUTCH_OK;
}

int read_saved(const hutch_saved_machine* given, SavedFiles* out, hutch_error** error) {
  hutch_saved_machine saved;
  if (!read_options(given, &saved)) return invalid(error, kBadOptions);
  auto take = [&](int fd, const char* path, Fd* file, std::string* name) {
    if (fd <= 0 && path == nullptr)
      return invalid(error, "a saved machine without its memory or state");
    *name = text(path);
    if (fd <= 0) return static_cast<int>(HUTCH_OK);
    Result<Fd> copy = duplicate(fd);
    if (!copy) return give(error, copy.error());
    *file = std::move(*copy);
    return static_cast<int>(HUTCH_OK);
  };
  int code = take(saved.memory_fd, saved.memory_path, &out->memory, &out->memory_path);
  if (code == HUTCH_OK)
    code = take(saved.state_fd, saved.state_path, &out->state, &out->state_path);
  if (code == HUTCH_OK && saved.pages_fd > 0) {
    Result<Fd> copy = duplicate(saved.pages_fd);
    if (!copy) return give(error, copy.error());
    out->pages = std::move(*copy);
  }
  std::memcpy(out->key.data(), saved.key, out->key.size());
  out->adopt_service = saved.adopt_service != 0;
  for (const char* const* word = saved.service_environment; word != nullptr && *word != nullptr;
       word++)
    out->service_environment.emplace_back(*word);
  return code;
}

int read_vm_options(const hutch_vm_options* given, VmOptions* out, hutch_error** error) {
  namespace vmm = hutch::protocol::vmm;
  hutch_vm_options options;
  if (!read_options(given, &options)) return invalid(error, kBadOptions);
  if (std::unique_ptr<hutch_shell> shell(options.shell); shell)
    out->shell.emplace(std::move(shell->shell));
  if (options.kernel == nullptr && options.restore == nullptr)
    return invalid(error, "a machine needs a kernel");
  out->cpus = options.cpus != 0 ? options.cpus : out->cpus;
  out->memory = options.memory != 0 ? options.memory : out->memory;
  out->kernel = text(options.kernel);
  out->initramfs = text(options.initramfs);
  out->command_line = text(options.command_line);
  out->pit = options.pit != 0;
  out->entropy_device = options.entropy_device != 0;
  out->scratch_directory =
      options.scratch_directory != nullptr ? options.scratch_directory : "/var/tmp";
  out->agent = options.no_agent == 0;
  out->agent_timeout_ns = options.agent_timeout_ms != 0
                              ? uint64_t{options.agent_timeout_ms} * 1'000'000
                              : kDefaultTimeout;
  out->host_name = text(options.host_name);
  out->console_output = options.console_output_fd > 0 ? options.console_output_fd : -1;
  out->console_input = options.console_input_fd > 0 ? options.console_input_fd : -1;
  out->log = options.log_fd > 0 ? options.log_fd : -1;
  out->vmm_path = text(options.vmm_path);
  out->kvm_path = kvm_path(options.kvm_path);
  out->end_with_thread = options.end_with_thread != 0;

  if (out->cpus > vmm::kMaxCpus)
    return invalid(error,
                   fmt::format("{} CPUs; at most {} are possible", out->cpus, vmm::kMaxCpus));
  if (out->memory < vmm::kMinMemory || out->memory > vmm::kMaxMemory ||
      out->memory % (1 << 20) != 0)
    return invalid(error,
                   fmt::format("{} bytes of memory; {} MiB to {} GiB in whole MiB are possible",
                               out->memory, vmm::kMinMemory >> 20, vmm::kMaxMemory >> 30));
  if (out->command_line.size() > vmm::kMaxCommandLine)
    return invalid(error,
                   fmt::format("the kernel command line is over {} bytes", vmm::kMaxCommandLine));
  if (out->host_name.size() > 64) return invalid(error, "the host name is over 64 bytes");
  if (options.description < 0 || options.description > HUTCH_DESCRIBE_MP_TABLE)
    return invalid(error, "an unknown machine description");
  out->description = static_cast<vmm::Description>(options.description);
  if (options.disk_count > vmm::kMaxDisks)
    return invalid(error, fmt::format("{} disks; at most {} are possible", options.disk_count,
                                      vmm::kMaxDisks));
  if (options.disks == nullptr && options.disk_count != 0)
    return invalid(error, "disk_count without disks");
  for (size_t i = 0; i < options.disk_count; i++) {
    VmDisk disk;
    int code = read_disk(options.disks[i], &disk, error);
    if (code != HUTCH_OK) return code;
    out->disks.push_back(std::move(disk));
  }
  if (options.restore != nullptr) {
    int code = read_saved(options.restore, &out->restore.emplace(), error);
    if (code != HUTCH_OK) return code;
  }
  if (options.network == nullptr) return HUTCH_OK;
  return read_network(options.network, &out->network.emplace(), error);
}

// After a request to the agent: sends it, and stores the task.
int finish_request(hutch_agent* agent, Result<hutch_task> result, hutch_task* task,
                   hutch_error** error) {
  if (!result) return give(error, result.error());
  *task = *result;
  agent->connection->flush();
  return HUTCH_OK;
}

int finish_request(hutch_agent* agent, Result<void> result, hutch_error** error) {
  if (!result) return give(error, result.error());
  agent->connection->flush();
  return HUTCH_OK;
}

int need_agent(hutch_agent* agent, hutch_error** error) {
  if (agent == nullptr) return invalid(error, "the agent is NULL");
  if (!agent->connection->is_open())
    return give(error, HUTCH_STATE, Error{"the connection to the agent has ended", ""});
  return HUTCH_OK;
}

}  // namespace

extern "C" {

uint32_t hutch_api_version(void) {
  return HUTCH_API_VERSION;
}

const char* hutch_version(void) {
  return HUTCH_VERSION;
}

int hutch_error_code(const hutch_error* error) {
  return error->code;
}

const char* hutch_error_name(const hutch_error* error) {
  switch (error->code) {
    case HUTCH_INVALID:
      return "invalid";
    case HUTCH_NOT_FOUND:
      return "not_found";
    case HUTCH_PERMISSION:
      return "permission";
    case HUTCH_STATE:
      return "state";
    case HUTCH_PROTOCOL:
      return "protocol";
    case HUTCH_TIMEOUT:
      return "timeout";
    default:
      return "host";
  }
}

const char* hutch_error_message(const hutch_error* error) {
  return error->error.message.c_str();
}

const char* hutch_error_remedy(const hutch_error* error) {
  return error->error.remedy.c_str();
}

int hutch_error_errno(const hutch_error* error) {
  return error->error.number;
}

void hutch_error_free(hutch_error* error) {
  delete error;
}

const char* hutch_reason_name(int reason) {
  if (reason >= HUTCH_REASON_POWER_OFF && reason <= HUTCH_REASON_STOPPED)
    return hutch::protocol::vmm::name(static_cast<hutch::protocol::vmm::EndReason>(reason));
  if (reason == HUTCH_REASON_AGENT_TIMEOUT) return "agent_timeout";
  if (reason == HUTCH_REASON_VMM_FAILED) return "vmm_failed";
  return "unknown";
}

void hutch_event_free(hutch_event* given) {
  if (given == nullptr) return;
  std::unique_ptr<Event> event(static_cast<Event*>(given));
  if (event->kind != HUTCH_EVENT_OUTPUT) return;
  if (auto owner = event->owner.lock())
    owner->acknowledge(event->task, event->stream, event->data_size);
}

int hutch_vm_start(const hutch_vm_options* given, hutch_vm** vm, hutch_error** error) {
  if (vm == nullptr) return invalid(error, "there is nowhere to store the machine");
  VmOptions options;
  int code = read_vm_options(given, &options, error);
  if (code != HUTCH_OK) return code;
  Result<std::unique_ptr<Vm>> started = Vm::start(std::move(options));
  if (!started) return give(error, started.error());
  auto handle = std::make_unique<hutch_vm>();
  handle->vm = std::move(*started);
  handle->agent.connection = handle->vm->agent();
  *vm = handle.release();
  return HUTCH_OK;
}

int hutch_shell_start(const hutch_shell_options* given, hutch_shell** shell, hutch_error** error) {
  hutch_shell_options options;
  if (shell == nullptr) return invalid(error, "there is nowhere to store the shell");
  if (!read_options(given, &options)) return invalid(error, kBadOptions);
  Result<hutch::lib::Shell> prepared =
      hutch::lib::Shell::prepare({.vmm_path = text(options.vmm_path),
                                  .kvm_path = kvm_path(options.kvm_path),
                                  .log = options.log_fd > 0 ? options.log_fd : -1,
                                  .end_with_thread = options.end_with_thread != 0});
  if (!prepared) return give(error, prepared.error());
  *shell = std::make_unique<hutch_shell>(hutch_shell{std::move(*prepared)}).release();
  return HUTCH_OK;
}

void hutch_shell_free(hutch_shell* shell) {
  delete shell;
}

int hutch_vm_was_prepared(const hutch_vm* vm) {
  return vm->vm->was_prepared();
}

int hutch_vm_event_fd(const hutch_vm* vm) {
  return vm->vm->event_fd();
}

int hutch_vm_next_event(hutch_vm* vm, hutch_event** event, hutch_error** error) {
  if (vm == nullptr || event == nullptr) return invalid(error, "the machine or the event is NULL");
  *event = vm->vm->next_event().release();
  return HUTCH_OK;
}

hutch_agent* hutch_vm_agent(hutch_vm* vm) {
  return vm->agent.connection != nullptr ? &vm->agent : nullptr;
}

int hutch_vm_query(hutch_vm* vm, hutch_error** error) {
  Result<void> asked = vm->vm->query();
  return asked ? HUTCH_OK : give(error, asked.error());
}

int hutch_vm_set_policy(hutch_vm* vm, int allow_all, const char* const* hosts, size_t host_count,
                        hutch_error** error) {
  if (vm == nullptr) return invalid(error, "the machine is NULL");
  hutch::protocol::broker::Policy policy;
  int code = read_policy(allow_all, hosts, host_count, &policy, error);
  if (code != HUTCH_OK) return code;
  Result<void> set = vm->vm->set_policy({policy.allows_all, std::move(policy.patterns)});
  if (!set) return give(error, HUTCH_STATE, set.error());
  return HUTCH_OK;
}

int hutch_vm_pause(hutch_vm* vm, hutch_error** error) {
  Result<void> asked = vm->vm->pause();
  return asked ? HUTCH_OK : give(error, HUTCH_STATE, asked.error());
}

int hutch_vm_resume(hutch_vm* vm, hutch_error** error) {
  Result<void> asked = vm->vm->resume();
  return asked ? HUTCH_OK : give(error, HUTCH_STATE, asked.error());
}

int hutch_vm_save(hutch_vm* vm, int memory_fd, int state_fd, const uint8_t* key,
                  hutch_error** error) {
  if (key == nullptr) return invalid(error, "a machine is saved with a key of 16 bytes");
  Result<Fd> memory = duplicate(memory_fd);
  Result<Fd> state = duplicate(state_fd);
  if (!memory || !state) return give(error, (memory ? state : memory).error());
  hutch::protocol::vmm::SavedKey copy;
  std::memcpy(copy.data(), key, copy.size());
  Result<void> asked = vm->vm->save(std::move(*memory), std::move(*state), copy);
  return asked ? HUTCH_OK : give(error, HUTCH_STATE, asked.error());
}

int hutch_vm_record_pages(hutch_vm* vm, int fd, hutch_error** error) {
  Result<Fd> file = duplicate(fd);
  if (!file) return give(error, file.error());
  Result<void> asked = vm->vm->record_pages(std::move(*file));
  return asked ? HUTCH_OK : give(error, HUTCH_STATE, asked.error());
}

int hutch_vm_disk_layers(const hutch_vm* vm, size_t disk, const int** fds, size_t* count,
                         hutch_error** error) {
  if (vm == nullptr || fds == nullptr || count == nullptr)
    return invalid(error, "the machine is NULL, or there is nowhere to store its layers");
  Result<std::span<const int>> layers = vm->vm->disk_layers(disk);
  if (!layers) return give(error, HUTCH_INVALID, layers.error());
  *fds = layers->data();
  *count = layers->size();
  return HUTCH_OK;
}

int hutch_vm_stop(hutch_vm* vm, hutch_error** error) {
  Result<void> asked = vm->vm->stop();
  return asked ? HUTCH_OK : give(error, asked.error());
}

int32_t hutch_vm_process_id(const hutch_vm* vm) {
  return vm->vm->process_id();
}

void hutch_vm_free(hutch_vm* vm) {
  delete vm;
}

int hutch_agent_connect(const hutch_agent_options* given, hutch_agent** agent,
                        hutch_error** error) {
  hutch_agent_options options;
  if (agent == nullptr || !read_options(given, &options)) return invalid(error, kBadOptions);
  Result<Fd> socket = duplicate(options.fd);
  if (!socket) return give(error, socket.error());
  Result<Poller> poller = Poller::create();
  if (!poller) return give(error, poller.error());
  auto handle = std::make_unique<hutch_agent>();
  handle->poller = std::make_unique<Poller>(std::move(*poller));
  auto connection = AgentConnection::create(*handle->poller, kAgentTag, std::move(*socket));
  if (!connection) return give(error, connection.error());
  handle->owned = std::move(*connection);
  handle->connection = handle->owned.get();
  handle->deadline =
      hutch::monotonic_ns() +
      (options.timeout_ms != 0 ? uint64_t{options.timeout_ms} * 1'000'000 : kDefaultTimeout);
  handle->poller->set_deadline(handle->deadline);
  auto hello = hutch::lib::make_hello({.set_clock = options.set_clock != 0,
                                       .host_name = text(options.host_name),
                                       .token = text(options.token)});
  if (!hello) return give(error, hello.error());
  handle->connection->client().say_hello(*std::move(hello));
  handle->connection->flush();
  *agent = handle.release();
  return HUTCH_OK;
}

int hutch_agent_event_fd(const hutch_agent* agent) {
  return agent->poller ? agent->poller->get() : -1;
}

int hutch_agent_next_event(hutch_agent* agent, hutch_event** event, hutch_error** error) {
  if (agent == nullptr || event == nullptr) return invalid(error, "the agent or the event is NULL");
  if (!agent->owned) return invalid(error, "the events of this agent come from its machine");
  *event = nullptr;
  hutch::lib::EventQueue& events = agent->connection->client().events();
  if (events.empty() && !agent->lost) {
    agent->poller->ready();
    agent->connection->pump();
    if (agent->connection->client().is_ready() && agent->deadline != 0) {
      agent->deadline = 0;
      agent->poller->set_deadline(0);
    }
    if (agent->deadline != 0 && hutch::monotonic_ns() >= agent->deadline)
      agent->connection->drop(Error{"the agent did not answer in time", "", ETIMEDOUT});
  }
  if (!events.empty()) {
    *event = events.front().release();
    events.pop_front();
  } else if (!agent->connection->is_open() && !agent->lost) {
    agent->lost = true;
    auto lost = std::make_unique<Event>(HUTCH_EVENT_AGENT_LOST, 0);
    const auto& failure = agent->connection->failure();
    lost->set_message(failure ? failure->message : "the agent has closed its connection");
    lost->set_remedy(failure ? failure->remedy : "");
    *event = lost.release();
  }
  return HUTCH_OK;
}

void hutch_agent_free(hutch_agent* agent) {
  if (agent == nullptr || !agent->owned) return;
  delete agent;
}

int hutch_agent_freeze(hutch_agent* agent, hutch_error** error) {
  int code = need_agent(agent, error);
  return code != HUTCH_OK ? code
                          : finish_request(agent, agent->connection->client().freeze(), error);
}

int hutch_agent_thaw(hutch_agent* agent, hutch_error** error) {
  int code = need_agent(agent, error);
  return code != HUTCH_OK ? code : finish_request(agent, agent->connection->client().thaw(), error);
}

int hutch_agent_shutdown(hutch_agent* agent, int reboot, hutch_error** error) {
  int code = need_agent(agent, error);
  if (code != HUTCH_OK) return code;
  agent->connection->client().shutdown(reboot != 0);
  agent->connection->flush();
  return HUTCH_OK;
}

int hutch_process_start(hutch_agent* agent, const hutch_process_options* given, hutch_task* task,
                        hutch_error** error) {
  hutch_process_options options;
  int code = need_agent(agent, error);
  if (code != HUTCH_OK) return code;
  if (task == nullptr || !read_options(given, &options)) return invalid(error, kBadOptions);
  if (options.arguments == nullptr || options.arguments[0] == nullptr)
    return invalid(error, "a process needs a program");
  hutch::protocol::agent::Spawn message;
  for (size_t i = 0; options.arguments[i] != nullptr; i++)
    message.arguments.emplace_back(options.arguments[i]);
  for (size_t i = 0; options.environment != nullptr && options.environment[i] != nullptr; i++)
    message.environment.emplace_back(options.environment[i]);
  message.working_directory = text(options.working_directory);
  message.user = text(options.user);
  message.terminal = options.terminal != 0;
  message.open_input = options.open_input != 0;
  message.rows = options.rows;
  message.columns = options.columns;
  message.agent_program = options.agent_program != 0;
  return finish_request(agent, agent->connection->client().spawn(message), task, error);
}

int hutch_process_signal(hutch_agent* agent, hutch_task task, int number, hutch_error** error) {
  int code = need_agent(agent, error);
  if (code != HUTCH_OK) return code;
  if (number < 1 || number > 64)
    return invalid(error, fmt::format("there is no signal {}", number));
  return finish_request(
      agent, agent->connection->client().signal(task, static_cast<uint32_t>(number)), error);
}

int hutch_process_resize(hutch_agent* agent, hutch_task task, uint16_t rows, uint16_t columns,
                         hutch_error** error) {
  int code = need_agent(agent, error);
  if (code != HUTCH_OK) return code;
  return finish_request(agent, agent->connection->client().resize(task, rows, columns), error);
}

int hutch_file_read(hutch_agent* agent, const hutch_file_options* given, hutch_task* task,
                    hutch_error** error) {
  hutch_file_options options;
  int code = need_agent(agent, error);
  if (code != HUTCH_OK) return code;
  if (task == nullptr || !read_options(given, &options) || options.path == nullptr)
    return invalid(error, kBadOptions);
  hutch::protocol::agent::ReadFile message;
  message.path = options.path;
  message.user = text(options.user);
  message.offset = options.offset;
  if (options.limit != 0) message.limit = options.limit;
  return finish_request(agent, agent->connection->client().read_file(message), task, error);
}

int hutch_file_write(hutch_agent* agent, const hutch_file_options* given, hutch_task* task,
                     hutch_error** error) {
  hutch_file_options options;
  int code = need_agent(agent, error);
  if (code != HUTCH_OK) return code;
  if (task == nullptr || !read_options(given, &options) || options.path == nullptr)
    return invalid(error, kBadOptions);
  if (options.mode > 07777)
    return invalid(error, fmt::format("{:o} is not a file mode", options.mode));
  hutch::protocol::agent::WriteFile message;
  message.path = options.path;
  message.user = text(options.user);
  if (options.mode != 0) message.mode = options.mode;
  message.append = options.append != 0;
  message.create_new = options.create_new != 0;
  return finish_request(agent, agent->connection->client().write_file(message), task, error);
}

int hutch_task_write(hutch_agent* agent, hutch_task task, const void* bytes, size_t size,
                     size_t* taken, hutch_error** error) {
  int code = need_agent(agent, error);
  if (code != HUTCH_OK) return code;
  if (taken == nullptr || (bytes == nullptr && size != 0))
    return invalid(error, "there is nothing to write or nowhere to store how much was taken");
  Result<size_t> written = agent->connection->client().write(
      task, std::span(static_cast<const std::byte*>(bytes), size));
  if (!written) return give(error, written.error());
  *taken = *written;
  agent->connection->flush();
  return HUTCH_OK;
}

int hutch_task_close_input(hutch_agent* agent, hutch_task task, hutch_error** error) {
  int code = need_agent(agent, error);
  if (code != HUTCH_OK) return code;
  return finish_request(agent, agent->connection->client().close_input(task), error);
}

void hutch_task_close(hutch_agent* agent, hutch_task task) {
  if (agent == nullptr || !agent->connection->is_open()) return;
  agent->connection->client().close(task);
  agent->connection->flush();
}

}  // extern "C"
