#include "tools/spot_bench/measure.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "kernels/core/status.h"
#include "tools/spot_bench/operation_timer.h"
#include "tools/spot_bench/read_rate.h"

namespace spotd::bench {
namespace {

constexpr uint32_t kSeed = 1;
constexpr int kWarmUpSteps = 4;

// Exactly options.context tokens: of the text, repeated as often as needed, or of a seeded
// generator.
absl::StatusOr<std::vector<int32_t>> PromptTokens(const tools::LoadedModel& model,
                                                  const BenchOptions& options) {
  std::vector<int32_t> prompt(static_cast<size_t>(options.context));
  if (options.text.empty()) {
    std::mt19937 random(kSeed);
    std::uniform_int_distribution<int32_t> token(0, model.source().config().vocab - 1);
    for (int32_t& value : prompt) value = token(random);
    return prompt;
  }
  if (!model.has_tokenizer()) return InvalidArgument("--text: a synthetic model has no tokenizer");
  SPOTD_ASSIGN_OR_RETURN(const auto text, tools::TokensOfFile(options.text, model.tokenizer()));
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = text[i % text.size()];
  return prompt;
}

// Every weight but the embedding is used once per token; attention adds q.k and p.v over half the
// square.
double PrefillFlops(const model::ModelConfig& config, double tokens) {
  const double attention_out = static_cast<double>(config.q_heads) * config.head_dim;
  const double kv_out = 2.0 * config.kv_heads * config.head_dim;
  const double per_layer =
      config.hidden * (2 * attention_out + kv_out) + 3.0 * config.hidden * config.ffn_hidden;
  const double attention = 2 * attention_out * tokens / 2;
  return 2 * config.layers * tokens * (per_layer + attention);
}

// Of a product of the size and type that the backend is at its best with.
double MeasureGemmRate(kernels::Backend& backend) {
  OperationTimer timer(&backend);
  const int32_t dim = timer.on_device() ? 8192 : 2048;
  const int32_t rows = timer.on_device() ? 8192 : 512;
  const auto elements = static_cast<size_t>(dim) * static_cast<size_t>(dim);
  std::vector<float> values(elements);
  for (float& value : values) value = static_cast<float>(timer.random()() % 1024) / 1024 - 0.5f;
  kernels::WeightSource source;
  source.name = "gemm-rate";
  source.rows = dim;
  source.cols = dim;
  source.data = values.data();
  const auto weight = Require(backend.CreateWeight(source));
  const kernels::Buffer x = timer.PutActs(static_cast<size_t>(rows) * static_cast<size_t>(dim), 1);
  const kernels::Buffer y = timer.Make(x.bytes());
  const kernels::LinearArgs args{
      x.data(), rows, dim, 1, {{weight.get(), nullptr, y.data(), false}}};
  return 2.0 * rows * static_cast<double>(elements) / timer.Time([&] { backend.Linear(args); });
}

struct DecodeState {
  std::vector<kvstore::BlockTable> tables;
  std::vector<model::DecodeRow> rows;
  std::vector<model::DecodeResult> results;
};

absl::Status Step(tools::LoadedModel& model, DecodeState& state) {
  for (kvstore::BlockTable& table : state.tables)
    SPOTD_RETURN_IF_ERROR(model.store().Reserve(&table, 1));
  SPOTD_RETURN_IF_ERROR(model.transformer().Decode(state.rows, state.results));
  for (size_t i = 0; i < state.rows.size(); ++i) {
    model.store().Commit(&state.tables[i], 1);
    state.rows[i].token = state.results[i].token;
  }
  return absl::OkStatus();
}

absl::StatusOr<DecodeState> StartDecode(tools::LoadedModel& model, const BenchOptions& options) {
  SPOTD_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, PromptTokens(model, options));
  DecodeState state;
  while (static_cast<int32_t>(state.tables.size()) < options.batch) {
    if (!options.filled && !state.tables.empty()) {
      state.tables.push_back(model.store().Fork(state.tables[0]));
      continue;
    }
    kvstore::BlockTable& table = state.tables.emplace_back(model.store().NewTable());
    if (options.filled) {
      SPOTD_RETURN_IF_ERROR(model.store().Reserve(&table, options.context));
      model.store().Commit(&table, options.context);
    } else {
      SPOTD_RETURN_IF_ERROR(model.Prefill(prompt, &table));
    }
  }
  kernels::SamplingParams greedy{};
  greedy.top_p = 1;
  greedy.repetition_penalty = 1;
  for (kvstore::BlockTable& table : state.tables) {
    model::DecodeRow row;
    row.token = prompt.back();
    row.table = &table;
    row.policy = options.policy;
    row.sampling = greedy;
    state.rows.push_back(row);
  }
  state.results.resize(state.rows.size());
  return state;
}

void Accumulate(const DecodeState& state, DecodeResult* result, double* attended, double* visible,
                double* mass) {
  for (const model::DecodeResult& row : state.results) {
    result->kv_bytes += static_cast<double>(row.sparsity.bytes_read);
    result->kv_bytes_dense += static_cast<double>(row.sparsity.bytes_dense);
    *attended += static_cast<double>(row.sparsity.blocks_attended);
    *visible += static_cast<double>(row.sparsity.blocks_visible);
    *mass += row.sparsity.covered_mass;
  }
}

}  // namespace

