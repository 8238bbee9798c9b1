#include "runtime/model/transformer.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "runtime/model/decode_plan.h"
#include "runtime/model/decoder.h"
#include "runtime/model/forward_pass.h"
#include "runtime/model/step_arrays.h"
#include "runtime/model/step_buffers.h"
#include "runtime/model/weights.h"

namespace spotd::model {
namespace {

absl::StatusOr<Limits> CheckLimits(Limits limits, const ModelConfig& config) {
  if (limits.max_context == 0) limits.max_context = config.context_length;
  const auto out_of_range = [](std::string_view field, int64_t value, int64_t least, int64_t most) {
    return InvalidArgument("limits: ", field, " is ", value, "; it must be between ", least,
                           " and ", most);
  };
  if (limits.max_batch < 1 || limits.max_batch > kernels::kMaxInvariantRows) {
    return out_of_range("max_batch", limits.max_batch, 1, kernels::kMaxInvariantRows);
  }
  if (limits.max_prefill_chunk < 1 || limits.max_prefill_chunk > 65536) {
    return out_of_range("max_prefill_chunk", limits.max_prefill_chunk, 1, 65536);
  }
  if (limits.max_context < 1 || limits.max_context > config.context_length) {
    return out_of_range("max_context", limits.max_context, 1, config.context_length);
  }
  if (limits.block_tokens != 16 && limits.block_tokens != 32 && limits.block_tokens != 64) {
    return InvalidArgument("limits: block_tokens is ", limits.block_tokens,
                           "; 16, 32 and 64 are possible");
  }
  return limits;
}

}  // namespace

struct Transformer::Impl {
  kernels::Backend* backend = nullptr;
  ModelConfig config;
  std::unique_ptr<SelectorSource> selector_source;  // only its config is used after loading
  Limits limits;
  ModelWeights weights;
  StepBuffers buffers;
  Staging prefill_inputs;
  std::unique_ptr<ForwardPass> forward;
  std::unique_ptr<Decoder> decoder;

  const SelectorConfig* selector() const {
    return selector_source == nullptr ? nullptr : &selector_source->config();
  }

