// A model set up for measuring: backend, weights, KV store and one sequence, without a server or an
// engine around it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kvstore/kv_store.h"
#include "runtime/model/model_source.h"
#include "runtime/model/transformer.h"

namespace spotd::bench {

struct BenchOptions {
  std::string model;  // .gguf file or Hugging Face directory
  std::string
      selector;  // selector.safetensors; empty: random weights where the policy needs a selector
  std::string text;  // file whose text fills the context; empty: pseudo-random tokens
  std::string backend = "auto";
  int threads = 0;        // 0 = one per core
  int32_t context = 512;  // tokens in the cache when decoding starts
  int32_t batch = 1;      // sequences decoded together (forks of one prompt)
  int32_t steps = 64;     // decode steps measured
  int32_t chunk = 512;    // prefill chunk
  kernels::SelectorKeyFormat selector_format = kernels::SelectorKeyFormat::kInt4;
  model::Policy policy;
};

class BenchModel {
 public:
  // Loads the model and reserves KV for `batch` sequences of context + steps tokens.
  static absl::StatusOr<std::unique_ptr<BenchModel>> Load(const BenchOptions& options);

  kernels::Backend& backend() { return *backend_; }
  model::Transformer& transformer() { return *transformer_; }
  kvstore::KvStore& store() { return *store_; }
  int threads() const { return threads_; }
  // Exactly `count` tokens of the text (repeated as often as needed) or of a seeded generator.
  absl::StatusOr<std::vector<int32_t>> PromptTokens(int32_t count) const;

 private:
  BenchModel() = default;

  BenchOptions options_;
  int threads_ = 1;
  std::unique_ptr<model::ModelSource> source_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<model::Transformer> transformer_;
  std::unique_ptr<kvstore::KvStore> store_;
};

}  // namespace spotd::bench
