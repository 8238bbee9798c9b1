#include "runtime/model/decoder.h"

#include <algorithm>

#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace spotd::model {
namespace {

int32_t MaxStride(const Limits& limits) {
  return BucketBlocks((limits.max_context + limits.block_tokens - 1) / limits.block_tokens);
}

}  // namespace

Decoder::Decoder(kernels::Backend* backend, const ModelConfig* config,
                 const SelectorConfig* selector, const Limits& limits, ForwardPass* forward,
                 const StepBuffers* buffers)
    : backend_(backend),
      config_(config),
      selector_(selector),
      limits_(limits),
      forward_(forward),
      buffers_(buffers),
      plan_(limits.max_batch, config->kv_heads, limits.block_tokens,
            selector == nullptr ? 1 : selector->groups) {
  choosers_.reserve(static_cast<size_t>(limits.max_batch));
  kv_lens_.reserve(static_cast<size_t>(limits.max_batch));
  trace_seen_.resize(static_cast<size_t>(MaxStride(limits)));
}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(kernels::Backend* backend,
                                                         const ModelConfig* config,
                                                         const SelectorConfig* selector,
                                                         const Limits& limits, ForwardPass* forward,
                                                         const StepBuffers* buffers) {
  std::unique_ptr<Decoder> out(new Decoder(backend, config, selector, limits, forward, buffers));
  const StepShape largest = {limits.max_batch, limits.max_batch, MaxStride(limits), config->layers};
  SPOTD_ASSIGN_OR_RETURN(out->inputs_, Staging::Create(backend, StepInputs::Bytes(largest)));
  SPOTD_ASSIGN_OR_RETURN(out->results_,
                         Staging::Create(backend, out->ResultsBytes(limits.max_batch)));
  return out;
}

void Decoder::AttachStore(const kvstore::KvLayout& layout) {
  layout_ = layout;
  meter_ = SparsityMeter(layout);
}

size_t Decoder::bytes() const {
  return inputs_.bytes() + results_.bytes() + trace_.bytes();
}

absl::Status Decoder::Decode(std::span<const DecodeRow> rows, std::span<DecodeResult> results,
                             std::span<float> logits) {
  SPOTD_RETURN_IF_ERROR(Check(rows));
  SPOTD_CHECK(results.size() == rows.size());
  const bool sample_in_step = logits.empty();
  Plan(rows);
  SPOTD_RETURN_IF_ERROR(GatherInputs(rows));
  backend_->RunStep(Key(sample_in_step), [this, sample_in_step] { Issue(sample_in_step); });
  if (!sample_in_step) {
    // Sampling overwrites the logits, so they are read before it. Rows leave the step sorted.
    const auto vocab = static_cast<size_t>(config_->vocab);
    SPOTD_CHECK(logits.size() == rows.size() * vocab);
    for (int32_t i = 0; i < plan_.rows(); ++i) {
      backend_->Download(&logits[static_cast<size_t>(plan_.caller_row(i)) * vocab],
                         buffers_->logits.as<float>() + static_cast<size_t>(i) * vocab,
                         vocab * sizeof(float));
    }
    IssueSample(plan_.rows(), StepInputs::At(inputs_.device(), shape()),
                ResultsAt(results_.device(), plan_.rows()));
  }
  results_.Download(backend_, ResultsBytes(plan_.rows()));
  if (plan_.trace()) DownloadTrace();
  SPOTD_RETURN_IF_ERROR(backend_->Synchronize());
  ScatterResults(rows, results);
  return absl::OkStatus();
}

absl::Status Decoder::Check(std::span<const DecodeRow> rows) const {
  SPOTD_CHECK(!rows.empty() && rows.size() <= static_cast<size_t>(limits_.max_batch));
  for (const DecodeRow& row : rows) SPOTD_RETURN_IF_ERROR(CheckRow(row));
  return absl::OkStatus();
}

