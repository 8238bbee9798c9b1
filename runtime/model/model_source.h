// A checkpoint on disk, whichever format it came in: configuration, named tensors, and what the
// text side needs.
//
// Memory-mapped: tensor bytes stay in the page cache and are valid as long as the source lives.
// Every offset and size in the files is checked before use; errors name file, tensor and reason.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/dtype.h"
#include "runtime/model/model_config.h"
#include "runtime/text/tokenizer_data.h"

namespace spotd::model {

struct TensorView {
  DType type = DType::kF32;
  std::vector<int64_t>
      shape;  // outermost first: [rows, cols] for matrices, as in Hugging Face checkpoints
  const void* data = nullptr;
  size_t bytes = 0;
};

class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual const ModelConfig& config() const = 0;
  // Tensors by Hugging Face name ("model.layers.0.self_attn.q_proj.weight"), whatever the file
  // calls them. NOT_FOUND names file and tensor.
  virtual absl::StatusOr<TensorView> Tensor(const std::string& name) const = 0;
  virtual bool HasTensor(const std::string& name) const = 0;
  // True where Q and K rows are stored in llama.cpp's interleaved-RoPE order and must be re-ordered
  // per head: rotate-half row i of a head is stored row 2i (first half) or 2(i - head_dim/2) + 1
  // (second half).
  virtual bool interleaved_qk_rows() const = 0;
  // Vocabulary, merges, special tokens and chat template.
  virtual const text::TokenizerData& tokenizer_data() const = 0;
  virtual const std::string& path() const = 0;
};

// Opens a .gguf file or a Hugging Face directory. INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED
// (architecture or tensor type not supported) or DATA_LOSS (truncated, corrupt).
absl::StatusOr<std::unique_ptr<ModelSource>> OpenModel(const std::string& path);

}  // namespace spotd::model
