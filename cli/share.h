// The places of artefacts/artefacts.h, with a Failure where something is missing.
#pragma once

#include <string>

#include "artefacts/artefacts.h"

namespace hutch::cli {

using artefacts::is_in_machine;
using artefacts::kAgentProgram;
using artefacts::kBrokerProgram;
using artefacts::kInitramfsFile;
using artefacts::kKernelFile;
using artefacts::kLayerFile;
using artefacts::kMachineInitrdFile;
using artefacts::kMachineKernelFile;
using artefacts::kServeProgram;
using artefacts::kVmmProgram;

// See artefacts::executable_path and the others.
std::string executable_path();
std::string find_shared(const std::string& name);
std::string find_program(const std::string& name);
std::string find_image(const std::string& name);

}  // namespace hutch::cli
