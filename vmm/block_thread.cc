#include "vmm/block_thread.h"

#include "base/log.h"
#include "vmm/seccomp.h"

namespace hutch::vmm {
namespace {
constexpr size_t kThreadStack = 256 * 1024;
}  // namespace

Result<std::unique_ptr<BlockThread>> BlockThread::start() {
  std::unique_ptr<BlockThread> self(new BlockThread(TRY(Loop::create())));
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, kThreadStack);
  int status = ::pthread_create(&self->thread_, &attributes, entry, self.get());
  ::pthread_attr_destroy(&attributes);
  if (status != 0) return fail_errno(status, "starting the disks' thread");
  self->joinable_ = true;
  return self;
}

BlockThread::~BlockThread() {
  if (!joinable_) return;
  loop_->stop();
  ::pthread_join(thread_, nullptr);
}

Result<void> BlockThread::check_narrow() {
  state_.wait(State::kStarting);
  if (state_.load() != State::kNarrow) return fail("the disks' thread could not narrow itself");
  return {};
}

void* BlockThread::entry(void* self) {
  static_cast<BlockThread*>(self)->run();
  return nullptr;
}

void BlockThread::run() {
  Result<void> narrowed = install_seccomp(ThreadKind::kBlock);
  if (!narrowed) log_error("{}", narrowed.error().text());
  state_.store(narrowed ? State::kNarrow : State::kFailed);
  state_.notify_all();
  if (!narrowed) return;
  if (Result<void> ran = loop_->run(); !ran) log_error("disks: {}", ran.error().text());
}

}  // namespace hutch::vmm
