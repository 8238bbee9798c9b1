#include "kernels/cpu/host_memory.h"

#include <sys/mman.h>

#include <cstdlib>

namespace spotd::kernels::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMapped = size_t{1} << 20;  // from here on, mmap

void* Map(size_t bytes) {
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  madvise(data, bytes, MADV_HUGEPAGE);  // advice: refused on kernels built without it
  return data;
}

}  // namespace

void* AllocateHost(size_t bytes) {
  if (bytes >= kMapped) return Map(bytes);
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return std::aligned_alloc(kAlignment, rounded == 0 ? kAlignment : rounded);
}

void FreeHost(void* data, size_t bytes) {
  if (data == nullptr) return;
  if (bytes >= kMapped) {
    munmap(data, bytes);
  } else {
    std::free(data);
  }
}

}  // namespace spotd::kernels::cpu
