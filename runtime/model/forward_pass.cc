#include "runtime/model/forward_pass.h"

#include <cmath>

#include "kernels/core/check.h"
#include "runtime/model/spot_attention.h"

namespace spotd::model {
namespace {

void AddOutput(kernels::LinearArgs* linear, const kernels::Weight& weight,
               const kernels::Buffer& bias, const kernels::Buffer& y) {
  linear->outputs[linear->num_outputs++] = {&weight, bias.as<float>(), y.data(), false};
}

}  // namespace

ForwardPass::ForwardPass(kernels::Backend* backend, const ModelConfig* config,
                         const ModelWeights* weights, const SelectorConfig* selector,
                         const StepBuffers* buffers)
    : backend_(backend),
      config_(config),
      weights_(weights),
      selector_(selector),
      buffers_(buffers),
      scale_(1.0f / std::sqrt(static_cast<float>(config->head_dim))) {}

void ForwardPass::AttachStore(const kvstore::KvStore& store) {
  const kvstore::KvLayout& layout = store.layout();
  SPOTD_CHECK(layout.layers == config_->layers && layout.kv_heads == config_->kv_heads &&
              layout.head_dim == config_->head_dim);
  keeps_selector_keys_ =
      selector_ != nullptr && layout.selector_format != kernels::SelectorKeyFormat::kNone;
  SPOTD_CHECK(!keeps_selector_keys_ || layout.selector_dim == selector_->dim);
  caches_.clear();
  for (int32_t i = 0; i < config_->layers; ++i) caches_.push_back(store.LayerView(i));
}

void ForwardPass::Run(const ForwardStep& step) {
  backend_->Embed(
      {weights_->embedding.get(), step.tokens, step.batch.num_rows, buffers_->hidden.as<float>()});
  for (int32_t i = 0; i < config_->layers; ++i) RunLayer(step, i);
}

void ForwardPass::RunLayer(const ForwardStep& step, int32_t index) {
  const LayerWeights& layer = weights_->layers[static_cast<size_t>(index)];
  const kernels::KvLayer& cache = caches_[static_cast<size_t>(index)];
  const int32_t rows = step.batch.num_rows;
  RmsNorm(0, rows, layer.attn_norm);
  Project(step, layer);
  Append(step, layer, cache);
  if (step.observer != nullptr) {
    step.observer->OnLayer({index, rows, buffers_->normed.data(), buffers_->q.data(), cache,
                            step.batch.num_seqs, step.batch.block_tables, step.batch.table_stride,
                            step.positions});
  }

  const bool last = index + 1 == config_->layers;
  const int32_t outputs = last ? step.output_rows : rows;
  if (outputs == 0) return;
  const int32_t first = rows - outputs;
  if (first == 0) {
    Attend(step, index);
  } else {
    AttendLastRow(step, cache);
  }
  AddToResidual(buffers_->attended, first, outputs, *layer.o, layer.o_bias);
  RmsNorm(first, outputs, layer.ffn_norm);
  FeedForward(first, outputs, layer);
}

float* ForwardPass::Residual(int32_t first) const {
  return buffers_->hidden.as<float>() +
         static_cast<size_t>(first) * static_cast<size_t>(config_->hidden);
}

void ForwardPass::RmsNorm(int32_t first, int32_t rows, const kernels::Buffer& weight) {
  backend_->RmsNorm({Residual(first), weight.as<float>(), rows, config_->hidden, config_->norm_eps,
                     buffers_->normed.data()});
}

void ForwardPass::Project(const ForwardStep& step, const LayerWeights& layer) {
  kernels::LinearArgs linear = {};
  linear.x = buffers_->normed.data();
  linear.rows = step.batch.num_rows;
  linear.in_dim = config_->hidden;
  AddOutput(&linear, *layer.q, layer.q_bias, buffers_->q);
  AddOutput(&linear, *layer.k, layer.k_bias, buffers_->k);
  AddOutput(&linear, *layer.v, layer.v_bias, buffers_->v);
  if (keeps_selector_keys_) {
    const kernels::Buffer no_bias;
    AddOutput(&linear, *layer.selector_k, no_bias, buffers_->selector_k);
    if (step.plan != nullptr && step.plan->uses(Chooser::kSelector)) {
      AddOutput(&linear, *layer.selector_q, no_bias, buffers_->selector_q);
      AddOutput(&linear, *layer.selector_w, no_bias, buffers_->selector_w);
    }
  }
  backend_->Linear(linear);
}

void ForwardPass::Append(const ForwardStep& step, const LayerWeights& layer,
                         const kernels::KvLayer& cache) {
  kernels::AppendKvArgs append = {};
  append.batch = step.batch;
  append.layer = cache;
  append.rope = weights_->rope;
  append.positions = step.positions;
  append.q_heads = config_->q_heads;
  append.q = buffers_->q.data();
  append.k = buffers_->k.data();
  append.v = buffers_->v.data();
  append.q_norm = layer.q_norm.as<float>();
  append.k_norm = layer.k_norm.as<float>();
  append.eps = config_->norm_eps;
  if (!keeps_selector_keys_) {
    backend_->AppendKv(append);
    return;
  }

  kernels::AppendSelectorArgs keys = {};
  keys.batch = step.batch;
  keys.layer = cache;
  keys.rope = weights_->selector_rope;
  keys.positions = step.positions;
  keys.heads = selector_->heads;
  const bool queries = step.plan != nullptr && step.plan->uses(Chooser::kSelector);
  keys.q = queries ? buffers_->selector_q.data() : nullptr;
  keys.k = buffers_->selector_k.data();
  keys.k_norm = layer.selector_k_norm.as<float>();
  keys.eps = config_->norm_eps;
  backend_->Append(append, keys);
}

void ForwardPass::Attend(const ForwardStep& step, int32_t index) {
  const kernels::KvLayer& cache = caches_[static_cast<size_t>(index)];
  if (step.plan == nullptr) {
    backend_->PrefillAttend({step.batch, cache, config_->q_heads, scale_, buffers_->q.data(),
                             buffers_->attended.data(), nullptr, weights_->full_precision});
    return;
  }
  SpotAttentionArgs args = {};
  args.plan = step.plan;
  args.layer_index = index;
  args.batch = step.batch;
  args.layer = cache;
  args.q_heads = config_->q_heads;
  args.scale = scale_;
  args.q = buffers_->q.data();
  args.selector_heads = selector_ == nullptr ? 0 : selector_->heads;
  args.selector_q = buffers_->selector_q.data();
  args.selector_w = buffers_->selector_w.data();
  args.rules = step.rules + static_cast<size_t>(index) * static_cast<size_t>(step.batch.num_rows);
  args.block_lse = buffers_->block_lse.as<float>();
  args.selected = step.selected + static_cast<size_t>(index) * step.selected_layer_stride;
  args.counts = step.counts;
  args.covered_mass = step.covered_mass;
  args.out = buffers_->attended.data();
  SpotAttention(backend_, args);
}

// The newest token of a prefill alone: what decode does for a row.
void ForwardPass::AttendLastRow(const ForwardStep& step, const kernels::KvLayer& cache) {
  SPOTD_CHECK(step.plan == nullptr && step.output_rows == 1 && step.batch.num_seqs == 1);
  const size_t width = static_cast<size_t>(config_->q_heads) *
                       static_cast<size_t>(config_->head_dim) * backend_->activation_bytes();
  kernels::AttendArgs attend = {};
  attend.batch = step.batch;
  attend.batch.num_rows = 1;
  attend.layer = cache;
  attend.q_heads = config_->q_heads;
  attend.scale = scale_;
  attend.q = buffers_->q.as<char>() + static_cast<size_t>(step.batch.num_rows - 1) * width;
  attend.groups = 1;
  attend.out = buffers_->attended.data();
  backend_->Attend(attend);
}

void ForwardPass::FeedForward(int32_t first, int32_t rows, const LayerWeights& layer) {
  const kernels::Buffer no_bias;
  kernels::LinearArgs linear = {};
  linear.x = buffers_->normed.data();
  linear.rows = rows;
  linear.in_dim = config_->hidden;
  AddOutput(&linear, *layer.gate, no_bias, buffers_->gate);
  AddOutput(&linear, *layer.up, no_bias, buffers_->up);
  backend_->LinearSwiGlu(linear, {buffers_->gate.data(), buffers_->up.data(), rows,
                                  config_->ffn_hidden, buffers_->gate.data()});
  AddToResidual(buffers_->gate, first, rows, *layer.down, no_bias);
}

void ForwardPass::AddToResidual(const kernels::Buffer& x, int32_t first, int32_t rows,
                                const kernels::Weight& weight, const kernels::Buffer& bias) {
  kernels::LinearArgs linear = {};
  linear.x = x.data();
  linear.rows = rows;
  linear.in_dim = static_cast<int32_t>(weight.cols());
  linear.num_outputs = 1;
  linear.outputs[0] = {&weight, bias.as<float>(), Residual(first), true};
  backend_->Linear(linear);
}

void ForwardPass::Logits(int32_t first, int32_t rows) {
  RmsNorm(first, rows, weights_->final_norm);
  kernels::LinearArgs linear = {};
  linear.x = buffers_->normed.data();
  linear.rows = rows;
  linear.in_dim = config_->hidden;
  linear.num_outputs = 1;
  linear.outputs[0] = {weights_->logits_weight(), nullptr, buffers_->logits.data(), false};
  backend_->Logits(linear);
}

}  // namespace spotd::model
