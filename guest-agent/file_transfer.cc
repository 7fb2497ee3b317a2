#include "guest-agent/file_transfer.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/log.h"
#include "base/sys.h"

namespace hutch::agent {
namespace {

using namespace protocol::agent;  // NOLINT: the wire's names

constexpr size_t kBlock = 64 * 1024;

[[noreturn]] void finish_child(uint64_t size) {
  report({.kind = Report::Kind::kDone, .size = size});
  ::_exit(0);
}

// In the child: a relative path starts in the user's home.
void enter_home(const Account& account) {
  if (::chdir(account.home.c_str()) < 0 && ::chdir("/") < 0)
    report_failure(FailureStage::kDirectory, errno);
}

// In the child: copies until the end of `source` or `limit` bytes; returns how many.
uint64_t copy(int source, int sink, uint64_t limit) {
  static std::array<std::byte, kBlock> block;
  uint64_t copied = 0;
  while (copied < limit) {
    ssize_t count = ::read(source, block.data(),
                           static_cast<size_t>(std::min<uint64_t>(kBlock, limit - copied)));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) report_failure(FailureStage::kFile, errno);
    if (count == 0) break;
    auto written = write_all(sink, std::span(block).first(static_cast<size_t>(count)));
    if (!written) report_failure(FailureStage::kFile, written.error().number);
    copied += static_cast<uint64_t>(count);
  }
  return copied;
}

[[noreturn]] void read_in_child(const ReadFile& request, const Account& account) {
  become(account);
  enter_home(account);
  int file = ::open(request.path.c_str(), O_RDONLY | O_NOCTTY);
  if (file < 0) report_failure(FailureStage::kFile, errno);
  if (request.offset > INT64_MAX) report_failure(FailureStage::kFile, EINVAL);
  if (request.offset > 0 && ::lseek(file, static_cast<off_t>(request.offset), SEEK_SET) < 0)
    report_failure(FailureStage::kFile, errno);
  finish_child(copy(file, STDOUT_FILENO, request.limit));
}

[[noreturn]] void write_in_child(const WriteFile& request, const Account& account) {
  become(account);
  enter_home(account);
  ::umask(0);  // the mode is the host's word
  int flags = O_WRONLY | O_CREAT | O_NOCTTY | (request.append ? O_APPEND : O_TRUNC) |
              (request.create_new ? O_EXCL : 0);
  int file = ::open(request.path.c_str(), flags, request.mode);
  if (file < 0) report_failure(FailureStage::kFile, errno);
  report({.kind = Report::Kind::kOpened});
  uint64_t size = copy(STDIN_FILENO, file, UINT64_MAX);
  // Some file systems tell only now that there was no room.
  if (::close(file) < 0) report_failure(FailureStage::kFile, errno);
  finish_child(size);
}

class FileTransfer : public Operation {
 public:
  FileTransfer(Services& services, Outbox& outbox, uint32_t channel, std::string path,
               std::string user)
      : services_(services),
        outbox_(outbox),
        channel_(channel),
        path_(std::move(path)),
        user_(std::move(user)) {}

  ~FileTransfer() override {
    if (process_ > 0) {
      services_.reaper.forget(process_);
      if (::kill(process_, SIGKILL) < 0 && errno != ESRCH)
        log_warning("channel {}: stopping a file transfer: errno {}", channel_, errno);
    }
    services_.cgroups.discard(std::move(cgroup_));
  }

  // `run` is called in the child with the account, and does not return.
  template <typename Run>
  Result<void> start(bool reading, Run run);

  Result<void> input(std::vector<std::byte> bytes) override {
    if (!input_) return fail(fmt::format("channel {}: input for a file being read", channel_));
    return input_->take(std::move(bytes));
  }
  Result<void> input_end() override {
    if (!input_) return fail(fmt::format("channel {}: input for a file being read", channel_));
    return input_->end();
  }
  Result<void> signal(int) override {
    return fail(fmt::format("channel {}: a signal for a file", channel_));
  }
  Result<void> resize(uint16_t, uint16_t) override {
    return fail(fmt::format("channel {}: a terminal's size for a file", channel_));
  }
  Result<void> credit(uint8_t stream, uint32_t bytes) override {
    if (stream != 1 || !output_)
      return fail(fmt::format("channel {}: no stream {}", channel_, stream));
    output_->add_credit(bytes);
    return {};
  }
  void resume() override {
    if (output_) output_->resume();
  }

 private:
  void read_reports();
  void give_up(FailureStage stage, int error_number);
  void check_end();

