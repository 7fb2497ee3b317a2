#include "lib/broker_process.h"

#include <sys/socket.h>

#include "base/sys.h"

namespace hutch::lib {

namespace wire = protocol::broker;

Result<std::unique_ptr<BrokerProcess>> BrokerProcess::start(NetworkOptions options, Fd vmm, int log,
                                                            bool end_with_thread) {
  auto [ours, theirs] = TRY(socket_pair(SOCK_SEQPACKET));
  Child child = TRY(start_child({.path = options.broker_path,
                                 .control = theirs.get(),
                                 .log = log,
                                 .end_with_thread = end_with_thread}));
  std::unique_ptr<BrokerProcess> self(new BrokerProcess(std::move(child), std::move(ours)));
  std::vector<int> fds{vmm.get()};
  if (options.log) fds.push_back(options.log.get());
  wire::Configure configure;
  configure.policy = std::move(options.policy);
  configure.opened = std::move(options.opened);
  configure.ipv6 = options.ipv6;
  configure.servers = std::move(options.servers);
  configure.log = std::move(options.log);
  configure.log_limit = options.log_limit;
  TRY_CONTEXT("configuring the broker",
              send_message(self->control_.get(), wire::encode(configure), fds));
  return self;
}

BrokerProcess::~BrokerProcess() {
  control_.reset();
  kill_child(child_);
}

Result<void> BrokerProcess::set_policy(const wire::Policy& policy) {
  return send_message(control_.get(), wire::encode(policy), {});
}

}  // namespace hutch::lib
