#include "guest-agent/rpc/write_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "guest-agent/rpc/codecs.h"
#include "guest-agent/rpc/files.h"
#include "guest-agent/rpc/parameters.h"

namespace hutch::agent::rpc {
namespace {

// Pieces of a stream are written together up to here.
constexpr size_t kMostPerJob = 1 << 20;

class Writing : public std::enable_shared_from_this<Writing> {
 public:
  Writing(Workers& workers, std::shared_ptr<Call> call)
      : workers_(workers), call_(std::move(call)), path_(text_of(call_->params, "path")) {
    const Json& options = object_of(call_->params, "options");
    bool append = flag_of(options, "append", false);
    flags_ = O_WRONLY | O_CLOEXEC | (append ? O_APPEND : O_TRUNC);
    if (flag_of(options, "createNew", false)) {
      flags_ |= O_CREAT | O_EXCL;
    } else if (flag_of(options, "create", true)) {
      flags_ |= O_CREAT;
    }
    mode_ = optional_integer(options, "mode", 0, UINT32_MAX);
  }

  void start(bool is_text) {
    auto id = optional_integer(call_->params, "contentStreamId", 0, kMaxInteger);
    if (id) {
      stream_ = call_->connection()->claim_stream(static_cast<uint64_t>(*id));
      call_->set_on_abort([weak = weak_from_this()] {
        auto self = weak.lock();
        if (!self) return;
        self->stream_->cancel(abort_failure());
        self->waiting_.reset();
      });
    } else {
      auto content = take_text(call_->params, "content");
      if (!content) throw type_error("\"content\" or \"contentStreamId\" must be given");
      next_ = *std::move(content);
      is_base64_ = !is_text;
    }
    run(true);
  }

 private:
  // One job at a time; the first opens the file.
  void run(bool opens) {
    busy_ = true;
    workers_.run(
        [self = shared_from_this(), opens] {
          try {
            if (opens) self->open();
            self->write();
          } catch (const Failure& failure) {
            self->failure_ = failure;
          }
        },
        [self = shared_from_this()] { self->go_on(); });
  }

  // On a worker.
  void open() {
    if (is_base64_ && !decode_base64(next_)) throw type_error("\"content\" is not base64");
    std::string what = on_path("writefile", path_);
    fd_ = Fd(::open(path_.c_str(), flags_, static_cast<mode_t>(mode_.value_or(0666) & 07777)));
    if (!fd_) throw_errno(what);
    if (mode_ && ::fchmod(fd_.get(), static_cast<mode_t>(*mode_ & 07777)) < 0) throw_errno(what);
  }

  // On a worker.
  void write() {
    for (std::string_view rest = next_; !rest.empty();) {
      ssize_t count = ::write(fd_.get(), rest.data(), rest.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw_errno(on_path("writefile", path_));
      rest.remove_prefix(static_cast<size_t>(count));
    }
    next_.clear();
  }

  // On the loop's thread again.
  void go_on() {
    busy_ = false;
    if (!call_->is_open()) return;  // aborted
    if (failure_) {
      if (stream_) stream_->cancel(*failure_);
      return call_->fail(*failure_);
    }
    if (!stream_) return call_->ok();
    stream_->set_on_data([weak = weak_from_this()] {
      auto self = weak.lock();
      if (self && !self->busy_) self->go_on();
    });
    while (next_.size() < kMostPerJob) {
      std::optional<std::string> chunk = stream_->take();
      if (!chunk) break;
      next_ += *chunk;
    }
    waiting_ = next_.empty() ? shared_from_this() : nullptr;
    if (!next_.empty()) return run(false);
    if (!stream_->is_ended()) return;
    waiting_.reset();
    if (stream_->failure()) return call_->fail(*stream_->failure());
    call_->ok();
  }

  Workers& workers_;
  const std::shared_ptr<Call> call_;
  const std::string path_;
  int flags_ = 0;
  std::optional<int64_t> mode_;
  std::shared_ptr<InboundStream> stream_;
  std::shared_ptr<Writing> waiting_;  // itself, while only the stream can wake it
  std::string next_;
  bool is_base64_ = false, busy_ = false;
  Fd fd_;
  std::optional<Failure> failure_;
};

}  // namespace

void start_write_file(Workers& workers, const std::shared_ptr<Call>& call, bool is_text) {
  std::make_shared<Writing>(workers, call)->start(is_text);
}

}  // namespace hutch::agent::rpc
