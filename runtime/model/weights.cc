#include "runtime/model/weights.h"

#include <cmath>
#include <string>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/model/tensor_convert.h"

namespace spotd::model {
namespace {

using kernels::Buffer;

// Row r of a matrix of `heads` rotate-half heads is row order[r] of one stored with interleaved
// pairs.
std::vector<int32_t> InterleavedRowOrder(int32_t heads, int32_t head_dim) {
  std::vector<int32_t> order(static_cast<size_t>(heads) * head_dim);
  const int32_t half = head_dim / 2;
  for (int32_t h = 0; h < heads; ++h) {
    for (int32_t i = 0; i < head_dim; ++i) {
      const int32_t stored = i < half ? 2 * i : 2 * (i - half) + 1;
      order[static_cast<size_t>(h * head_dim + i)] = h * head_dim + stored;
    }
  }
  return order;
}

class Loader {
 public:
  Loader(kernels::Backend* backend, const ModelSource& source, const SelectorSource* selector)
      : backend_(backend), source_(source), selector_(selector), config_(source.config()) {
    if (source.interleaved_qk_rows()) {
      q_order_ = InterleavedRowOrder(config_.q_heads, config_.head_dim);
      k_order_ = InterleavedRowOrder(config_.kv_heads, config_.head_dim);
    }
  }

  absl::StatusOr<ModelWeights> Load() {
    ModelWeights out;
    const int64_t hidden = config_.hidden;
    SPOTD_ASSIGN_OR_RETURN(out.embedding,
                           Matrix("model.embed_tokens.weight", config_.vocab, hidden));
    const size_t embedding_bytes = total_bytes_;
    if (!config_.tied_embeddings) {
      SPOTD_ASSIGN_OR_RETURN(out.head, Matrix("lm_head.weight", config_.vocab, hidden));
    }
    SPOTD_ASSIGN_OR_RETURN(out.final_norm, Vector("model.norm.weight", hidden));
    for (int32_t layer = 0; layer < config_.layers; ++layer) {
      SPOTD_ASSIGN_OR_RETURN(LayerWeights weights, LoadLayer(layer));
      out.layers.push_back(std::move(weights));
    }
    SPOTD_RETURN_IF_ERROR(LoadRope(&out));
    out.full_precision = all_fp32_;
    out.total_bytes = total_bytes_;
    out.decode_bytes = config_.tied_embeddings ? total_bytes_ : total_bytes_ - embedding_bytes;
    return out;
  }

 private:
  absl::StatusOr<LayerWeights> LoadLayer(int32_t layer) {
    LayerWeights out;
    SPOTD_RETURN_IF_ERROR(LoadAttention(Concat("model.layers.", layer, "."), &out));
    SPOTD_RETURN_IF_ERROR(LoadFeedForward(Concat("model.layers.", layer, "."), &out));
    if (selector_ != nullptr) SPOTD_RETURN_IF_ERROR(LoadSelector(layer, &out));
    return out;
  }

  absl::Status LoadAttention(const std::string& prefix, LayerWeights* out) {
    const int64_t hidden = config_.hidden;
    const int64_t q_dim = int64_t{config_.q_heads} * config_.head_dim;
    const int64_t kv_dim = int64_t{config_.kv_heads} * config_.head_dim;
    const std::string attn = prefix + "self_attn.";
    SPOTD_ASSIGN_OR_RETURN(out->attn_norm, Vector(prefix + "input_layernorm.weight", hidden));
    SPOTD_ASSIGN_OR_RETURN(out->q, Matrix(attn + "q_proj.weight", q_dim, hidden, q_order_));
    SPOTD_ASSIGN_OR_RETURN(out->k, Matrix(attn + "k_proj.weight", kv_dim, hidden, k_order_));
    SPOTD_ASSIGN_OR_RETURN(out->v, Matrix(attn + "v_proj.weight", kv_dim, hidden));
    SPOTD_ASSIGN_OR_RETURN(out->o, Matrix(attn + "o_proj.weight", hidden, q_dim));
    if (config_.qkv_bias) {
      SPOTD_ASSIGN_OR_RETURN(out->q_bias, Vector(attn + "q_proj.bias", q_dim, q_order_));
      SPOTD_ASSIGN_OR_RETURN(out->k_bias, Vector(attn + "k_proj.bias", kv_dim, k_order_));
      SPOTD_ASSIGN_OR_RETURN(out->v_bias, Vector(attn + "v_proj.bias", kv_dim));
    }
    if (source_.HasTensor(attn + "o_proj.bias")) {
      SPOTD_ASSIGN_OR_RETURN(out->o_bias, Vector(attn + "o_proj.bias", hidden));
    }
    if (config_.qk_norm) {
      SPOTD_ASSIGN_OR_RETURN(out->q_norm, Vector(attn + "q_norm.weight", config_.head_dim));
      SPOTD_ASSIGN_OR_RETURN(out->k_norm, Vector(attn + "k_norm.weight", config_.head_dim));
    }
    return absl::OkStatus();
  }

  absl::Status LoadFeedForward(const std::string& prefix, LayerWeights* out) {
    const int64_t hidden = config_.hidden;
    const int64_t ffn = config_.ffn_hidden;
    SPOTD_ASSIGN_OR_RETURN(out->ffn_norm,
                           Vector(prefix + "post_attention_layernorm.weight", hidden));
    SPOTD_ASSIGN_OR_RETURN(out->gate, Matrix(prefix + "mlp.gate_proj.weight", ffn, hidden));
    SPOTD_ASSIGN_OR_RETURN(out->up, Matrix(prefix + "mlp.up_proj.weight", ffn, hidden));
    SPOTD_ASSIGN_OR_RETURN(out->down, Matrix(prefix + "mlp.down_proj.weight", hidden, ffn));
    return absl::OkStatus();
  }

