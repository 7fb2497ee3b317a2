// The modes of the agent's program beside the agent itself: each is a process of its own, which the
// agent starts (protocol::agent::Spawn::agent_program).
//
//   rpc [NAME]                  the service of a sandbox. It ends when its standard input ends
//   rpc-attach BASE [NAME]      one client on the standard input and output; BASE is the first of
//   2^20
//                               numbers for the streams that the service opens to it
//   rpc-repl NAME TOKEN PROGRAM ARGUMENTS...
//                               executes the program with a socket to the service as descriptor 3
//
// NAME is the service's abstract Unix socket, "hutch-rpc" unless given.
#pragma once

#include <optional>

namespace hutch::agent::rpc {

// Runs the mode that words[0] names and returns its exit status; nothing when there is no such
// mode.
std::optional<int> run_mode(int count, char** words);

}  // namespace hutch::agent::rpc
