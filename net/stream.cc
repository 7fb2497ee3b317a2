#include "net/stream.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cassert>
#include <cerrno>

namespace hutch::net {
namespace {
// Edges, so that waiting costs no system call each time.
constexpr uint32_t kEvents = EPOLLIN | EPOLLRDHUP | EPOLLET;
}  // namespace

Result<std::unique_ptr<Stream>> Stream::create(Loop& loop, Fd fd, Counters& counters,
                                               std::function<void()> changed) {
  std::unique_ptr<Stream> stream(new Stream(loop, std::move(fd), counters, std::move(changed)));
  Stream* raw = stream.get();
  stream->watch_ =
      TRY(loop.watch(raw->fd_.get(), kEvents, [raw](uint32_t events) { raw->on_events(events); }));
  return stream;
}

Stream::Stream(Loop& loop, Fd fd, Counters& counters, std::function<void()> changed)
    : loop_(loop), fd_(std::move(fd)), counters_(counters), changed_(std::move(changed)) {}

void Stream::on_events(uint32_t events) {
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) is_readable_ = true;
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) is_hung_up_ = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0 && is_full_) wait_for_room(false);
  changed_();
}

void Stream::wait_for_room(bool wanted) {
  is_full_ = wanted;
  Result<void> modified =
      loop_.modify(watch_, kEvents | (wanted ? uint32_t{EPOLLOUT} : uint32_t{0}));
  assert(modified);
}

size_t Stream::take(std::span<const std::byte> bytes) {
  return write({bytes, {}});
}

size_t Stream::write(Pieces pieces) {
  if (is_full_ || has_failed_ || is_output_over_) return 0;
  std::array<iovec, 2> parts;
  for (size_t i = 0; i < parts.size(); i++)
    parts[i] = {const_cast<std::byte*>(pieces[i].data()), pieces[i].size()};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = pieces[1].empty() ? 1 : 2;
  ssize_t count;
  do {
    count = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (count < 0 && errno == EINTR);
  if (count < 0 && errno != EAGAIN) {
    // Nobody reads any more; but there may be last words, of which no event has told yet.
    has_failed_ = is_readable_ = is_hung_up_ = true;
    return 0;
  }
  const size_t written = count < 0 ? 0 : static_cast<size_t>(count);
  counters_.bytes_to_streams += written;
  if (written < pieces[0].size() + pieces[1].size()) wait_for_room(true);
  return written;
}

void Stream::pump(TcpFlow& flow, uint64_t now_ns) {
  // First what has come: a far side that answers and leaves has often not read all.
  read_into(flow, now_ns);
  write_from(flow, now_ns);
  if (has_failed_) {
    read_into(flow, now_ns);
    flow.end(TcpFlow::Ending::kReset, now_ns);
    is_input_over_ = is_output_over_ = true;
  }
  if (flow.guest_is_drained() && !is_output_over_) {
    is_output_over_ = true;
    // When both directions are over, closing says so too.
    if (!is_input_over_) ::shutdown(fd_.get(), SHUT_WR);
  }
}

void Stream::read_into(TcpFlow& flow, uint64_t now_ns) {
  while (is_readable_ && !is_input_over_) {
    const auto room = flow.outgoing_room();
    const size_t size = room[0].size() + room[1].size();
    if (size == 0) return;
    std::array<iovec, 2> parts = {iovec{room[0].data(), room[0].size()},
                                  iovec{room[1].data(), room[1].size()}};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = room[1].empty() ? 1 : 2;
    const ssize_t count = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT);
    if (count > 0) {
      flow.produced(static_cast<size_t>(count), now_ns);
      counters_.bytes_to_guest += static_cast<size_t>(count);
      // A short read says that there is no more: an edge follows when there is, but none for an
      // end that has come already.
      if (static_cast<size_t>(count) < size && !is_hung_up_) is_readable_ = false;
    } else if (count == 0 && !is_hung_up_) {
      // The loop tells of it, in its turn: whoever ends streams says why before.
      is_readable_ = false;
    } else if (count == 0) {
      is_input_over_ = true;
      flow.end(has_failed_ ? TcpFlow::Ending::kReset : TcpFlow::Ending::kFin, now_ns);
    } else if (errno == EAGAIN) {
      is_readable_ = false;
    } else if (errno != EINTR) {
      is_input_over_ = true;
      flow.end(TcpFlow::Ending::kReset, now_ns);
    }
  }
}

void Stream::write_from(TcpFlow& flow, uint64_t now_ns) {
  while (flow.incoming_size() > 0 && !is_full_ && !has_failed_) {
    const size_t written = write(flow.incoming());
    if (written > 0) flow.consumed(written, now_ns);
  }
}

void Stream::cut() {
  // Closing then resets a TCP connection, instead of ending it in order.
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  (void)::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

}  // namespace hutch::net
