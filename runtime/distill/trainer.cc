#include "runtime/distill/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/core/float16.h"
#include "kernels/core/status.h"
#include "runtime/distill/checkpoint.h"
#include "runtime/distill/input_scale.h"
#include "runtime/distill/parameters.h"
#include "runtime/formats/safetensors_writer.h"

namespace spotd::distill {
namespace {

constexpr float kBeta1 = 0.9f;
constexpr float kBeta2 = 0.95f;
constexpr float kEpsilon = 1e-8f;
constexpr int32_t kFewTokens = 384;       // rows of a sequence before this one are not sampled
constexpr float kRecallFraction = 0.10f;  // density of the recalled mass that steps report

// Streams of random numbers that must not coincide.
constexpr uint64_t kPositionStream = 0x51;
constexpr uint64_t kQueryStream = 0x52;

int64_t StepsOf(const TrainerOptions& options) {
  const int64_t per_step = int64_t{options.length} * options.sequences_per_step;
  return std::max<int64_t>(1, options.tokens / per_step);
}

// An option and where it may lie.
struct Range {
  const char* option;
  double value;
  double least;
  double most;
};

absl::Status CheckRanges(const TrainerOptions& options) {
  constexpr double kTokens = 1e15;    // sums of which fit 64 bits
  constexpr double kPositions = 1e9;  // two of which fit 32 bits
  const Range ranges[] = {{"--heads", double(options.selector.heads), 1, model::kMaxSelectorHeads},
                          {"--queries", double(options.queries), 1, 65536},
                          {"--sequences", double(options.sequences_per_step), 1, 65536},
                          {"--tokens", double(options.tokens), 1, kTokens},
                          {"--lr", options.learning_rate.peak, 1e-12, 1e38},
                          {"--warmup", double(options.learning_rate.warmup_steps), 0, kTokens},
                          {"--input_rms", options.input_rms, 0, 1e6},
                          {"--clip", options.clip_norm, 1e-12, 1e30},
                          {"--full_weight", options.full_weight, 0, 1e6},
                          {"--residual_weight", options.residual_weight, 0, 1e6},
                          {"--teacher_power", options.teacher_power, -16, 16},
                          {"--group_power", options.group_power, 0, 16},
                          {"--sparse_stage", options.sparse_stage, 0, 1},
                          {"--sparse_fraction", options.sparse_fraction, 1e-6, 1},
                          {"--round_keys", options.rounding_stage, 0, 1},
                          {"--sink_tokens", double(options.sink_tokens), 0, kPositions},
                          {"--recency_tokens", double(options.recency_tokens), 0, kPositions},
                          {"--skip", options.skip.probability, 0, 1},
                          {"--cuts", double(options.skip.most_cuts), 1, 1024},
                          {"--gap_power", options.skip.gap_power, 0, 16},
                          {"--serve_length", double(options.skip.max_position), 1, kPositions}};
  for (const Range& range : ranges) {
    // Written so that NaN is refused.
    if (range.value >= range.least && range.value <= range.most) continue;
    return InvalidArgument(range.option, " must be in ", range.least, "..", range.most, ", got ",
                           range.value);
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const TrainerOptions& options, const model::ModelConfig& model,
                          const model::Limits& limits) {
  if (options.selector.groups != 1 && options.selector.groups != model.kv_heads) {
    return InvalidArgument("--groups must be 1 or the model's number of KV heads, ", model.kv_heads,
                           ", got ", options.selector.groups);
  }
  // What readers of selector files demand: whole groups of every kind of quantised keys.
  const int32_t dim = options.selector.dim;
  if (dim < 32 || dim > 256 || dim % 32 != 0) {
    return InvalidArgument("--dim must be a multiple of 32 in 32..256, got ", dim);
  }
  if (options.length < 2 || options.length > limits.max_prefill_chunk) {
    return InvalidArgument("--length must be in 2..", limits.max_prefill_chunk, ", got ",
                           options.length);
  }
  return CheckRanges(options);
}

absl::StatusOr<std::vector<float>> LayerScales(kernels::Backend* backend,
                                               model::Transformer* transformer,
                                               kvstore::KvStore* store,
                                               std::span<const int32_t> tokens, float rms) {
  if (!(rms > 0)) {
    return std::vector<float>(static_cast<size_t>(transformer->config().layers), 1.0f);
  }
  SPOTD_ASSIGN_OR_RETURN(std::vector<float> scales,
                         MeasureInputs(backend, transformer, store, tokens));
  for (float& scale : scales) scale = rms / std::max(scale, 1e-6f);
  return scales;
}

}  // namespace

// Training or held-out sequences of one length with the positions they are shown at.
struct Batch {
  std::vector<std::span<const int32_t>> tokens;
  std::vector<std::vector<int32_t>> positions;
  int64_t first_index = 0;  // of the first sequence, for its random numbers
};

// What a step differs in from the others.
struct Stage {
  bool sparse = false;   // the loss is over the chosen blocks
  bool rounded = false;  // keys are rounded as they will be stored
};

// Hands each layer of a running prefill to the kernels.
class LayerTrainer final : public model::LayerObserver {
 public:
  LayerTrainer(kernels::DistillKernels* kernels, const Parameters* parameters,
               kernels::DistillArgs shared)
      : kernels_(kernels), parameters_(parameters), args_(shared) {}

