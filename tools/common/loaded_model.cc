#include "tools/common/loaded_model.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "kernels/core/read_file.h"
#include "kernels/core/status.h"
#include "runtime/model/selector.h"
#include "tools/common/synthetic_source.h"

namespace spotd::tools {
namespace {

constexpr uint64_t kSelectorSeed = 1;

absl::StatusOr<std::unique_ptr<model::SelectorSource>> SelectorFor(
    const ModelOptions& options, const model::ModelConfig& config) {
  if (!options.selector_bytes.empty()) {
    return model::ReadSelector(
        formats::MappedFile::InMemory(options.selector, options.selector_bytes), config);
  }
  if (!options.selector.empty()) return model::OpenSelector(options.selector, config);
  if (!options.random_selector) return nullptr;
  model::SelectorConfig selector;
  selector.dim = config.head_dim;
  selector.rope_theta = config.rope.theta;
  return model::RandomSelector(config, selector, kSelectorSeed);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadedModel::Load(const ModelOptions& options) {
  if (options.model.empty()) return InvalidArgument("--model is required");
  std::unique_ptr<LoadedModel> loaded(new LoadedModel());
  loaded->threads_ =
      options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
  loaded->chunk_ = options.chunk;
  if (options.model.starts_with(kSyntheticPrefix)) {
    SPOTD_ASSIGN_OR_RETURN(loaded->source_,
                           MakeSyntheticSource(options.model.substr(kSyntheticPrefix.size())));
  } else {
    SPOTD_ASSIGN_OR_RETURN(loaded->source_, model::OpenModel(options.model));
    SPOTD_ASSIGN_OR_RETURN(loaded->tokenizer_,
                           text::Tokenizer::Create(loaded->source_->tokenizer_data()));
  }
  SPOTD_ASSIGN_OR_RETURN(loaded->backend_,
                         kernels::CreateBackend({options.backend, options.threads}));
  if (options.wrap_backend) loaded->backend_ = options.wrap_backend(std::move(loaded->backend_));
  SPOTD_ASSIGN_OR_RETURN(auto selector, SelectorFor(options, loaded->source_->config()));
  model::Limits limits;
  limits.max_batch = options.max_batch;
  limits.max_prefill_chunk = options.chunk;
  limits.max_context = options.max_context;
  SPOTD_ASSIGN_OR_RETURN(loaded->transformer_,
                         model::Transformer::Load(loaded->backend_.get(), *loaded->source_,
                                                  std::move(selector), limits));
  kvstore::KvLayout layout = loaded->transformer_->KvLayoutFor(options.selector_format);
  layout.summaries = options.summaries;
  const int64_t tokens =
      options.kv_tokens > 0
          ? options.kv_tokens
          : int64_t{options.sequences} * (options.max_context + 2 * layout.block_tokens);
  const auto blocks = static_cast<size_t>(tokens / layout.block_tokens);
  SPOTD_ASSIGN_OR_RETURN(loaded->store_, kvstore::KvStore::Create(loaded->backend_.get(), layout,
                                                                  blocks * layout.BytesPerBlock()));
  loaded->transformer_->AttachStore(loaded->store_.get());
  return loaded;
}

absl::Status LoadedModel::Prefill(std::span<const int32_t> tokens, kvstore::BlockTable* table) {
  SPOTD_RETURN_IF_ERROR(store_->Reserve(table, static_cast<int32_t>(tokens.size())));
  for (size_t done = 0; done < tokens.size(); done += static_cast<size_t>(chunk_)) {
    const auto part =
        tokens.subspan(done, std::min<size_t>(static_cast<size_t>(chunk_), tokens.size() - done));
    model::PrefillChunk chunk;
    chunk.tokens = part;
    chunk.table = table;
    SPOTD_RETURN_IF_ERROR(transformer_->Prefill(chunk, {}));
    store_->Commit(table, static_cast<int32_t>(part.size()));
  }
  return backend_->Synchronize();
}

absl::StatusOr<std::vector<int32_t>> TokensOfFile(const std::string& path,
                                                  const text::Tokenizer& tokenizer) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return InvalidArgument("--text: ", text.status().message());
  absl::StatusOr<std::vector<int32_t>> tokens = tokenizer.Encode(*text, {});
  if (!tokens.ok()) return InvalidArgument("--text: ", path, ": ", tokens.status().message());
  if (tokens->empty()) return InvalidArgument("--text: ", path, " holds no text");
  return tokens;
}

}  // namespace spotd::tools
