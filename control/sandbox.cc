#include "control/sandbox.h"

#include <boost/asio/post.hpp>

#include "base/log.h"

namespace hutch::control {
namespace {

constexpr uint16_t kGoingAway = 1001;

}  // namespace

Sandbox::Sandbox(boost::asio::io_context& context, GuestOptions options,
                 std::function<void()> ended)
    : context_(context),
      options_(std::move(options)),
      timer_(context),
      ended_(std::move(ended)),
      answer_timer_(context) {}

void Sandbox::start(const GuestFactory& factory, std::function<void()> settled) {
  guest_ = factory(options_, *this);
  options_.from.reset();
  settled_ = std::move(settled);
}

void Sandbox::save(Guest::Saved done) {
  if (!guest_ || state_ != State::kRunning || is_paused_)
    return boost::asio::post(context_, [done = std::move(done)] { done(nullptr); });
  busy_++;
  guest_->save([self = shared_from_this(), done = std::move(done)](const auto& saved) {
    self->busy_--;
    done(saved);
  });
}

void Sandbox::set_paused(bool paused, Ready done) {
  if (state_ != State::kRunning)
    throw Problem(409, "SANDBOX_NOT_RUNNING", "a sandbox is paused and resumed once it serves");
  if (busy_ > 0)
    throw Problem(409, "SANDBOX_BUSY", "the sandbox is being saved, paused or resumed; ask again");
  if (paused == is_paused_) return done(nullptr);
  busy_++;
  guest_->set_paused(
      paused, [self = shared_from_this(), paused, done = std::move(done)](bool good) {
        self->busy_--;
        if (good) {
          self->is_paused_ = paused;
          log_info("{}: {}", self->id(), paused ? "stands still" : "goes on");
          return done(nullptr);
        }
        Problem problem(500, "SANDBOX_PAUSE_FAILED",
                        "the sandbox cannot be paused or resumed; the server's log says why");
        done(&problem);
      });
}

void Sandbox::fail(const Problem& problem) {
  problem_ = problem;
  on_ended(problem.what());
}

void Sandbox::when_ready(Ready ready) {
  if (state_ == State::kStarting) {
    waiting_.push_back(std::move(ready));
  } else if (state_ == State::kRunning) {
    ready(nullptr);
  } else {
    Problem problem = problem_.value_or(
        Problem(400, "SANDBOX_ALREADY_TERMINATED", "the sandbox has been terminated"));
    ready(&problem);
  }
}

void Sandbox::add_session(Session& session, bool creator) {
  sessions_.insert(&session);
  if (creator) creator_ = &session;
}

void Sandbox::remove_session(Session& session) {
  if (sessions_.erase(&session) == 0) return;
  if (creator_ != &session) return;
  creator_ = nullptr;
  if (!deadline_ms_) end("the creator's connection has ended");
}

std::unique_ptr<Channel> Sandbox::open_channel(ChannelEvents& events, uint64_t stream_base) {
  return guest_->open_channel(events, stream_base);
}

void Sandbox::set_policy(policy::Policy policy) {
  if (!options_.egress) throw no_network();
  if (guest_) guest_->set_policy(policy);
  options_.egress = std::move(policy);
}

void Sandbox::set_deadline(int64_t at_ms) {
  deadline_ms_ = at_ms;
  timer_.set(at_ms, [this] { end("the sandbox's timeout has passed"); });
}

void Sandbox::close_sessions(std::string_view reason) {
  std::set<Session*> sessions = std::move(sessions_);
  sessions_.clear();
  creator_ = nullptr;
  for (Session* session : sessions) session->end(kGoingAway, reason);
}

void Sandbox::end(std::string_view reason, std::function<void()> done) {
  if (state_ == State::kEnded) {
    if (done) done();
    return;
  }
  if (done) {
    answers_.push_back(std::move(done));
    if (answers_.size() == 1) {
      answer_timer_.expires_after(kAnswerTime);
      answer_timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
        std::shared_ptr<Sandbox> self = weak.lock();
        if (!error && self) self->answer();
      });
    }
  }
  if (state_ == State::kEnding) return;
  bool started = state_ == State::kRunning;
  state_ = State::kEnding;
  timer_.cancel();
  log_info("{}: ends: {}", id(), reason);
  if (!started)
    problem_ = Problem(400, "SANDBOX_ALREADY_TERMINATED", "the sandbox ended while it started");
  close_sessions(reason);
  if (guest_) {
    guest_->end();
  } else {
    boost::asio::post(context_,
                      [self = shared_from_this()] { self->on_ended("it had not started"); });
  }
}

void Sandbox::on_ready(Way way) {
  if (state_ != State::kStarting) return;
  way_ = way;
  state_ = State::kRunning;
  std::shared_ptr<Sandbox> self = shared_from_this();
  for (Ready& ready : std::exchange(waiting_, {})) ready(nullptr);
  if (auto settled = std::exchange(settled_, nullptr)) settled();
}

void Sandbox::on_ended(const std::string& reason) {
  if (state_ == State::kEnded) return;
  std::shared_ptr<Sandbox> self = shared_from_this();
  if (state_ != State::kEnding) log_warning("{}: its machine ended: {}", id(), reason);
  if (state_ == State::kStarting && !problem_)
    problem_ = Problem(500, "SANDBOX_START_FAILED",
                       "the sandbox's machine did not start; the server's log says why");
  state_ = State::kEnded;
  timer_.cancel();
  close_sessions("the sandbox has ended");
  guest_.reset();
  for (Ready& ready : std::exchange(waiting_, {})) ready(&*problem_);
  if (auto settled = std::exchange(settled_, nullptr)) settled();
  if (auto ended = std::exchange(ended_, nullptr)) ended();
  answer_timer_.cancel();
  answer();
}

void Sandbox::answer() {
  for (std::function<void()>& done : std::exchange(answers_, {})) done();
}

}  // namespace hutch::control
