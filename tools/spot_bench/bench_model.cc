#include "tools/spot_bench/bench_model.h"

#include <fstream>
#include <iterator>
#include <random>
#include <thread>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/model/selector.h"
#include "runtime/text/tokenizer.h"

namespace spotd::bench {
namespace {

constexpr uint64_t kSeed = 1;

bool NeedsSelector(model::PolicyKind kind) {
  return kind == model::PolicyKind::kDistilled || kind == model::PolicyKind::kTopK;
}

absl::StatusOr<std::unique_ptr<model::SelectorSource>> SelectorFor(
    const BenchOptions& options, const model::ModelConfig& config) {
  if (!options.selector.empty()) return model::OpenSelector(options.selector, config);
  if (!NeedsSelector(options.policy.kind)) return nullptr;
  model::SelectorConfig selector;
  selector.dim = config.head_dim;
  selector.rope_theta = config.rope.theta;
  return model::RandomSelector(config, selector, kSeed);
}

absl::StatusOr<std::vector<int32_t>> TokensOfFile(const std::string& path,
                                                  const model::ModelSource& source) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound("--text: cannot read ", path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  SPOTD_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::Create(source.tokenizer_data()));
  SPOTD_ASSIGN_OR_RETURN(auto tokens, tokenizer->Encode(text, {}));
  if (tokens.empty()) return InvalidArgument("--text: ", path, " holds no text");
  return tokens;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BenchModel>> BenchModel::Load(const BenchOptions& options) {
  std::unique_ptr<BenchModel> bench(new BenchModel());
  bench->options_ = options;
  bench->threads_ =
      options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
  SPOTD_RETURN_IF_ERROR(options.policy.Validate());
  SPOTD_ASSIGN_OR_RETURN(bench->source_, model::OpenModel(options.model));
  SPOTD_ASSIGN_OR_RETURN(bench->backend_,
                         kernels::CreateBackend({options.backend, options.threads}));
  SPOTD_ASSIGN_OR_RETURN(auto selector, SelectorFor(options, bench->source_->config()));
  model::Limits limits;
  limits.max_batch = options.batch;
  limits.max_prefill_chunk = options.chunk;
  limits.max_context = options.context + options.steps + 1;
  SPOTD_ASSIGN_OR_RETURN(bench->transformer_,
                         model::Transformer::Load(bench->backend_.get(), *bench->source_,
                                                  std::move(selector), limits));
  const kvstore::KvLayout layout = bench->transformer_->KvLayoutFor(options.selector_format);
  const size_t tokens = static_cast<size_t>(limits.max_context) + 2 * layout.block_tokens;
  const size_t blocks = options.batch * (tokens / layout.block_tokens + 1);
  SPOTD_ASSIGN_OR_RETURN(bench->store_, kvstore::KvStore::Create(bench->backend_.get(), layout,
                                                                 blocks * layout.BytesPerBlock()));
  bench->transformer_->AttachStore(bench->store_.get());
  return bench;
}

absl::StatusOr<std::vector<int32_t>> BenchModel::PromptTokens(int32_t count) const {
  std::vector<int32_t> prompt(static_cast<size_t>(count));
  if (options_.text.empty()) {
    std::mt19937 random(kSeed);
    std::uniform_int_distribution<int32_t> token(0, source_->config().vocab - 1);
    for (int32_t& value : prompt) value = token(random);
    return prompt;
  }
  SPOTD_ASSIGN_OR_RETURN(const std::vector<int32_t> text, TokensOfFile(options_.text, *source_));
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = text[i % text.size()];
  return prompt;
}

}  // namespace spotd::bench
