#include "kernels/cuda/graph_cache.h"

namespace spotd::kernels::cuda {

GraphCache::Entry& GraphCache::Touch(uint64_t key, bool& is_new) {
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    is_new = false;
    entries_.splice(entries_.begin(), entries_, found->second);
    return entries_.front();
  }
  is_new = true;
  if (entries_.size() >= capacity_) {
    // A graph may be destroyed while it runs: the driver keeps it until it has finished.
    if (entries_.back().graph != nullptr) cudaGraphExecDestroy(entries_.back().graph);
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
  entries_.push_front({key});
  by_key_[key] = entries_.begin();
  return entries_.front();
}

cudaError_t GraphCache::Capture(cudaStream_t stream, const std::function<void()>& issue,
                                cudaGraphExec_t* graph) {
  cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) return error;
  issue();
  cudaGraph_t captured = nullptr;
  error = cudaStreamEndCapture(stream, &captured);
  if (error != cudaSuccess) return error;
  error = cudaGraphInstantiate(graph, captured, 0);
  cudaGraphDestroy(captured);
  return error;
}

cudaError_t GraphCache::Run(uint64_t key, cudaStream_t stream, const std::function<void()>& issue) {
  bool is_new = false;
  Entry& entry = Touch(key, is_new);
  if (is_new) {
    issue();
    return cudaSuccess;
  }
  if (entry.graph == nullptr) {
    const cudaError_t error = Capture(stream, issue, &entry.graph);
    if (error != cudaSuccess) {
      entry.graph = nullptr;
      cudaGetLastError();  // a failed capture leaves the device as it was
      issue();
      return cudaSuccess;
    }
  }
  return cudaGraphLaunch(entry.graph, stream);
}

void GraphCache::Clear() {
  for (Entry& entry : entries_) {
    if (entry.graph != nullptr) cudaGraphExecDestroy(entry.graph);
  }
  entries_.clear();
  by_key_.clear();
}

}  // namespace spotd::kernels::cuda
