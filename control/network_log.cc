#include "control/network_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <memory>
#include <optional>

#include "base/log.h"
#include "base/sys.h"
#include "control/problem.h"

namespace hutch::control {
namespace {

namespace asio = boost::asio;

// Waits for the first of two things, and keeps itself until then.
class Wait final : public std::enable_shared_from_this<Wait> {
 public:
  Wait(asio::io_context& context, Fd notifier, std::function<void()> done)
      : changes_(context), timer_(context), done_(std::move(done)) {
    changes_.assign(notifier.release());
  }
  void start(std::chrono::seconds time) {
    auto finish = [self = shared_from_this()](boost::system::error_code) { self->finish(); };
    changes_.async_wait(asio::posix::stream_descriptor::wait_read, finish);
    timer_.expires_after(time);
    timer_.async_wait(finish);
  }

 private:
  void finish() {
    auto done = std::exchange(done_, {});
    if (!done) return;
    timer_.cancel();
    changes_.close();
    done();
  }

  asio::posix::stream_descriptor changes_;
  asio::steady_timer timer_;
  std::function<void()> done_;
};

std::optional<uint64_t> size_of(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return std::nullopt;
  return static_cast<uint64_t>(status.st_size);
}

}  // namespace

std::string NetworkLogs::path(const std::string& sandbox_id) const {
  return fmt::format("{}/{}.network.jsonl", folder_, sandbox_id);
}

Fd NetworkLogs::create(const std::string& sandbox_id) const {
  bool is_there = ::mkdir(folder_.c_str(), 0700) == 0 || errno == EEXIST;
  Result<Fd> file = is_there ? open_file(path(sandbox_id), O_RDWR | O_APPEND | O_CREAT, 0600)
                             : fail_errno(errno, "making the folder " + folder_);
  if (file) return *std::move(file);
  log_error("{}: {}", sandbox_id, file.error().text());
  throw Problem(500, "SANDBOX_START_FAILED", "the server cannot keep a sandbox's events");
}

std::string NetworkLogs::read(const std::string& sandbox_id, uint64_t from) const {
  std::optional<uint64_t> size = size_of(path(sandbox_id));
  if (!size) throw no_network();
  if (from > *size)
    throw Problem(400, "INVALID_QUERY",
                  fmt::format("from is {}; the log has {} bytes", from, *size));
  if (from == *size) return {};
  Result<Fd> file = open_file(path(sandbox_id), O_RDONLY);
  std::string text(std::min<uint64_t>(*size - from, kMaxPart), '\0');
  if (!file || !read_exactly_at(file->get(), std::as_writable_bytes(std::span(text)), from))
    throw Problem(500, "INTERNAL_ERROR", "the server cannot read the sandbox's events");
  // A line is written at once, but it may be the one that kMaxPart cuts.
  text.resize(text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1);
  return text;
}

void NetworkLogs::wait(asio::io_context& context, const std::string& sandbox_id, uint64_t size,
                       std::chrono::seconds time, std::function<void()> done) const {
  Fd notifier(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  // The watch first: what comes between it and the look at the size is not missed.
  if (!notifier ||
      ::inotify_add_watch(notifier.get(), path(sandbox_id).c_str(), IN_MODIFY | IN_CLOSE_WRITE) <
          0 ||
      size_of(path(sandbox_id)).value_or(0) > size)
    return asio::post(context, std::move(done));
  std::make_shared<Wait>(context, std::move(notifier), std::move(done))->start(time);
}

}  // namespace hutch::control