  absl::Status LoadSelector(int32_t layer, LayerWeights* out) {
    const SelectorConfig& config = selector_->config();
    const int64_t hidden = config_.hidden;
    const auto name = [&](const char* part) { return Concat("selector layer ", layer, " ", part); };
    SPOTD_ASSIGN_OR_RETURN(const TensorView q, selector_->Tensor(layer, "q"));
    SPOTD_ASSIGN_OR_RETURN(const TensorView k, selector_->Tensor(layer, "k"));
    SPOTD_ASSIGN_OR_RETURN(const TensorView w, selector_->Tensor(layer, "w"));
    SPOTD_ASSIGN_OR_RETURN(const TensorView k_norm, selector_->Tensor(layer, "k_norm"));
    SPOTD_ASSIGN_OR_RETURN(out->selector_q,
                           Pack(q, name("q"), int64_t{config.heads} * config.dim, hidden, nullptr));
    SPOTD_ASSIGN_OR_RETURN(out->selector_k, Pack(k, name("k"), config.dim, hidden, nullptr));
    SPOTD_RETURN_IF_ERROR(CheckShape(k_norm, {config.dim}, source_.path(), name("k_norm")));
    SPOTD_ASSIGN_OR_RETURN(out->selector_k_norm, UploadFloats(ToFloats(k_norm)));
    // Scores are linear in the mixing weights, so the calibration scale costs nothing there.
    std::vector<float> mixing = ToFloats(w);
    const float scale =
        config.score_scales.empty() ? 1.0f : config.score_scales[static_cast<size_t>(layer)];
    for (float& value : mixing) value *= scale;
    const TensorView scaled = {DType::kF32, w.shape, mixing.data(), mixing.size() * sizeof(float)};
    SPOTD_ASSIGN_OR_RETURN(
        out->selector_w,
        Pack(scaled, name("w"), int64_t{config.groups} * config.heads, hidden, nullptr));
    return absl::OkStatus();
  }

  absl::Status LoadRope(ModelWeights* out) {
    const RopeFrequencies rope = ComputeRope(config_.rope);
    SPOTD_ASSIGN_OR_RETURN(out->inv_freq, UploadFloats(rope.inv_freq));
    out->rope = {out->inv_freq.as<float>(), config_.rope.rotary_dim, rope.magnitude};
    out->selector_rope = {};
    if (selector_ == nullptr) return absl::OkStatus();
    RopeConfig selector_rope;
    selector_rope.theta = selector_->config().rope_theta;
    selector_rope.rotary_dim = selector_->config().dim;
    SPOTD_ASSIGN_OR_RETURN(out->selector_inv_freq,
                           UploadFloats(ComputeRope(selector_rope).inv_freq));
    out->selector_rope = {out->selector_inv_freq.as<float>(), selector_rope.rotary_dim, 1.0f};
    return absl::OkStatus();
  }

  absl::StatusOr<WeightPtr> Matrix(const std::string& name, int64_t rows, int64_t cols,
                                   const std::vector<int32_t>& row_order = {}) {
    SPOTD_ASSIGN_OR_RETURN(const TensorView tensor, source_.Tensor(name));
    all_fp32_ &= tensor.type == DType::kF32;
    return Pack(tensor, name, rows, cols, row_order.empty() ? nullptr : row_order.data());
  }

  absl::StatusOr<WeightPtr> Pack(const TensorView& tensor, const std::string& name, int64_t rows,
                                 int64_t cols, const int32_t* row_order) {
    SPOTD_RETURN_IF_ERROR(CheckShape(tensor, {rows, cols}, source_.path(), name));
    kernels::WeightSource packed;
    packed.name = Concat(source_.path(), ": ", name);
    packed.rows = rows;
    packed.cols = cols;
    packed.type = tensor.type;
    packed.data = tensor.data;
    packed.row_order = row_order;
    SPOTD_ASSIGN_OR_RETURN(WeightPtr weight, backend_->CreateWeight(packed));
    total_bytes_ += weight->bytes();
    return weight;
  }

  absl::StatusOr<Buffer> Vector(const std::string& name, int64_t size,
                                const std::vector<int32_t>& order = {}) {
    SPOTD_ASSIGN_OR_RETURN(const TensorView tensor, source_.Tensor(name));
    SPOTD_RETURN_IF_ERROR(CheckShape(tensor, {size}, source_.path(), name));
    const std::vector<float> stored = ToFloats(tensor);
    if (order.empty()) return UploadFloats(stored);
    std::vector<float> values(stored.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = stored[static_cast<size_t>(order[i])];
    return UploadFloats(values);
  }

  absl::StatusOr<Buffer> UploadFloats(const std::vector<float>& values) {
    const size_t bytes = values.size() * sizeof(float);
    SPOTD_ASSIGN_OR_RETURN(Buffer buffer, backend_->Allocate(bytes));
    backend_->Upload(buffer.data(), values.data(), bytes);
    total_bytes_ += bytes;
    return buffer;
  }

  kernels::Backend* backend_;
  const ModelSource& source_;
  const SelectorSource* selector_;
  const ModelConfig& config_;
  std::vector<int32_t> q_order_;  // empty when rows are stored in rotate-half order
  std::vector<int32_t> k_order_;
  size_t total_bytes_ = 0;
  bool all_fp32_ = true;
};

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(kernels::Backend* backend, const ModelSource& source,
                                         const SelectorSource* selector) {
  return Loader(backend, source, selector).Load();
}

}  // namespace spotd::model