  void OnLayer(const model::LayerView& view) override {
    args_.sequences = view.sequences;
    args_.rows = view.rows / view.sequences;
    args_.x = view.x;
    args_.q = view.q;
    args_.layer = view.kv;
    args_.block_table = view.block_table;
    args_.table_stride = view.table_stride;
    args_.positions = view.positions;
    args_.weights = parameters_->Layer(parameters_->weights(), view.layer);
    args_.gradients = parameters_->Layer(parameters_->gradients(), view.layer);
    kernels_->Accumulate(args_);
  }

 private:
  kernels::DistillKernels* kernels_;
  const Parameters* parameters_;
  kernels::DistillArgs args_;
};

struct Trainer::Impl {
  kernels::Backend* backend;
  model::Transformer* transformer;
  kvstore::KvStore* store;
  const Corpus* corpus;
  std::unique_ptr<kernels::DistillKernels> kernels;
  TrainerOptions options;
  std::vector<float> scales;  // [layers] of matrices and their learning rates
  Parameters parameters;
  kernels::Buffer inv_freq;  // [selector dim / 2]
  kernels::Buffer queries;   // [sequences of a pass, options.queries]
  int64_t steps;
  int64_t next_step = 0;

  kernels::DistillArgs SharedArgs(int32_t num_queries, Stage stage) const;
  // Runs the sequences, in as few passes as they fit in, and accumulates their gradients.
  absl::Status Accumulate(const Batch& batch, Stage stage);
  absl::Status AccumulatePass(const Batch& batch, size_t first, size_t count, Stage stage);
  absl::Status Update(double learning_rate, double* gradient_norm);
  StepReport Report(const kernels::DistillStats& stats) const;
  RunIdentity Identity() const {
    return IdentityOf(options, transformer->config(), corpus->fingerprint());
  }
  // How many sequences the transformer takes in one pass.
  int32_t SequencesOfPass() const {
    const model::Limits& limits = transformer->limits();
    return std::min(limits.max_batch, limits.max_prefill_chunk / options.length);
  }
  Stage StageAt(int64_t step) const {
    const auto in_last = [&](double share) {
      return static_cast<double>(step) >= (1.0 - share) * static_cast<double>(steps);
    };
    return {in_last(options.sparse_stage), in_last(options.rounding_stage)};
  }
};

kernels::DistillArgs Trainer::Impl::SharedArgs(int32_t num_queries, Stage stage) const {
  const model::ModelConfig& config = transformer->config();
  kernels::DistillArgs args{};
  args.hidden = config.hidden;
  args.q_heads = config.q_heads;
  args.teacher_scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  args.teacher_power = options.teacher_power;
  args.group_power = options.group_power;
  args.num_queries = num_queries;
  args.queries = queries.as<int32_t>();
  args.rope = {inv_freq.as<float>(), options.selector.dim, 1.0f};
  args.heads = options.selector.heads;
  args.groups = options.selector.groups;
  args.dim = options.selector.dim;
  args.norm_eps = config.norm_eps;
  if (stage.rounded) args.key_rounding = options.rounded_keys;
  args.sink_tokens = options.sink_tokens;
  args.recency_tokens = options.recency_tokens;
  args.full_weight = options.full_weight;
  args.residual_weight = options.residual_weight;
  args.sparse_fraction = stage.sparse ? options.sparse_fraction : 0.0f;
  args.recall_fraction = kRecallFraction;
  args.gradient_scale =
      1.0f / (static_cast<float>(options.queries) * static_cast<float>(options.sequences_per_step));
  return args;
}

absl::Status Trainer::Impl::Accumulate(const Batch& batch, Stage stage) {
  const auto at_once = static_cast<size_t>(SequencesOfPass());
  for (size_t first = 0; first < batch.tokens.size(); first += at_once) {
    const size_t count = std::min(at_once, batch.tokens.size() - first);
    SPOTD_RETURN_IF_ERROR(AccumulatePass(batch, first, count, stage));
  }
  return absl::OkStatus();
}

absl::Status Trainer::Impl::AccumulatePass(const Batch& batch, size_t first, size_t count,
                                           Stage stage) {
  // Rows that see nothing but reserved tokens teach nothing about the residual, and such as see few
  // others little about a choice among many.
  const int32_t reserved = options.sink_tokens + options.recency_tokens;
  const int32_t first_row = std::min(std::max(reserved, kFewTokens), options.length / 2);
  std::vector<int32_t> rows;
  std::vector<kvstore::BlockTable> tables;
  for (size_t i = 0; i < count; ++i) {
    const std::vector<int32_t> own =
        SampleQueries(first_row, options.length, options.queries, options.seed + kQueryStream,
                      batch.first_index + static_cast<int64_t>(first + i));
    rows.insert(rows.end(), own.begin(), own.end());
    tables.push_back(store->NewTable());
    SPOTD_RETURN_IF_ERROR(store->Reserve(&tables.back(), options.length));
  }
  backend->Upload(queries.data(), rows.data(), rows.size() * sizeof(int32_t));
  LayerTrainer trainer(kernels.get(), &parameters,
                       SharedArgs(static_cast<int32_t>(rows.size() / count), stage));
  std::vector<model::PrefillChunk> chunks(count);
  for (size_t i = 0; i < count; ++i) {
    chunks[i].tokens = batch.tokens[first + i];
    chunks[i].table = &tables[i];
    chunks[i].positions = batch.positions[first + i];
    chunks[i].observer = &trainer;
  }
  return transformer->PrefillMany(chunks);
}

absl::Status Trainer::Impl::Update(double learning_rate, double* gradient_norm) {
  *gradient_norm = std::sqrt(kernels->SumOfSquares(parameters.gradients(), parameters.count()));
  if (!std::isfinite(*gradient_norm)) {
    return Internal("step ", next_step, ": the gradient is not a number; weights are unchanged");
  }
  kernels::AdamWArgs args{};
  args.gradient_factor =
      static_cast<float>(std::min(1.0, options.clip_norm / std::max(*gradient_norm, 1e-12)));
  args.beta1 = kBeta1;
  args.beta2 = kBeta2;
  args.epsilon = kEpsilon;
  args.step = next_step + 1;
  for (const ParameterSlice& slice : parameters.slices()) {
    const bool matrix = slice.shape.size() > 1;
    args.count = slice.count;
    args.weights = parameters.weights() + slice.begin;
    args.gradients = parameters.gradients() + slice.begin;
    args.first_moment = parameters.first_moment() + slice.begin;
    args.second_moment = parameters.second_moment() + slice.begin;
    args.learning_rate = static_cast<float>(learning_rate) *
                         (matrix ? scales[static_cast<size_t>(slice.layer)] : 1.0f);
    kernels->AdamW(args);
  }
  return backend->Synchronize();
}

StepReport Trainer::Impl::Report(const kernels::DistillStats& stats) const {
  const auto queries_seen = static_cast<double>(std::max<int64_t>(1, stats.queries));
  StepReport report;
  report.step = next_step;
  report.steps = steps;
  report.tokens = next_step * options.length * options.sequences_per_step;
  report.loss = stats.loss / queries_seen;
  report.kl = stats.kl / queries_seen;
  report.residual_kl = stats.residual_kl / queries_seen;
  report.recalled_mass = stats.recalled_mass / queries_seen;
  return report;
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(
    kernels::Backend* backend, model::Transformer* transformer, kvstore::KvStore* store,
    const Corpus* corpus, std::unique_ptr<kernels::DistillKernels> kernels,
    const TrainerOptions& options) {
  SPOTD_RETURN_IF_ERROR(CheckOptions(options, transformer->config(), transformer->limits()));
  SPOTD_RETURN_IF_ERROR(
      kernels::CheckDistillLimits(kernels->limits(transformer->limits().block_tokens),
                                  transformer->config().q_heads, options.length, "--length"));
  SPOTD_ASSIGN_OR_RETURN(std::vector<float> scales,
                         LayerScales(backend, transformer, store,
                                     corpus->TrainingSequence(options.seed, 0), options.input_rms));
  SPOTD_ASSIGN_OR_RETURN(
      Parameters parameters,
      Parameters::Create(backend, transformer->config(), options.selector, scales, options.seed));
  const int64_t steps = StepsOf(options);
  auto impl = std::unique_ptr<Impl>(new Impl{backend,
                                             transformer,
                                             store,
                                             corpus,
                                             std::move(kernels),
                                             options,
                                             std::move(scales),
                                             std::move(parameters),
                                             {},
                                             {},
                                             steps});
  impl->options.learning_rate.steps = steps;
  model::RopeConfig rope;
  rope.theta = options.selector.rope_theta;
  rope.rotary_dim = options.selector.dim;
  const std::vector<float> inv_freq = model::ComputeRope(rope).inv_freq;
  SPOTD_ASSIGN_OR_RETURN(impl->inv_freq, backend->Allocate(inv_freq.size() * sizeof(float)));
  backend->Upload(impl->inv_freq.data(), inv_freq.data(), inv_freq.size() * sizeof(float));
  SPOTD_ASSIGN_OR_RETURN(impl->queries,
                         backend->Allocate(static_cast<size_t>(impl->SequencesOfPass()) *
                                           static_cast<size_t>(options.queries) * sizeof(int32_t)));
  return std::unique_ptr<Trainer>(new Trainer(std::move(impl)));
}

Trainer::Trainer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Trainer::~Trainer() = default;

int64_t Trainer::steps() const {
  return impl_->steps;
}

int64_t Trainer::next_step() const {
  return impl_->next_step;
}

absl::StatusOr<StepReport> Trainer::Step() {
  Impl& t = *impl_;
  t.kernels->Zero(t.parameters.gradients(), t.parameters.count());
  PositionSkip skip = t.options.skip;
  skip.seed = t.options.seed + kPositionStream;
  Batch batch;
  batch.first_index = t.next_step * t.options.sequences_per_step;
  for (int32_t i = 0; i < t.options.sequences_per_step; ++i) {
    batch.tokens.push_back(t.corpus->TrainingSequence(t.options.seed, batch.first_index + i));
    batch.positions.push_back(skip.Positions(t.options.length, batch.first_index + i));
  }
  SPOTD_RETURN_IF_ERROR(t.Accumulate(batch, t.StageAt(t.next_step)));
  SPOTD_ASSIGN_OR_RETURN(const kernels::DistillStats stats, t.kernels->TakeStats());
  if (!std::isfinite(stats.loss)) {
    return Internal("step ", t.next_step, ": the loss is not a number; weights are unchanged");
  }
  const double learning_rate = t.options.learning_rate.At(t.next_step);
  double gradient_norm = 0;
  SPOTD_RETURN_IF_ERROR(t.Update(learning_rate, &gradient_norm));
  ++t.next_step;
  StepReport report = t.Report(stats);
  report.gradient_norm = gradient_norm;
  report.learning_rate = learning_rate;
  return report;
}

absl::StatusOr<StepReport> Trainer::Evaluate(int64_t sequences) {
  Impl& t = *impl_;
  const int64_t count = std::min(sequences, t.corpus->num_held_out());
  if (count <= 0) return FailedPrecondition("no held-out text: give several documents");
  Batch batch;
  for (int64_t i = 0; i < count; ++i) {
    batch.tokens.push_back(t.corpus->HeldOutSequence(i));
    batch.positions.push_back(PositionSkip{0.0, 0, 0}.Positions(t.options.length, i));
  }
  SPOTD_RETURN_IF_ERROR(t.Accumulate(batch, {}));
  SPOTD_ASSIGN_OR_RETURN(const kernels::DistillStats stats, t.kernels->TakeStats());
  return t.Report(stats);
}

absl::Status Trainer::SaveCheckpoint(const std::string& path) const {
  return WriteCheckpoint(path, impl_->Identity(), impl_->next_step, impl_->parameters);
}

absl::Status Trainer::LoadCheckpoint(const std::string& path) {
  SPOTD_ASSIGN_OR_RETURN(impl_->next_step,
                         ReadCheckpoint(path, impl_->Identity(), &impl_->parameters));
  return absl::OkStatus();
}

absl::Status Trainer::SaveSelector(const std::string& path) const {
  return WriteSelector(path, impl_->options, impl_->transformer->config(), impl_->next_step,
                       impl_->parameters);
}

}  // namespace spotd::distill
