#include "runtime/distill/reliability.h"

#include <array>
#include <cmath>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/distill/schedule.h"
#include "runtime/model/tensor_convert.h"

namespace spotd::distill {
namespace {

constexpr std::array<float, 4> kDensities = {0.05f, 0.10f, 0.20f, 0.40f};
constexpr uint64_t kSeed = 17;

// Believed minus true mass at each density, summed over documents.
using Errors = std::array<double, kDensities.size()>;

double MeanSize(const Errors& errors, double count) {
  double sum = 0;
  for (const double error : errors) sum += std::abs(error) / count;
  return sum / static_cast<double>(errors.size());
}

// Measures every layer of a running prefill under every scale.
class ReliabilityObserver final : public model::LayerObserver {
 public:
  ReliabilityObserver(kernels::Backend* backend, kernels::DistillKernels* kernels,
                      const model::SelectorSource& selector, kernels::DistillArgs shared,
                      std::vector<float> scales)
      : backend_(backend),
        kernels_(kernels),
        selector_(selector),
        args_(shared),
        scales_(std::move(scales)) {}

  void OnLayer(const model::LayerView& view) override {
    if (status_.ok()) status_ = Measure(view);
  }

  const absl::Status& status() const { return status_; }
  // [layers][scales]
  const std::vector<std::vector<Errors>>& errors() const { return errors_; }

 private:
  absl::StatusOr<kernels::Buffer> Upload(const std::vector<float>& values) {
    SPOTD_ASSIGN_OR_RETURN(kernels::Buffer buffer,
                           backend_->Allocate(values.size() * sizeof(float)));
    backend_->Upload(buffer.data(), values.data(), values.size() * sizeof(float));
    return buffer;
  }

  absl::StatusOr<kernels::Buffer> UploadPart(int32_t layer, const char* part) {
    SPOTD_ASSIGN_OR_RETURN(const model::TensorView tensor, selector_.Tensor(layer, part));
    return Upload(model::ToFloats(tensor));
  }

  absl::Status Measure(const model::LayerView& view) {
    SPOTD_ASSIGN_OR_RETURN(const kernels::Buffer q, UploadPart(view.layer, "q"));
    SPOTD_ASSIGN_OR_RETURN(const kernels::Buffer k, UploadPart(view.layer, "k"));
    SPOTD_ASSIGN_OR_RETURN(const kernels::Buffer k_norm, UploadPart(view.layer, "k_norm"));
    SPOTD_ASSIGN_OR_RETURN(const model::TensorView mixing, selector_.Tensor(view.layer, "w"));
    args_.rows = view.rows;
    args_.x = view.x;
    args_.q = view.q;
    args_.layer = view.kv;
    args_.block_table = view.block_table;
    args_.table_stride = view.table_stride;
    args_.positions = view.positions;
    const auto layer = static_cast<size_t>(view.layer);
    if (errors_.size() <= layer) errors_.resize(layer + 1, std::vector<Errors>(scales_.size()));
    for (size_t s = 0; s < scales_.size(); ++s) {
      std::vector<float> scaled = model::ToFloats(mixing);
      for (float& value : scaled) value *= scales_[s];
      SPOTD_ASSIGN_OR_RETURN(const kernels::Buffer w, Upload(scaled));
      args_.weights = {q.as<float>(), k.as<float>(), w.as<float>(), k_norm.as<float>()};
      for (size_t d = 0; d < kDensities.size(); ++d) {
        args_.recall_fraction = kDensities[d];
        kernels_->Accumulate(args_);
        SPOTD_ASSIGN_OR_RETURN(const kernels::DistillStats stats, kernels_->TakeStats());
        errors_[layer][s][d] +=
            (stats.believed_mass - stats.recalled_mass) / static_cast<double>(stats.queries);
      }
    }
    return absl::OkStatus();
  }

  kernels::Backend* backend_;
  kernels::DistillKernels* kernels_;
  const model::SelectorSource& selector_;
  kernels::DistillArgs args_;
  std::vector<float> scales_;
  std::vector<std::vector<Errors>> errors_;
  absl::Status status_;
};

kernels::DistillArgs SharedArgs(const model::ModelConfig& model,
                                const model::SelectorConfig& selector,
                                const ReliabilityOptions& options) {
  kernels::DistillArgs args{};
  args.sequences = 1;
  args.hidden = model.hidden;
  args.q_heads = model.q_heads;
  args.teacher_scale = 1.0f / std::sqrt(static_cast<float>(model.head_dim));
  args.num_queries = options.queries;
  args.heads = selector.heads;
  args.groups = selector.groups;
  args.dim = selector.dim;
  args.norm_eps = model.norm_eps;
  args.sink_tokens = options.sink_tokens;
  args.recency_tokens = options.recency_tokens;
  args.full_weight = 1;
  args.gradient_scale = 1;
  return args;
}

}  // namespace

absl::StatusOr<std::vector<std::vector<double>>> MeasureReliability(
    kernels::Backend* backend, model::Transformer* transformer, kvstore::KvStore* store,
    kernels::DistillKernels* kernels, const model::SelectorSource& selector,
    std::span<const std::span<const int32_t>> documents, const ReliabilityOptions& options) {
  const model::SelectorConfig& config = selector.config();
  model::RopeConfig rope;
  rope.theta = config.rope_theta;
  rope.rotary_dim = config.dim;
  const std::vector<float> frequencies = model::ComputeRope(rope).inv_freq;
  SPOTD_ASSIGN_OR_RETURN(const kernels::Buffer inv_freq,
                         backend->Allocate(frequencies.size() * sizeof(float)));
  backend->Upload(inv_freq.data(), frequencies.data(), frequencies.size() * sizeof(float));
  SPOTD_ASSIGN_OR_RETURN(const kernels::Buffer queries,
                         backend->Allocate(static_cast<size_t>(options.queries) * sizeof(int32_t)));
  kernels::DistillArgs shared = SharedArgs(transformer->config(), config, options);
  shared.rope = {inv_freq.as<float>(), config.dim, 1.0f};
  shared.queries = queries.as<int32_t>();
  ReliabilityObserver observer(backend, kernels, selector, shared, options.scales);
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto length = static_cast<int32_t>(documents[i].size());
    // Of the last quarter: an estimate must hold where contexts are as long as they get.
    const int32_t newest = std::min(std::max(options.queries, length / 4), length);
    const std::vector<int32_t> rows =
        SampleQueries(length - newest, length, options.queries, kSeed, static_cast<int64_t>(i));
    if (rows.size() != static_cast<size_t>(options.queries)) {
      return InvalidArgument("documents of ", length, " tokens are too short for ", options.queries,
                             " queries");
    }
    backend->Upload(queries.data(), rows.data(), rows.size() * sizeof(int32_t));
    kvstore::BlockTable table = store->NewTable();
    SPOTD_RETURN_IF_ERROR(store->Reserve(&table, length));
    model::PrefillChunk chunk;
    chunk.tokens = documents[i];
    chunk.table = &table;
    chunk.observer = &observer;
    SPOTD_RETURN_IF_ERROR(transformer->Prefill(chunk, {}));
    SPOTD_RETURN_IF_ERROR(observer.status());
  }
  std::vector<std::vector<double>> layers;
  for (const std::vector<Errors>& by_scale : observer.errors()) {
    layers.emplace_back();
    for (const Errors& errors : by_scale) {
      layers.back().push_back(MeanSize(errors, static_cast<double>(documents.size())));
    }
  }
  return layers;
}

}  // namespace spotd::distill
