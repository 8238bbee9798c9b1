// A checkpoint with its quantised weights unpacked: the same model without the rounding of
// activations that quantised products bring.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/status.h"
#include "runtime/model/model_source.h"
#include "runtime/model/tensor_convert.h"

namespace spotd::model {

// The same checkpoint with every matrix in F32. A tensor's data is valid until the next one is
// asked for.
class UnpackedSource : public ModelSource {
 public:
  explicit UnpackedSource(std::unique_ptr<ModelSource> inner) : inner_(std::move(inner)) {}
  const ModelConfig& config() const override { return inner_->config(); }
  bool HasTensor(const std::string& name) const override { return inner_->HasTensor(name); }
  bool interleaved_qk_rows() const override { return inner_->interleaved_qk_rows(); }
  const text::TokenizerData& tokenizer_data() const override { return inner_->tokenizer_data(); }
  const std::string& path() const override { return inner_->path(); }
  absl::StatusOr<TensorView> Tensor(const std::string& name) const override {
    SPOTD_ASSIGN_OR_RETURN(const TensorView tensor, inner_->Tensor(name));
    floats_ = ToFloats(tensor);
    return TensorView{DType::kF32, tensor.shape, floats_.data(), floats_.size() * sizeof(float)};
  }

 private:
  std::unique_ptr<ModelSource> inner_;
  mutable std::vector<float> floats_;
};

}  // namespace spotd::model
