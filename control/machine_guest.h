// A guest that is a machine of libhutch, with the RPC service of our agent in it.
#pragma once

#include <boost/asio/io_context.hpp>

#include "artefacts/artefacts.h"
#include "control/channel.h"
#include "control/config.h"
#include "control/network_log.h"

namespace hutch::control {

// Starts machines from `parts`; all must outlive them.
GuestFactory machine_factory(boost::asio::io_context& context, const Config& config,
                             const artefacts::Parts& parts, const NetworkLogs& logs);

}  // namespace hutch::control
