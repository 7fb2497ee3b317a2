// A guest that is a machine of libhutch, with the RPC service of our agent in it.
#pragma once

#include <boost/asio/io_context.hpp>

#include "artefacts/artefacts.h"
#include "control/channel.h"
#include "control/config.h"

namespace hutch::control {

// Starts machines from `parts`, which, as `context` and `config`, must outlive them.
GuestFactory machine_factory(boost::asio::io_context& context, const Config& config,
                             const artefacts::Parts& parts);

}  // namespace hutch::control
