// The verbs `serve` and `env`.
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdio>
#include <memory>

#include "base/log.h"
#include "control/certificates.h"
#include "control/clock.h"
#include "control/commands.h"
#include "control/data_folder.h"
#include "control/machine_guest.h"
#include "control/private_file.h"
#include "control/sandboxes.h"
#include "control/server.h"
#include "control/tls.h"

namespace hutch::control {
namespace {

constexpr std::chrono::seconds kStopTime{10};
// Close frames are on their way.
constexpr std::chrono::milliseconds kCloseTime{300};
constexpr int kExitSignal = 128;

// Each sandbox needs several descriptors here.
void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0)
    log_warning("the limit of open files stays at its default; many sandboxes may exceed it");
}

// Ends what runs, and then the loop, at the first signal; the program at the second.
class Ending {
 public:
  Ending(boost::asio::io_context& context, Server& server, Sandboxes& sandboxes)
      : context_(context),
        server_(server),
        sandboxes_(sandboxes),
        signals_(context, SIGINT, SIGTERM, SIGHUP),
        timer_(context) {
    wait();
  }
  int exit_code() const { return number_ == SIGTERM ? 0 : kExitSignal + number_; }

 private:
  void wait() {
    signals_.async_wait([this](boost::system::error_code error, int number) {
      if (error) return;
      if (number_ != 0) return context_.stop();
      number_ = number;
      log_info("stopping: {} sandboxes end", sandboxes_.count());
      server_.stop();
      stop_in(kStopTime);
      sandboxes_.end_all("the server stops", [this] { stop_in(kCloseTime); });
      wait();
    });
  }
  void stop_in(std::chrono::milliseconds time) {
    timer_.expires_after(time);
    timer_.async_wait([this](boost::system::error_code error) {
      if (!error) context_.stop();
    });
  }

  boost::asio::io_context& context_;
  Server& server_;
  Sandboxes& sandboxes_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer timer_;
  int number_ = 0;
};

// How TLS is served, and the file that makes clients trust it.
struct Tls {
  Server::MakeTls make;
  std::string authority;
};

Tls choose_tls(const Config& config, const DataFolder& folder) {
  if (config.tls_self_made) {
    auto files = [folder = folder.certificates(), names = server_names(config)] {
      return self_made_certificates(folder, names, wall_ms() / 1000);
    };
    auto make = [files] {
      CertificateFiles made = files();
      return make_tls_context(made.certificate, made.key);
    };
    return {make, files().authority};
  }
  if (config.tls_cert.empty()) return {};
  return {[certificate = config.tls_cert, key = config.tls_key] {
            return make_tls_context(certificate, key);
          },
          ""};
}

int serve(const Config& config) {
  ::signal(SIGPIPE, SIG_IGN);
  set_log_level(LogLevel::kInfo);
  raise_file_limit();
  artefacts::Parts parts = value_or_throw(artefacts::find_parts(config.image, config.layer));
  DataFolder folder(config.data_folder);
  Fd lock = folder.lock();
  Store store(folder.database());
  std::string token = folder.local_token(store);
  boost::asio::io_context context(1);
  NetworkLogs logs(folder.events());
  Templates templates(context, folder.templates(parts.scratch), parts, !config.no_templates);
  Shells shells(context, static_cast<size_t>(config.shells), parts);
  Snapshots snapshots(
      context, folder.snapshots(parts.scratch), templates.key(),
      {Templates::identity_of(parts.image) + "\n" + Templates::identity_of(parts.layer),
       config.ipv6},
      static_cast<size_t>(config.max_snapshots));
  Sandboxes sandboxes(context, config, store, snapshots,
                      machine_factory(context, config, parts, logs, templates, shells));
  // The emulated machine's network is the host's alone, and its ports are forwarded there.
  std::string address = artefacts::is_in_machine() ? "0.0.0.0" : config.listen;
  Tls tls = choose_tls(config, folder);
  Server server(context, Services{config, store, sandboxes, snapshots, templates, logs}, address,
                static_cast<uint16_t>(config.port), tls.make);
  Ending ending(context, server, sandboxes);
  fmt::print("{}ready\n", folder.write_environment(config, token, tls.authority));
  std::fflush(stdout);
  context.run();
  return ending.exit_code();
}

}  // namespace

void add_serve(CLI::App& app, std::function<int()>& action) {
  serve_options::ServeVerb verb = serve_options::add_serve(app);
  verb.app->callback([&action, arguments = verb.arguments] {
    action = [arguments] {
      Config config = load_config(arguments->config);
      if (!arguments->print_address) return serve(config);
      fmt::print("{} {}\n", config.listen, config.port);
      return 0;
    };
  });
}

void add_env(CLI::App& app, std::function<int()>& action) {
  serve_options::EnvVerb verb = serve_options::add_env(app);
  verb.app->callback([&action, flags = verb.config] {
    action = [flags] {
      fmt::print("{}", DataFolder::read_environment(load_config(*flags).data_folder));
      return 0;
    };
  });
}

}  // namespace hutch::control
