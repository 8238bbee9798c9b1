// Memory for packed weights, cut from large mappings that ask for huge pages: a decode step streams
// every weight once, and with 4 KiB pages address translation costs a fifth of the read rate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace spotd::kernels {

// Zeroed bytes, aligned to 64; freed (with its mapping, once that holds no other weight) when the
// last copy of the pointer goes. Null when the system has no memory. Thread-safe.
std::shared_ptr<uint8_t> AllocateWeightMemory(size_t bytes);

}  // namespace spotd::kernels