  absl::Status CheckChunk(const PrefillChunk& chunk) const;
  // Blocks that hold the sequence once the chunk is in it.
  int32_t UsedBlocks(const PrefillChunk& chunk) const;
  // Issues the chunks; the residual stream of the last `output_rows` rows is in buffers.hidden
  // afterwards.
  void RunChunks(std::span<const PrefillChunk> chunks, int32_t output_rows);
  void DownloadLogits(int32_t first, std::span<float> logits);
};

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Load(
    kernels::Backend* backend, const ModelSource& source, std::unique_ptr<SelectorSource> selector,
    const Limits& limits) {
  auto impl = std::make_unique<Impl>();
  impl->backend = backend;
  impl->config = source.config();
  impl->selector_source = std::move(selector);
  SPOTD_ASSIGN_OR_RETURN(impl->limits, CheckLimits(limits, impl->config));
  SPOTD_ASSIGN_OR_RETURN(impl->weights, LoadWeights(backend, source, impl->selector_source.get()));
  const int32_t max_blocks =
      (impl->limits.max_context + impl->limits.block_tokens - 1) / impl->limits.block_tokens;
  const int32_t rows = std::max(impl->limits.max_batch, impl->limits.max_prefill_chunk);
  const StepCapacity capacity = {rows, impl->limits.max_batch, BucketBlocks(max_blocks)};
  SPOTD_ASSIGN_OR_RETURN(impl->buffers,
                         StepBuffers::Create(backend, impl->config, impl->selector(), capacity));
  const StepShape chunk = {impl->limits.max_prefill_chunk, impl->limits.max_batch,
                           capacity.table_stride};
  SPOTD_ASSIGN_OR_RETURN(impl->prefill_inputs, Staging::Create(backend, StepInputs::Bytes(chunk)));
  impl->forward = std::make_unique<ForwardPass>(backend, &impl->config, &impl->weights,
                                                impl->selector(), &impl->buffers);
  SPOTD_ASSIGN_OR_RETURN(impl->decoder,
                         Decoder::Create(backend, &impl->config, impl->selector(), impl->limits,
                                         impl->forward.get(), &impl->buffers));
  SPOTD_RETURN_IF_ERROR(backend->Synchronize());
  return std::unique_ptr<Transformer>(new Transformer(std::move(impl)));
}

Transformer::Transformer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Transformer::~Transformer() = default;

kvstore::KvLayout Transformer::KvLayoutFor(kernels::SelectorKeyFormat format) const {
  kvstore::KvLayout layout;
  layout.layers = impl_->config.layers;
  layout.kv_heads = impl_->config.kv_heads;
  layout.head_dim = impl_->config.head_dim;
  layout.block_tokens = impl_->limits.block_tokens;
  if (const SelectorConfig* selector = impl_->selector()) {
    layout.selector_format = format;
    layout.selector_dim = format == kernels::SelectorKeyFormat::kNone ? 0 : selector->dim;
  }
  return layout;
}

void Transformer::AttachStore(kvstore::KvStore* store) {
  SPOTD_CHECK(store->layout().block_tokens == impl_->limits.block_tokens);
  impl_->forward->AttachStore(*store);
  impl_->decoder->AttachStore(store->layout());
}

int32_t Transformer::Impl::UsedBlocks(const PrefillChunk& chunk) const {
  const int32_t end = chunk.table->num_tokens() + static_cast<int32_t>(chunk.tokens.size());
  return (end + limits.block_tokens - 1) / limits.block_tokens;
}

absl::Status Transformer::Impl::CheckChunk(const PrefillChunk& chunk) const {
  SPOTD_CHECK(forward->attached());
  SPOTD_CHECK(chunk.positions.empty() || chunk.positions.size() == chunk.tokens.size());
  SPOTD_CHECK(!chunk.tokens.empty() &&
              chunk.tokens.size() <= static_cast<size_t>(limits.max_prefill_chunk));
  for (const int32_t token : chunk.tokens) {
    if (token < 0 || token >= config.vocab) {
      return InvalidArgument("token ", token, " is not in the vocabulary of ", config.vocab);
    }
  }
  const int64_t end =
      int64_t{chunk.table->num_tokens()} + static_cast<int64_t>(chunk.tokens.size());
  if (end > limits.max_context) {
    return absl::OutOfRangeError(
        Concat("a context of ", end, " tokens is beyond the limit of ", limits.max_context));
  }
  SPOTD_CHECK(static_cast<int64_t>(chunk.table->blocks().size()) * limits.block_tokens >= end);
  return absl::OkStatus();
}

void Transformer::Impl::RunChunks(std::span<const PrefillChunk> chunks, int32_t output_rows) {
  StepShape shape = {0, static_cast<int32_t>(chunks.size()), 0};
  for (const PrefillChunk& chunk : chunks) {
    shape.rows += static_cast<int32_t>(chunk.tokens.size());
    shape.table_stride = std::max(shape.table_stride, UsedBlocks(chunk));
  }
  const StepInputs host = StepInputs::At(prefill_inputs.host(), shape);
  int32_t row = 0;
  int32_t longest = 0;
  for (size_t s = 0; s < chunks.size(); ++s) {
    const PrefillChunk& chunk = chunks[s];
    const auto rows = static_cast<int32_t>(chunk.tokens.size());
    const int32_t before = chunk.table->num_tokens();
    std::copy(chunk.tokens.begin(), chunk.tokens.end(), host.tokens + row);
    if (chunk.positions.empty()) {
      std::iota(host.positions + row, host.positions + row + rows, before);
    } else {
      std::copy(chunk.positions.begin(), chunk.positions.end(), host.positions + row);
    }
    host.kv_len[s] = before + rows;
    host.row_start[s] = row;
    int32_t* table = host.block_tables + s * static_cast<size_t>(shape.table_stride);
    std::copy_n(chunk.table->blocks().begin(), UsedBlocks(chunk), table);
    std::fill(table + UsedBlocks(chunk), table + shape.table_stride, 0);
    row += rows;
    longest = std::max(longest, before + rows);
  }
  host.row_start[chunks.size()] = row;
  prefill_inputs.Upload(backend, StepInputs::Bytes(shape));

  const StepInputs inputs = StepInputs::At(prefill_inputs.device(), shape);
  ForwardStep step;
  step.batch = {shape.seqs,         shape.rows,    longest,         inputs.block_tables,
                shape.table_stride, inputs.kv_len, inputs.row_start};
  step.tokens = inputs.tokens;
  step.positions = inputs.positions;
  step.output_rows = output_rows;
  step.observer = chunks.front().observer;
  forward->Run(step);
}

void Transformer::Impl::DownloadLogits(int32_t first, std::span<float> logits) {
  const auto rows = static_cast<int32_t>(logits.size() / static_cast<size_t>(config.vocab));
  forward->Logits(first, rows);
  backend->Download(logits.data(), buffers.logits.data(), logits.size_bytes());
}

absl::Status Transformer::Prefill(const PrefillChunk& chunk, std::span<float> logits) {
  SPOTD_RETURN_IF_ERROR(impl_->CheckChunk(chunk));
  SPOTD_CHECK(logits.empty() || logits.size() == static_cast<size_t>(impl_->config.vocab));
  impl_->RunChunks({&chunk, 1}, logits.empty() ? 0 : 1);
  if (!logits.empty()) {
    impl_->DownloadLogits(static_cast<int32_t>(chunk.tokens.size()) - 1, logits);
  }
  return impl_->backend->Synchronize();
}

absl::Status Transformer::PrefillMany(std::span<const PrefillChunk> chunks) {
  size_t tokens = 0;
  for (const PrefillChunk& chunk : chunks) {
    SPOTD_RETURN_IF_ERROR(impl_->CheckChunk(chunk));
    tokens += chunk.tokens.size();
  }
  SPOTD_CHECK(!chunks.empty() && chunks.size() <= static_cast<size_t>(impl_->limits.max_batch) &&
              tokens <= static_cast<size_t>(impl_->limits.max_prefill_chunk));
  impl_->RunChunks(chunks, 0);
  return impl_->backend->Synchronize();
}

absl::Status Transformer::PrefillAllLogits(const PrefillChunk& chunk, std::span<float> logits) {
  SPOTD_RETURN_IF_ERROR(impl_->CheckChunk(chunk));
  const auto vocab = static_cast<size_t>(impl_->config.vocab);
  SPOTD_CHECK(logits.size() == chunk.tokens.size() * vocab);
  impl_->RunChunks({&chunk, 1}, static_cast<int32_t>(chunk.tokens.size()));
  // The logits buffer is sized for a decode batch.
  const auto at_once = static_cast<size_t>(impl_->limits.max_batch);
  for (size_t first = 0; first < chunk.tokens.size(); first += at_once) {
    const size_t rows = std::min(at_once, chunk.tokens.size() - first);
    impl_->DownloadLogits(static_cast<int32_t>(first), logits.subspan(first * vocab, rows * vocab));
  }
  return impl_->backend->Synchronize();
}

absl::Status Transformer::Decode(std::span<const DecodeRow> rows, std::span<DecodeResult> results,
                                 std::span<float> logits) {
  SPOTD_CHECK(impl_->forward->attached());
  return impl_->decoder->Decode(rows, results, logits);
}

int32_t Transformer::StepRow(int32_t i) const {
  return impl_->decoder->StepRow(i);
}

const ModelConfig& Transformer::config() const {
  return impl_->config;
}
bool Transformer::has_selector() const {
  return impl_->selector() != nullptr;
}
const Limits& Transformer::limits() const {
  return impl_->limits;
}
size_t Transformer::weight_bytes() const {
  return impl_->weights.total_bytes;
}
size_t Transformer::decode_weight_bytes() const {
  return impl_->weights.decode_bytes;
}
size_t Transformer::activation_bytes() const {
  return impl_->buffers.bytes + impl_->prefill_inputs.bytes() + impl_->decoder->bytes();
}

}  // namespace spotd::model
