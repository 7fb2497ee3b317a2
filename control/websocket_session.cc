#include "control/websocket_session.h"

#include <array>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/beast/websocket/ssl.hpp>
#include <chrono>
#include <deque>

#include "base/log.h"
#include "control/ids.h"
#include "control/relay.h"

namespace hutch::control {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;
using boost::system::error_code;

constexpr size_t kReadSize = 64 * 1024;
// With this much waiting for the client, the guest gets no more credit.
constexpr size_t kOutgoingLimit = 1 << 20;
constexpr size_t kMaxReason = 120;
// A client that does not answer a close gets this long.
constexpr std::chrono::seconds kCloseTime{5};
constexpr std::chrono::seconds kHandshakeTime{30};
constexpr int kPingsPerTimeout = 4;
constexpr uint16_t kServiceEnded = 1011;

template <typename Stream>
class WebSocketSession final : public Session,
                               public ChannelEvents,
                               public RelayOutput,
                               public std::enable_shared_from_this<WebSocketSession<Stream>> {
 public:
  WebSocketSession(Stream stream, HttpRequest request, std::shared_ptr<Sandbox> sandbox,
                   bool creator, std::string trace_id, std::shared_ptr<void> done,
                   std::chrono::seconds client_timeout)
      : socket_(std::move(stream)),
        request_(std::move(request)),
        sandbox_(std::move(sandbox)),
        creator_(creator),
        trace_id_(std::move(trace_id)),
        done_(std::move(done)),
        base_(new_stream_base()),
        relay_(base_, *this),
        client_timeout_(client_timeout),
        close_timer_(socket_.get_executor()),
        ping_timer_(socket_.get_executor()) {}
  ~WebSocketSession() { sandbox_->remove_session(*this); }

  void run() {
    // While the guest takes nothing, no operation of the socket is under way that would keep us.
    kept_ = self();
    sandbox_->add_session(*this, creator_);
    socket_.set_option(websocket::stream_base::decorator([this](websocket::response_type& answer) {
      answer.set("x-deno-sandbox-id", sandbox_->id());
      if (std::optional<Way> way = sandbox_->way()) {
        answer.set("x-hutch-path", path_name(way->path));
        answer.set("x-hutch-process", process_name(*way));
      }
      answer.set("x-deno-trace-id", trace_id_);
      answer.set(beast::http::field::server, "hutch/" HUTCH_VERSION);
    }));
    websocket::stream_base::timeout timeout{};
    timeout.handshake_timeout = kHandshakeTime;
    timeout.idle_timeout = websocket::stream_base::none();
    timeout.keep_alive_pings = false;
    beast::get_lowest_layer(socket_).expires_never();
    socket_.set_option(timeout);
    socket_.read_message_max(kMaxMessageToGuest);
    socket_.auto_fragment(false);
    socket_.text(true);
    socket_.control_callback([this](websocket::frame_type, std::string_view) { heard(); });
    socket_.async_accept(request_, [self = self()](error_code error) {
      self->request_ = {};
      if (error) return self->finish();
      self->accepted();
    });
  }

  // Session.
  void end(uint16_t code, std::string_view reason) override { start_close(code, reason); }

  // ChannelEvents.
  void on_output(GuestBytes bytes) override {
    waiting_.push_back(std::move(bytes));
    take_output();
  }
  void on_writable() override { write_to_guest(); }
  void on_closed() override {
    channel_.reset();
    start_close(kServiceEnded, "the sandbox's service has ended");
  }

  // RelayOutput.
  void send_part(std::string bytes, bool last) override {
    outgoing_bytes_ += bytes.size();
    outgoing_.push_back({std::move(bytes), last});
    write_to_client();
  }
  void send_pong() override {
    pong_due_ = true;
    write_to_client();
  }
  void close(uint16_t code, std::string_view reason) override { start_close(code, reason); }

 private:
  struct Part {
    std::string bytes;
    bool last;
  };

  std::shared_ptr<WebSocketSession> self() { return this->shared_from_this(); }

  void accepted() {
    accepted_ = true;
    heard();
    watch_client();
    if (closing_) return send_close();
    try {
      channel_ = sandbox_->open_channel(*this, base_);
    } catch (const Problem& problem) {
      return start_close(kServiceEnded, problem.message());
    }
    read();
  }

  void heard() { last_heard_ = std::chrono::steady_clock::now(); }

  // A client that has vanished closes nothing. It answers pings as long as it is there: its library
  // does, whatever its program does.
  void watch_client() {
    ping_timer_.expires_after(client_timeout_ / kPingsPerTimeout);
    ping_timer_.async_wait([self = self()](error_code error) {
      if (error || self->closing_) return;
      self->check_client();
    });
  }

  void check_client() {
    // While the guest takes nothing we do not read, and so hear nothing; the kernel's timeout of
    // what is not acknowledged holds then.
    if (!reading_) heard();
    if (std::chrono::steady_clock::now() - last_heard_ >= client_timeout_) {
      log_info("{}: a client is silent, pings included, and given up", sandbox_->id());
      return finish();
    }
    if (!pinging_) {
      pinging_ = true;
      socket_.async_ping({}, [self = self()](error_code error) {
        self->pinging_ = false;
        if (error && !self->closing_) self->finish();
      });
    }
    watch_client();
  }

  void read() {
    socket_.async_read_some(asio::buffer(input_), [self = self()](error_code error, size_t size) {
      if (error) return self->finish();
      self->heard();
      if (self->closing_) return self->read();
      self->relay_.from_client(std::string_view(self->input_.data(), size),
                               self->socket_.is_message_done());
      self->reading_ = false;
      self->write_to_guest();
    });
    reading_ = true;
  }

  // Writes what the guest has room for; reads on only when all is written.
  void write_to_guest() {
    if (channel_) {
      std::string_view bytes = relay_.to_guest();
      if (!bytes.empty()) relay_.wrote(channel_->write(std::as_bytes(std::span(bytes))));
    }
    if (!reading_ && (relay_.to_guest().empty() || closing_)) read();
  }

  void take_output() {
    while (!waiting_.empty() && outgoing_bytes_ < kOutgoingLimit) {
      GuestBytes bytes = std::move(waiting_.front());
      waiting_.pop_front();
      if (!closing_) relay_.from_guest(bytes.bytes);
    }
    if (relay_.dropped() > 0 && !told_dropped_) {
      told_dropped_ = true;
      log_warning("{}: a message of the guest was not valid and is dropped, as others may be",
                  sandbox_->id());
    }
  }

  void write_to_client() {
    if (writing_ || closing_) return;
    bool pong = pong_due_ && !mid_message_;
    if (!pong && outgoing_.empty()) return;
    if (pong) {
      pong_due_ = false;
      current_ = {"pong", true};
    } else {
      current_ = std::move(outgoing_.front());
      outgoing_.pop_front();
      outgoing_bytes_ -= current_.bytes.size();
      mid_message_ = !current_.last;
    }
    writing_ = true;
    socket_.async_write_some(current_.last, asio::buffer(current_.bytes),
                             [self = self()](error_code error, size_t) {
                               self->writing_ = false;
                               if (error) return self->finish();
                               self->take_output();
                               self->write_to_client();
                             });
  }

  void start_close(uint16_t code, std::string_view reason) {
    if (closing_) return;
    closing_ = true;
    ping_timer_.cancel();
    reason_ = websocket::close_reason(websocket::close_code(code),
                                      std::string(reason.substr(0, kMaxReason)));
    outgoing_.clear();
    outgoing_bytes_ = 0;
    waiting_.clear();
    close_timer_.expires_after(kCloseTime);
    close_timer_.async_wait([self = self()](error_code error) {
      if (!error) self->finish();
    });
    // Not from inside a call of the sandbox or the channel, which go on using us.
    if (accepted_) asio::post(socket_.get_executor(), [self = self()] { self->send_close(); });
  }

  void send_close() {
    if (finished_) return;
    // A reader takes the client's answer.
    if (!reading_) read();
    socket_.async_close(reason_, [self = self()](error_code) { self->finish(); });
  }

  void finish() {
    if (finished_) return;
    finished_ = true;
    closing_ = true;
    close_timer_.cancel();
    ping_timer_.cancel();
    channel_.reset();
    waiting_.clear();
    beast::get_lowest_layer(socket_).close();
    sandbox_->remove_session(*this);
    // Whoever calls this holds us as well.
    kept_.reset();
  }

  websocket::stream<Stream, false> socket_;
  HttpRequest request_;
  std::shared_ptr<Sandbox> sandbox_;
  bool creator_;
  std::string trace_id_;
  std::shared_ptr<void> done_;
  std::shared_ptr<WebSocketSession> kept_;
  uint64_t base_;
  Relay relay_;
  std::unique_ptr<Channel> channel_;
  std::array<char, kReadSize> input_;
  bool accepted_ = false, reading_ = false, writing_ = false, closing_ = false, finished_ = false;
  std::deque<GuestBytes> waiting_;  // taken from the guest when there is room
  std::deque<Part> outgoing_;
  size_t outgoing_bytes_ = 0;
  Part current_{"", true};
  bool mid_message_ = false;
  bool pong_due_ = false;
  bool told_dropped_ = false;
  websocket::close_reason reason_;
  std::chrono::milliseconds client_timeout_;
  std::chrono::steady_clock::time_point last_heard_;
  bool pinging_ = false;
  asio::steady_timer close_timer_, ping_timer_;
};

template <typename Stream>
void run(Stream stream, HttpRequest request, std::shared_ptr<Sandbox> sandbox, bool creator,
         std::string trace_id, std::shared_ptr<void> done, std::chrono::seconds client_timeout) {
  std::make_shared<WebSocketSession<Stream>>(std::move(stream), std::move(request),
                                             std::move(sandbox), creator, std::move(trace_id),
                                             std::move(done), client_timeout)
      ->run();
}

}  // namespace

void run_websocket(PlainStream stream, HttpRequest request, std::shared_ptr<Sandbox> sandbox,
                   bool creator, std::string trace_id, std::shared_ptr<void> done,
                   std::chrono::seconds client_timeout) {
  run(std::move(stream), std::move(request), std::move(sandbox), creator, std::move(trace_id),
      std::move(done), client_timeout);
}

void run_websocket(TlsStream stream, HttpRequest request, std::shared_ptr<Sandbox> sandbox,
                   bool creator, std::string trace_id, std::shared_ptr<void> done,
                   std::chrono::seconds client_timeout) {
  run(std::move(stream), std::move(request), std::move(sandbox), creator, std::move(trace_id),
      std::move(done), client_timeout);
}

}  // namespace hutch::control
