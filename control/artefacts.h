// What sandboxes are made of, and where it lies: HUTCH_SHARE, or share/hutch beside the program or
// its folder, as for the other programs of hutch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hutch::control {

struct Artefacts {
  std::string kernel;
  std::string initramfs;
  std::string image;  // EROFS
  std::string layer;  // template of the writable layer, ext4
  // Where the template has data, pairs of offset and size, when its file system cannot tell
  // (HUTCH_LAYER_EXTENTS); empty: it can.
  std::vector<uint64_t> layer_extents;
  std::string vmm;
  std::string scratch;  // folder for the private copies of the layer
};

// `image` and `layer` are each a name or, with a slash, a path. Throws std::runtime_error that says
// what is missing and where it was looked for.
Artefacts find_artefacts(const std::string& image, const std::string& layer);

// Throws a Problem when `folder` has less than this free for the private copies.
void check_free_space(const std::string& folder, int64_t reserve_mb);

// We run inside the emulated machine (HUTCH_IN_MACHINE=1).
bool is_in_machine();

}  // namespace hutch::control
