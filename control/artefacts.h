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

// `image` is a name or, with a slash, a path. Throws std::runtime_error that says what is missing
// and where it was looked for.
Artefacts find_artefacts(const std::string& image);

// We run inside the emulated machine (HUTCH_IN_MACHINE=1).
bool is_in_machine();

}  // namespace hutch::control
