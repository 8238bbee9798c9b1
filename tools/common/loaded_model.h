// A model set up for measuring, without a server or an engine around it: backend, weights,
// tokenizer and KV store. Shared by spot-bench and spot-eval.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kvstore/kv_store.h"
#include "runtime/model/model_source.h"
#include "runtime/model/transformer.h"
#include "runtime/text/tokenizer.h"

namespace spotd::tools {

struct ModelOptions {
  std::string model;     // .gguf file, Hugging Face directory or "synthetic:qwen3-8b" and the like
  std::string selector;  // selector.safetensors; empty: none
  // Not empty: the contents of that file, which is not opened. Must outlive the model.
  std::string_view selector_bytes;
  bool random_selector =
      false;  // without a selector file, use random weights: right speed, useless choices
  std::string backend = "auto";
  int threads = 0;            // 0 = one per core
  int32_t max_context = 512;  // tokens of a sequence
  int32_t max_batch = 1;      // sequences in a decode step
  int32_t sequences = 1;      // sequences of max_context tokens the KV store has room for
  int64_t kv_tokens = 0;      // > 0: room for this many tokens instead
  int32_t chunk = 512;        // prefill chunk
  bool summaries = true;      // keep the bounds of keys that quest reads
  kernels::SelectorKeyFormat selector_format = kernels::SelectorKeyFormat::kInt4;
  // Nullable. Puts an instrument in front of the backend that the model will run on.
  std::function<std::unique_ptr<kernels::Backend>(std::unique_ptr<kernels::Backend>)> wrap_backend;
};

class LoadedModel {
 public:
  static absl::StatusOr<std::unique_ptr<LoadedModel>> Load(const ModelOptions& options);

  kernels::Backend& backend() { return *backend_; }
  model::Transformer& transformer() { return *transformer_; }
  kvstore::KvStore& store() { return *store_; }
  // A synthetic model has none.
  bool has_tokenizer() const { return tokenizer_ != nullptr; }
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  const model::ModelSource& source() const { return *source_; }
  int threads() const { return threads_; }

  // Appends the tokens to the table, chunk by chunk.
  absl::Status Prefill(std::span<const int32_t> tokens, kvstore::BlockTable* table);

 private:
  LoadedModel() = default;

  int threads_ = 1;
  int32_t chunk_ = 0;
  std::unique_ptr<model::ModelSource> source_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<model::Transformer> transformer_;
  std::unique_ptr<kvstore::KvStore> store_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
};

// The contents of a UTF-8 text file as tokens. Errors name the path.
absl::StatusOr<std::vector<int32_t>> TokensOfFile(const std::string& path,
                                                  const text::Tokenizer& tokenizer);

}  // namespace spotd::tools
