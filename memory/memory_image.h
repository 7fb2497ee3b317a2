// A memory image: the content of a guest's RAM in a sparse file, its regions one after another.
// What was never touched, or holds zeros only, is a hole, where 16 pages of it follow each other.
#pragma once

#include "memory/guest_memory.h"

namespace hutch {

// Where the kernel says which pages of this process are there: /proc/self/pagemap (Linux
// Documentation/admin-guide/mm/pagemap.rst). Whoever may not open it any more, because it is not
// dumpable, opens it before.
Result<Fd> open_page_map();

// Writes the image of `memory`, which nobody writes to meanwhile, to the empty file `file`; returns
// the bytes that are no holes. Errors: a full disk.
Result<uint64_t> write_memory_image(const GuestMemory& memory, int page_map, int file);

}  // namespace hutch
