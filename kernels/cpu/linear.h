// Linear and Embed of the CPU backend.
//
// Thread-safety: as Backend, one call at a time per pool and scratch.
#pragma once

#include <vector>

#include "kernels/args.h"
#include "kernels/core/thread_pool.h"

namespace spotd::kernels {

// Working memory of CpuLinear, kept between calls so that a steady state allocates nothing.
class LinearScratch {
 public:
  // At least `floats` floats per thread, uninitialised.
  float* Floats(size_t floats) {
    if (floats_.size() < floats) floats_.resize(floats);
    return floats_.data();
  }

 private:
  std::vector<float> floats_;
};

// Backend::Linear and Backend::Logits. Every weight was made by MakeCpuWeight.
void CpuLinear(const LinearArgs& args, ThreadPool& pool, LinearScratch& scratch);

// Backend::Embed.
void CpuEmbed(const EmbedArgs& args, ThreadPool& pool);

}  // namespace spotd::kernels
