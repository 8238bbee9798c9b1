#include "kernels/cpu/weight_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>

namespace spotd::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMappingBytes = size_t{32} << 20;
constexpr size_t kAlignment = 64;

size_t RoundUp(size_t n, size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// An anonymous mapping, filled from its start.
class Mapping {
 public:
  explicit Mapping(size_t bytes) : mapped_bytes_(bytes + kHugePage) {
    base_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED) return;
    const size_t past_huge_page = reinterpret_cast<uintptr_t>(base_) % kHugePage;
    next_ = static_cast<uint8_t*>(base_) + (kHugePage - past_huge_page) % kHugePage;
    left_ = bytes;
    // Advice only: where the kernel refuses, small pages serve as well, just slower.
    madvise(next_, bytes, MADV_HUGEPAGE);
  }
  ~Mapping() {
    if (base_ != MAP_FAILED) munmap(base_, mapped_bytes_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Null when the rest is too small.
  uint8_t* Take(size_t bytes) {
    if (left_ < bytes) return nullptr;
    uint8_t* const taken = next_;
    const size_t used = std::min(RoundUp(bytes, kAlignment), left_);
    next_ += used;
    left_ -= used;
    return taken;
  }

 private:
  void* base_ = MAP_FAILED;
  size_t mapped_bytes_;
  uint8_t* next_ = nullptr;
  size_t left_ = 0;
};

}  // namespace

std::shared_ptr<uint8_t> AllocateWeightMemory(size_t bytes) {
  static std::mutex mutex;
  static std::weak_ptr<Mapping> newest;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Mapping> mapping = newest.lock();
  uint8_t* taken = mapping == nullptr ? nullptr : mapping->Take(bytes);
  if (taken == nullptr) {
    mapping = std::make_shared<Mapping>(std::max(RoundUp(bytes, kHugePage), kMappingBytes));
    taken = mapping->Take(bytes);
    newest = mapping;
  }
  return {std::move(mapping), taken};
}

}  // namespace spotd::kernels
