#include "vmm/loop_thread.h"

#include "base/log.h"

namespace hutch::vmm {
namespace {
constexpr size_t kThreadStack = 256 * 1024;
}  // namespace

Result<std::unique_ptr<LoopThread>> LoopThread::start(ThreadKind kind) {
  std::unique_ptr<LoopThread> self(new LoopThread(TRY(Loop::create()), kind));
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, kThreadStack);
  int status = ::pthread_create(&self->thread_, &attributes, entry, self.get());
  ::pthread_attr_destroy(&attributes);
  if (status != 0) return fail_errno(status, fmt::format("starting the thread {}", name(kind)));
  self->joinable_ = true;
  return self;
}

LoopThread::~LoopThread() {
  if (!joinable_) return;
  loop_->stop();
  ::pthread_join(thread_, nullptr);
}

Result<void> LoopThread::check_narrow() {
  state_.wait(State::kStarting);
  if (state_.load() != State::kNarrow)
    return fail(fmt::format("the thread {} could not narrow itself", name(kind_)));
  return {};
}

void* LoopThread::entry(void* self) {
  static_cast<LoopThread*>(self)->run();
  return nullptr;
}

void LoopThread::run() {
  Result<void> narrowed = install_seccomp(kind_);
  if (!narrowed) log_error("{}", narrowed.error().text());
  state_.store(narrowed ? State::kNarrow : State::kFailed);
  state_.notify_all();
  if (!narrowed) return;
  if (Result<void> ran = loop_->run(); !ran) log_error("{}: {}", name(kind_), ran.error().text());
}

}  // namespace hutch::vmm
