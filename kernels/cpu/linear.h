// Linear and Embed of the CPU backend.
//
// A weight row's product with an activation row is the same, bit for bit, whatever the number of
// rows and threads. Quantised weights meet activations rounded to int8, one scale per 32 columns;
// float, fp16 and bf16 weights meet them in float.
//
// Thread-safety: as Backend, one call at a time per pool and scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/args.h"
#include "kernels/core/thread_pool.h"

namespace spotd::kernels {

// Working memory of CpuLinear, kept between calls so that a steady state allocates nothing. Grows
// to what the largest call needs, at most 48 MiB (more only where 64 rows need more).
class LinearScratch {
 public:
  // Makes data() hold at least `bytes`, aligned to 64, uninitialised.
  void Reserve(size_t bytes);
  std::byte* data() const { return data_.get(); }

  // Tiles that each thread makes for itself: ClaimPrivateTile is true for a thread's first call
  // after BeginPrivateTiles.
  void BeginPrivateTiles(int threads);
  bool ClaimPrivateTile(int thread);

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  struct alignas(64) Claim {
    uint64_t call = 0;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t bytes_ = 0;
  std::vector<Claim> claims_;
  uint64_t call_ = 0;
};

// Backend::Linear and Backend::Logits, with float outputs. Every weight was made by MakeCpuWeight.
void CpuLinear(const LinearArgs& args, ThreadPool& pool, LinearScratch& scratch);

// Backend::Embed.
void CpuEmbed(const EmbedArgs& args, ThreadPool& pool);

}  // namespace spotd::kernels
