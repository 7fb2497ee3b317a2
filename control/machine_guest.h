// A guest that is a machine of libhutch, with the RPC service of our agent in it: forked from a
// template where there is one of its shape, else booted, and then saved as one.
#pragma once

#include <boost/asio/io_context.hpp>

#include "artefacts/artefacts.h"
#include "control/channel.h"
#include "control/config.h"
#include "control/network_log.h"
#include "control/shells.h"
#include "control/templates.h"

namespace hutch::control {

// Starts machines from `parts`; all must outlive them.
GuestFactory machine_factory(boost::asio::io_context& context, const Config& config,
                             const artefacts::Parts& parts, const NetworkLogs& logs,
                             Templates& templates, Shells& shells);

}  // namespace hutch::control
