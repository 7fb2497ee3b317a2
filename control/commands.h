// The verbs of hutch-serve.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace hutch::control {

// Each adds its verb, which sets `action` when it is chosen; the exit code is its result.
void add_serve(CLI::App& app, std::function<int()>& action);
void add_env(CLI::App& app, std::function<int()>& action);
void add_token(CLI::App& app, std::function<int()>& action);
void add_network(CLI::App& app, std::function<int()>& action);
void add_life(CLI::App& app, std::function<int()>& action);

}  // namespace hutch::control
