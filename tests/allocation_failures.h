// Replaces operator new of the program that includes it, once, with one that can be told to fail.
//
// Thread-safety: the count is the calling thread's own, so that only what it does itself fails.
#pragma once

#include <cstdlib>
#include <new>

namespace spotd::testing {

// Allocations left until one fails; below 0: none does.
inline thread_local long allocations_left = -1;  // NOLINT(runtime/int)

// Runs `work` with the n-th allocation of this thread failing, for n = 1, 2, ... until none does;
// beyond the 200th in growing strides. `work` says what it makes of a failure, and must not let
// std::bad_alloc out. Returns how many times one failed.
template <typename Work>
int FailEachAllocation(const Work& work) {
  int failed = 0;
  for (long n = 1;; n += n < 200 ? 1 : n / 16) {  // NOLINT(runtime/int)
    allocations_left = n;
    work();
    const bool none = allocations_left > 0;
    allocations_left = -1;
    if (none) return failed;
    ++failed;
  }
}

inline void* Allocate(std::size_t bytes, std::size_t alignment) {
  if (allocations_left > 0 && --allocations_left == 0) return nullptr;
  if (bytes == 0) bytes = 1;
  return alignment == 0
             ? std::malloc(bytes)
             : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

inline void* AllocateOrThrow(std::size_t bytes, std::size_t alignment = 0) {
  void* memory = Allocate(bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace spotd::testing

// The standard library's other forms call these.
void* operator new(std::size_t bytes) {
  return spotd::testing::AllocateOrThrow(bytes);
}
void* operator new[](std::size_t bytes) {
  return spotd::testing::AllocateOrThrow(bytes);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return spotd::testing::AllocateOrThrow(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return spotd::testing::AllocateOrThrow(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return spotd::testing::Allocate(bytes, 0);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return spotd::testing::Allocate(bytes, 0);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
