// Captured CUDA graphs of steps, by key: the least recently used goes when there are too many.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <unordered_map>

namespace spotd::kernels::cuda {

// Not thread-safe. A key's first step runs directly, so that lazily loaded kernels and scratch
// memory settle; the second is captured; later ones are replayed.
class GraphCache {
 public:
  explicit GraphCache(size_t capacity) : capacity_(capacity) {}
  ~GraphCache() { Clear(); }
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  // Runs one step on `stream`; `issue` enqueues its work there. A step that cannot be captured runs
  // directly.
  cudaError_t Run(uint64_t key, cudaStream_t stream, const std::function<void()>& issue);

  // Forgets every graph: the memory they point to is about to move. The stream must be idle.
  void Clear();

 private:
  struct Entry {
    uint64_t key;
    cudaGraphExec_t graph = nullptr;
  };
  Entry& Touch(uint64_t key, bool& is_new);
  cudaError_t Capture(cudaStream_t stream, const std::function<void()>& issue,
                      cudaGraphExec_t* graph);

  size_t capacity_;
  std::list<Entry> entries_;  // most recently used first
  std::unordered_map<uint64_t, std::list<Entry>::iterator> by_key_;
};

}  // namespace spotd::kernels::cuda