absl::StatusOr<PrefillResult> MeasurePrefill(tools::LoadedModel& model, const BenchOptions& options,
                                             int repeats) {
  SPOTD_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, PromptTokens(model, options));
  PrefillResult result;
  result.tokens = options.context;
  result.flops = PrefillFlops(model.transformer().config(), options.context);
  result.seconds = 1e30;
  for (int i = 0; i < repeats; ++i) {
    kvstore::BlockTable table = model.store().NewTable();
    const auto start = Clock::now();
    SPOTD_RETURN_IF_ERROR(model.Prefill(prompt, &table));
    result.seconds = std::min(result.seconds, SecondsSince(start));
  }
  result.gemm_flops_rate = MeasureGemmRate(model.backend());
  return result;
}

absl::StatusOr<DecodeResult> MeasureDecode(tools::LoadedModel& model, const BenchOptions& options,
                                           const double& waited) {
  SPOTD_ASSIGN_OR_RETURN(DecodeState state, StartDecode(model, options));
  for (int i = 0; i < kWarmUpSteps; ++i) SPOTD_RETURN_IF_ERROR(Step(model, state));
  DecodeResult result;
  result.context = options.context;
  result.batch = options.batch;
  result.steps = options.steps;
  result.weight_bytes = static_cast<int64_t>(model.transformer().decode_weight_bytes());
  std::vector<double> seconds;
  double attended = 0;
  double visible = 0;
  double mass = 0;
  for (int i = 0; i < options.steps; ++i) {
    const double waited_before = waited;
    const auto start = Clock::now();
    SPOTD_RETURN_IF_ERROR(Step(model, state));
    seconds.push_back(SecondsSince(start));
    result.seconds += seconds.back();
    result.host_seconds += (seconds.back() - (waited - waited_before)) / options.steps;
    Accumulate(state, &result, &attended, &visible, &mass);
  }
  std::nth_element(seconds.begin(), seconds.begin() + options.steps / 2, seconds.end());
  result.median_step = seconds[static_cast<size_t>(options.steps) / 2];
  result.kv_bytes /= options.steps;
  result.kv_bytes_dense /= options.steps;
  result.density = attended / visible;
  result.covered_mass = mass / (options.steps * options.batch);
  OperationTimer timer(&model.backend());
  if (!timer.on_device()) {
    result.read_rate = MeasureReadRate(model.threads());
    result.host_seconds = 0;
  }
  return result;
}

}  // namespace spotd::bench