absl::Status Decoder::CheckRow(const DecodeRow& row) const {
  const int32_t kv_len = row.table->num_tokens() + 1;
  if (row.token < 0 || row.token >= config_->vocab) {
    return InvalidArgument("token ", row.token, " is not in the vocabulary of ", config_->vocab);
  }
  if (kv_len > limits_.max_context) {
    return absl::OutOfRangeError(Concat("the context of ", limits_.max_context, " tokens is full"));
  }
  SPOTD_CHECK(static_cast<int64_t>(row.table->blocks().size()) * layout_.block_tokens >= kv_len);
  SPOTD_CHECK(row.layer_rules.empty() ||
              row.layer_rules.size() == static_cast<size_t>(config_->layers));
  const Chooser chooser = ChooserFor(row.policy, kv_len);
  if (chooser == Chooser::kSelector && !forward_->keeps_selector_keys()) {
    return FailedPrecondition("policy ", PolicyName(row.policy.kind),
                              " needs a selector, and none is loaded for this model");
  }
  if (chooser == Chooser::kQuest && !layout_.summaries) {
    return FailedPrecondition("policy quest needs per-block key bounds, which are not kept");
  }
  return absl::OkStatus();
}

void Decoder::Plan(std::span<const DecodeRow> rows) {
  choosers_.clear();
  kv_lens_.clear();
  bool trace = false;
  for (const DecodeRow& row : rows) {
    kv_lens_.push_back(row.table->num_tokens() + 1);
    choosers_.push_back(ChooserFor(row.policy, kv_lens_.back()));
    trace |= row.trace != nullptr && choosers_.back() != Chooser::kDense;
  }
  plan_.Make(choosers_, kv_lens_, trace);
}

absl::Status Decoder::GatherInputs(std::span<const DecodeRow> rows) {
  const StepInputs inputs = StepInputs::At(inputs_.host(), shape());
  adjustments_.Clear();
  for (int32_t i = 0; i < plan_.rows(); ++i) {
    const DecodeRow& row = rows[static_cast<size_t>(plan_.caller_row(i))];
    const std::vector<kvstore::BlockId>& blocks = row.table->blocks();
    const int32_t kv_len = row.table->num_tokens() + 1;
    inputs.tokens[i] = row.token;
    inputs.positions[i] = kv_len - 1;
    inputs.kv_len[i] = kv_len;
    inputs.row_start[i] = i;
    WriteRules(row, i, inputs.rules);
    inputs.sampling[i] = row.sampling;
    inputs.adjustment_start[i] = adjustments_.size();
    adjustments_.Append(row.adjustments.data(), row.adjustments.size());
    // Entries beyond the row's blocks are never followed, but a valid id lets a kernel load them
    // unconditionally.
    int32_t* table = inputs.block_tables + static_cast<size_t>(i) * plan_.table_stride();
    const auto used = std::min(blocks.size(), static_cast<size_t>(plan_.table_stride()));
    std::copy_n(blocks.begin(), used, table);
    std::fill(table + used, table + plan_.table_stride(), 0);
  }
  inputs.row_start[plan_.rows()] = plan_.rows();
  inputs.adjustment_start[plan_.rows()] = adjustments_.size();
  inputs_.Upload(backend_, StepInputs::Bytes(shape()));
  SPOTD_RETURN_IF_ERROR(adjustments_.Upload(backend_));
  return plan_.trace() ? GrowTrace() : absl::OkStatus();
}

void Decoder::WriteRules(const DecodeRow& row, int32_t i, kernels::BudgetRule* rules) const {
  for (int32_t layer = 0; layer < config_->layers; ++layer) {
    const auto at = static_cast<size_t>(layer);
    kernels::BudgetRule& rule =
        rules[at * static_cast<size_t>(plan_.rows()) + static_cast<size_t>(i)];
    if (!row.layer_rules.empty()) {
      rule = row.layer_rules[at];
    } else if (selector_ != nullptr && !selector_->budget.empty()) {
      rule = row.policy.LayerRule(selector_->budget[at]);
    } else {
      rule = row.policy.Rule();
    }
  }
}

absl::Status Decoder::GrowTrace() {
  const size_t bytes = plan_.ChoiceOffset(layout_.layers, 0) *
                       static_cast<size_t>(plan_.table_stride()) * sizeof(int32_t);
  if (bytes <= trace_.bytes()) return absl::OkStatus();
  SPOTD_ASSIGN_OR_RETURN(trace_, backend_->Allocate(bytes));
  trace_host_.resize(bytes / sizeof(int32_t));
  ++trace_generation_;
  return absl::OkStatus();
}

uint64_t Decoder::Key(bool sample) const {
  uint64_t key = MixKey(plan_.Key(), sample ? 1 : 0);
  // The addresses of arrays that can move.
  key = MixKey(key, plan_.trace() ? trace_generation_ : 0);
  return MixKey(key, adjustments_.size() == 0 ? 0 : adjustments_.generation());
}

