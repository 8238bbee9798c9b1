// Memory of the CPU backend's buffers.
#pragma once

#include <cstddef>

namespace spotd::kernels::cpu {

// Uninitialised, aligned to at least 64 bytes; null when there is no room. Large blocks are mapped
// lazily and ask for huge pages: a sparse attend jumps between blocks of the cache, and with 4 KiB
// pages each jump also misses the TLB.
void* AllocateHost(size_t bytes);

// `bytes` as given to AllocateHost. Null is allowed.
void FreeHost(void* data, size_t bytes);

}  // namespace spotd::kernels::cpu
