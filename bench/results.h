// How benchmarks tell what they found: one shape for all of them, and a line of progress.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/fd.h"
#include "bench/statistics.h"

namespace hutch::bench {

// {name, unit, clock, n, ours, p50, p90, p99, peer, peer_p90, peer_p99, peer_name,
//  place: {path, kernel, processor, cpus}, ratio: {median, low, high}}
nlohmann::json result_entry(const std::string& name, const char* unit,
                            const std::vector<double>& ours, const std::vector<double>& peer,
                            const char* peer_name);
// Opens the file that results will be written to, for who changes its root before that; `path`
// leads there afterwards as well. Nothing when it is empty. Throws BenchFailure.
Fd open_results(std::string& path);
// Throws BenchFailure.
void write_results(const nlohmann::json& list, const std::string& path);

// A table of such results.
void print_entries(const nlohmann::json& list);
// We run in the emulated machine, and its clock counts instructions (hutch machine start
// --virtual-time).
bool is_virtual_time();
// Where the guests run.
void print_place();
std::string show(const Ratio& ratio);
// On standard error, when that is a terminal; each takes the place of the last.
void show_progress(const std::string& text);

}  // namespace hutch::bench