void Decoder::Issue(bool sample) {
  const int32_t rows = plan_.rows();
  const StepInputs inputs = StepInputs::At(inputs_.device(), shape());
  const StepResults results = ResultsAt(results_.device(), rows);
  ForwardStep step;
  step.batch = {rows,
                rows,
                plan_.max_kv_len(),
                inputs.block_tables,
                plan_.table_stride(),
                inputs.kv_len,
                inputs.row_start};
  step.tokens = inputs.tokens;
  step.positions = inputs.positions;
  step.output_rows = rows;
  step.plan = &plan_;
  step.rules = inputs.rules;
  step.selected = plan_.trace() ? trace_.as<int32_t>() : buffers_->selected.as<int32_t>();
  step.selected_layer_stride =
      plan_.trace() ? plan_.ChoiceOffset(1, 0) * static_cast<size_t>(plan_.table_stride()) : 0;
  step.counts = results.counts;
  step.covered_mass = results.covered_mass;
  forward_->Run(step);
  forward_->Logits(0, rows);
  if (sample) IssueSample(rows, inputs, results);
}

void Decoder::IssueSample(int32_t rows, const StepInputs& inputs, const StepResults& results) {
  kernels::SampleArgs sample = {};
  sample.logits = buffers_->logits.as<float>();
  sample.rows = rows;
  sample.vocab = config_->vocab;
  sample.params = inputs.sampling;
  sample.adjustments = adjustments_.device();
  sample.adjustment_start = inputs.adjustment_start;
  sample.tokens = results.tokens;
  sample.logprobs = results.logprobs;
  backend_->Sample(sample);
}

void Decoder::ScatterResults(std::span<const DecodeRow> rows, std::span<DecodeResult> results) {
  const StepResults host = ResultsAt(results_.host(), plan_.rows());
  for (const ChooserRange& range : plan_.ranges()) {
    for (int32_t i = range.begin; i < range.begin + range.rows; ++i) {
      const auto caller = static_cast<size_t>(plan_.caller_row(i));
      DecodeResult& result = results[caller];
      result.token = host.tokens[i];
      result.logprob = host.logprobs[i];
      result.sparsity = meter_.Measure(plan_, range, i, kv_lens_[caller], host);
      if (rows[caller].trace != nullptr) ReadTrace(range, i, rows[caller].trace);
    }
  }
}

void Decoder::DownloadTrace() {
  // Whole lists come over: traces are asked for by people, one sequence at a time.
  const size_t elements =
      plan_.ChoiceOffset(layout_.layers, 0) * static_cast<size_t>(plan_.table_stride());
  backend_->Download(trace_host_.data(), trace_.data(), elements * sizeof(int32_t));
}

void Decoder::ReadTrace(const ChooserRange& range, int32_t row, SelectionTrace* trace) {
  const StepResults host = ResultsAt(results_.host(), plan_.rows());
  const int32_t kv_len = kv_lens_[static_cast<size_t>(plan_.caller_row(row))];
  const int32_t visible = (kv_len + layout_.block_tokens - 1) / layout_.block_tokens;
  const auto stride = static_cast<size_t>(plan_.table_stride());
  trace->blocks.resize(static_cast<size_t>(layout_.layers));
  for (int32_t layer = 0; layer < layout_.layers; ++layer) {
    const bool dense = range.chooser == Chooser::kDense;
    std::fill_n(trace_seen_.begin(), visible, dense ? 1 : 0);
    const size_t base = plan_.ChoiceOffset(layer, range.begin);
    for (int32_t group = 0; group < range.groups && !dense; ++group) {
      const size_t choice = base + static_cast<size_t>((row - range.begin) * range.groups + group);
      const int32_t* list = trace_host_.data() + choice * stride;
      for (int32_t i = 0; i < host.counts[choice]; ++i)
        trace_seen_[static_cast<size_t>(list[i])] = 1;
    }
    std::vector<int32_t>& blocks = trace->blocks[static_cast<size_t>(layer)];
    blocks.clear();
    for (int32_t block = 0; block < visible; ++block) {
      if (trace_seen_[static_cast<size_t>(block)] != 0) blocks.push_back(block);
    }
  }
}

}  // namespace spotd::model