  Services& services_;
  Outbox& outbox_;
  const uint32_t channel_;
  const std::string path_, user_;
  Cgroup cgroup_;
  pid_t process_ = 0;  // 0 once reaped
  Fd report_;
  Watch report_watch_;
  std::unique_ptr<InputPump> input_;    // writing
  std::unique_ptr<OutputPump> output_;  // reading
  std::optional<Done> done_;
  bool over_ = false;
};

template <typename Run>
Result<void> FileTransfer::start(bool reading, Run run) {
  if (!is_c_string(path_)) {
    over_ = true;
    send_failure(outbox_, channel_, FailureStage::kRequest, EINVAL, "the path holds a zero byte");
    return {};
  }
  auto account = find_account(user_);
  if (!account) {
    over_ = true;
    send_failure(outbox_, channel_, FailureStage::kUser, account.error().number,
                 account.error().message);
    return {};
  }
  cgroup_ = TRY(services_.cgroups.make());
  Pipe reports = TRY(make_pipe());
  TRY(set_nonblocking(reports.reader.get()));
  Pipe data = TRY(make_pipe());
  ChildDescriptors descriptors{.report = reports.writer.get()};
  (reading ? descriptors.output : descriptors.input) =
      reading ? data.writer.get() : data.reader.get();

  pid_t process = TRY(fork_child(cgroup_.folder()));
  if (process == 0) {
    set_up_child(descriptors);
    run(*account);
  }
  process_ = process;
  services_.reaper.watch(process, [this](int) { process_ = 0; });
  report_ = std::move(reports.reader);
  report_watch_ =
      TRY(services_.loop.watch(report_.get(), EPOLLIN, [this](uint32_t) { read_reports(); }));
  if (reading) {
    // Done says the end of a file.
    output_ = std::make_unique<OutputPump>(services_.loop, outbox_, channel_, 1, false,
                                           [this] { check_end(); });
    return output_->start(std::move(data.reader), false);
  }
  input_ = std::make_unique<InputPump>(services_.loop, outbox_, channel_);
  return input_->start(std::move(data.writer), false);
}

void FileTransfer::give_up(FailureStage stage, int error_number) {
  over_ = true;
  std::string message;
  if (stage == FailureStage::kUser) {
    message = fmt::format("becoming user {}", user_);
  } else if (stage == FailureStage::kRequest) {
    message = "preparing a file transfer";
  } else {
    message = fmt::format("{} {}", input_ ? "writing" : "reading", path_);
  }
  send_failure(outbox_, channel_, stage, error_number,
               with_errno(error_number, std::move(message)));
}

void FileTransfer::read_reports() {
  bool ended = false;
  while (!over_) {
    std::optional<Report> report = read_report(report_.get(), ended);
    if (!report) break;
    switch (report->kind) {
      case Report::Kind::kFailed:
        give_up(report->stage, report->error_number);
        break;
      case Report::Kind::kOpened:
        outbox_.send(FrameType::kStarted, channel_, encode(Started{0}));
        break;
      case Report::Kind::kDone:
        done_ = Done{report->size};
        break;
    }
  }
  if (!ended && !over_) return;
  report_watch_.reset();
  report_.reset();
  // It ended without a word: somebody in the guest killed it, or memory ran out.
  if (!over_ && !done_) give_up(FailureStage::kFile, EIO);
  check_end();
}

void FileTransfer::check_end() {
  if (over_ || !done_ || (output_ && output_->is_open())) return;
  over_ = true;
  outbox_.send(FrameType::kDone, channel_, encode(*done_));
  outbox_.finish(channel_);
}

template <typename Run>
std::unique_ptr<Operation> start_transfer(Services& services, Outbox& outbox, uint32_t channel,
                                          const std::string& path, const std::string& user,
                                          bool reading, Run run) {
  auto transfer = std::make_unique<FileTransfer>(services, outbox, channel, path, user);
  auto started = transfer->start(reading, run);
  if (!started)
    send_failure(outbox, channel, FailureStage::kRequest, started.error().number,
                 started.error().text());
  return transfer;
}

}  // namespace

std::unique_ptr<Operation> start_reading(Services& services, Outbox& outbox, uint32_t channel,
                                         const ReadFile& request) {
  return start_transfer(services, outbox, channel, request.path, request.user, true,
                        [&](const Account& account) { read_in_child(request, account); });
}

std::unique_ptr<Operation> start_writing(Services& services, Outbox& outbox, uint32_t channel,
                                         const WriteFile& request) {
  return start_transfer(services, outbox, channel, request.path, request.user, false,
                        [&](const Account& account) { write_in_child(request, account); });
}

}  // namespace hutch::agent
