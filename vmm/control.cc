#include "vmm/control.h"

#include <malloc.h>

#include "base/log.h"
#include "base/sys.h"
#include "vmm/machine.h"

namespace hutch::vmm {
namespace {

using namespace protocol::vmm;

class Session final : public MachineListener {
 public:
  Session(Fd socket, Fd page_map, std::unique_ptr<Loop> loop)
      : socket_(std::move(socket)), page_map_(std::move(page_map)), loop_(std::move(loop)) {}

  Result<void> run() {
    ReceivedMessage message = TRY(receive_message(socket_.get(), kMaxMessage));
    std::optional<Shell> shell;
    if (!message.bytes.empty() && TRY(type_of(message.bytes)) == MessageType::kPrepare) {
      Prepare prepare = TRY(decode_prepare(message.bytes, std::move(message.fds)));
      shell = TRY(Shell::create(std::move(prepare.kvm)));
      message = TRY(receive_message(socket_.get(), kMaxMessage));
    }
    if (message.bytes.empty()) return fail("the launcher closed the control socket before Start");
    Start start = TRY(decode_start(message.bytes, std::move(message.fds)));
    if (!shell && !start.kvm)
      return fail("Start without a /dev/kvm, and without Prepare before it");
    machine_ =
        TRY(Machine::create(std::move(start), std::move(shell), page_map_.get(), *loop_, *this));
    watch_ = TRY(loop_->watch(socket_.get(), EPOLLIN, [this](uint32_t) { on_message(); }));
    TRY(machine_->release());
    return loop_->run();
  }

  // Tells the launcher how it ended. The socket may be gone with the launcher.
  int finish(const Result<void>& ran) {
    Ended ended;
    if (!ran) {
      ended.reason = EndReason::kHostError;
      ended.message = ran.error().message;
      ended.remedy = ran.error().remedy;
    } else {
      ended.reason = ending_.reason;
      ended.message = ending_.message;
      ended.remedy = ending_.remedy;
    }
    if (machine_ != nullptr) {
      ended.console_tail = machine_->console_tail();
      ended.report = machine_->report();
    }
    send(encode(ended));
    return ended.reason == EndReason::kHostError ? 1 : 0;
  }

 private:
  void on_mark(Mark mark) override { send(encode(mark)); }
  void on_paused() override { send(encode_plain(MessageType::kPaused)); }

  void on_stopped(const Ending& ending) override {
    ending_ = ending;
    loop_->stop();
  }

  void on_message() {
    Result<void> handled = handle_message();
    if (!handled) {
      machine_->stop({EndReason::kHostError, handled.error().message, handled.error().remedy});
      watch_.reset();
    }
  }

  Result<void> handle_message() {
    ReceivedMessage message = TRY(receive_message(socket_.get(), kMaxMessage));
    if (message.bytes.empty()) {
      watch_.reset();
      machine_->stop({EndReason::kStopped, "the launcher went away", {}});
      return {};
    }
    switch (TRY(type_of(message.bytes))) {
      case MessageType::kQuery:
        send(encode(machine_->report()));
        return {};
      case MessageType::kStop:
        machine_->stop({EndReason::kStopped, "stopped by the launcher", {}});
        return {};
      case MessageType::kConnect: {
        Connect connect = TRY(decode_connect(message.bytes, std::move(message.fds)));
        return machine_->connect(connect.port, std::move(connect.stream));
      }
      case MessageType::kPolicy:
        return machine_->set_policy(TRY(decode_policy(message.bytes)));
      case MessageType::kPause:
        return machine_->pause();
      case MessageType::kResume:
        TRY(machine_->resume());
        send(encode_plain(MessageType::kResumed));
        return {};
      case MessageType::kSave:
        send(encode(TRY(machine_->save(TRY(decode_save(message.bytes, std::move(message.fds)))))));
        return {};
      case MessageType::kRecordPages: {
        RecordPages wanted = TRY(decode_record_pages(message.bytes, std::move(message.fds)));
        send(encode(machine_->record_pages(wanted.file.get())));
        return {};
      }
      default:
        return fail("a message that only the VMM sends");
    }
  }

  void send(const Packet& packet) {
    // A launcher that is gone is noticed where its end of the socket is read.
    Result<void> sent = send_message(socket_.get(), packet.bytes, packet.fds);
    if (!sent) log_debug("{}", sent.error().text());
  }

  Fd socket_;
  Fd page_map_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Machine> machine_;
  Watch watch_;
  Ending ending_;
};

}  // namespace

int serve_control(Fd socket, Fd page_map) {
  // One heap for all threads: less memory, and fewer system calls to allow.
  ::mallopt(M_ARENA_MAX, 1);
  Result<std::unique_ptr<Loop>> loop = Loop::create();
  if (!loop) {
    log_error("{}", loop.error().text());
    return 1;
  }
  // Never destroyed: the process ends at once, and its filter allows no more than it must.
  auto* session = new Session(std::move(socket), std::move(page_map), *std::move(loop));
  return session->finish(session->run());
}

}  // namespace hutch::vmm
