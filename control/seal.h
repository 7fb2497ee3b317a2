// Seals: what ties the files of a folder together, so that nothing is restored from files that were
// damaged, exchanged or made elsewhere.
//
// The file `seal` has a line with the HMAC-SHA256 (RFC 2104) of the rest, which is a JSON object:
// `files` has the size and the SHA-256 of each file beside it, `about` what the owner says. The
// SHA-256 of a file is that of its pages of 4096 bytes that are not zero, each after its number
// (8 bytes, little endian): holes need not be read, and may be filled by who copies the file.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace hutch::control {

using SealKey = std::array<uint8_t, 16>;

// Seals all files that are in `folder` now. All are on the disk when it returns. Throws
// std::runtime_error.
void seal_folder(const std::string& folder, const SealKey& key, const nlohmann::json& about);
// What is said about the folder; its files are not read. Throws std::runtime_error with what is
// wrong: no seal, or one of another key.
nlohmann::json read_seal(const std::string& folder, const SealKey& key);
// Reads all files. Throws std::runtime_error that names the file that is not as it was sealed.
void check_sealed_files(const std::string& folder, const SealKey& key);
// The content of a seal whose object is `text`.
std::string sealed_text(const SealKey& key, const std::string& text);

}  // namespace hutch::control
