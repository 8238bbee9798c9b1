#include "tools/spot_eval/eval_model.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <thread>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/float16.h"
#include "kernels/core/status.h"
#include "runtime/model/decode_plan.h"

namespace spotd::eval {
namespace {

using kernels::SelectorKeyFormat;

model::Chooser ChooserOf(const EvalRow& row) {
  return model::ChooserFor(row.spec->policy, row.table.num_tokens() + 1);
}

// Rounds a vector of bf16 to what its int4 code says, in place.
void RoundToInt4(Bf16* key, int32_t dim) {
  constexpr auto kGroup = static_cast<size_t>(kernels::kInt4Group);
  std::array<float, kGroup> values;
  std::array<Fp16, kernels::SelectorKeyBytes(SelectorKeyFormat::kInt4, kGroup) / 2> code;
  for (size_t begin = 0; begin < static_cast<size_t>(dim); begin += kGroup) {
    for (size_t i = 0; i < kGroup; ++i) values[i] = ToFloat(key[begin + i]);
    kernels::EncodeSelectorKey(SelectorKeyFormat::kInt4, values.data(), kGroup, code.data());
    kernels::DecodeSelectorKey(SelectorKeyFormat::kInt4, code.data(), kGroup, values.data());
    for (size_t i = 0; i < kGroup; ++i) key[begin + i] = ToBf16(values[i]);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<EvalModel>> EvalModel::Load(const tools::ModelOptions& options) {
  std::unique_ptr<EvalModel> model(new EvalModel());
  model->pool_ = std::make_unique<ThreadPool>(
      options.threads > 0 ? options.threads
                          : std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  tools::ModelOptions with_instruments = options;
  with_instruments.wrap_backend = [&model](std::unique_ptr<kernels::Backend> backend) {
    auto twilight = std::make_unique<TwilightBackend>(std::move(backend));
    model->twilight_ = twilight.get();
    auto probe = std::make_unique<MassProbe>(std::move(twilight), model->pool_.get());
    model->probe_ = probe.get();
    return probe;
  };
  SPOTD_ASSIGN_OR_RETURN(model->loaded_, tools::LoadedModel::Load(with_instruments));
  if (!model->loaded_->has_tokenizer()) {
    return InvalidArgument("--model: ", options.model, " has no tokenizer to read text with");
  }
  return model;
}

absl::Status EvalModel::Step(std::span<EvalRow* const> rows, std::span<const int32_t> tokens,
                             std::span<int32_t> next, std::span<float> logits) {
  std::vector<model::DecodeRow> decode(rows.size());
  std::vector<model::DecodeResult> results(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    decode[i].token = tokens[i];
    decode[i].table = &rows[i]->table;
    decode[i].policy = rows[i]->spec->policy;
    decode[i].trace = rows[i]->trace;
    decode[i].sampling.top_p = 1;
    decode[i].sampling.repetition_penalty = 1;
    SPOTD_RETURN_IF_ERROR(loaded_->store().Reserve(&rows[i]->table, 1));
  }
  Prepare(rows);
  SPOTD_RETURN_IF_ERROR(loaded_->transformer().Decode(decode, results, logits));
  Record(rows, results);
  for (size_t i = 0; i < rows.size(); ++i) {
    loaded_->store().Commit(&rows[i]->table, 1);
    next[i] = results[i].token;
  }
  return absl::OkStatus();
}

// Tells the instruments which rows the step will run, in its order: by chooser, then the caller's.
void EvalModel::Prepare(std::span<EvalRow* const> rows) {
  step_order_.resize(rows.size());
  std::iota(step_order_.begin(), step_order_.end(), 0);
  std::stable_sort(step_order_.begin(), step_order_.end(),
                   [&](size_t a, size_t b) { return ChooserOf(*rows[a]) < ChooserOf(*rows[b]); });
  std::vector<std::optional<TwilightRule>> quest;
  std::vector<MassProbe::Row> watched;
  for (const size_t i : step_order_) {
    const EvalRow& row = *rows[i];
    if (ChooserOf(row) == model::Chooser::kQuest) quest.push_back(row.spec->twilight);
    watched.push_back({row.table.num_tokens() + 1, row.spec->policy.Rule()});
  }
  twilight_->SetQuestRows(std::move(quest));
  if (probing_) probe_->WatchStep(std::move(watched));
}

void EvalModel::Record(std::span<EvalRow* const> rows,
                       std::span<const model::DecodeResult> results) {
  const kvstore::KvLayout& layout = loaded_->store().layout();
  const auto estimate_bytes =
      static_cast<double>(layout.block_tokens) *
      static_cast<double>(kernels::SelectorKeyBytes(SelectorKeyFormat::kInt4, layout.head_dim));
  size_t quest_row = 0;
  for (const size_t i : step_order_) {
    Reading& reading = rows[i]->reading;
    const model::RowSparsity& sparsity = results[i].sparsity;
    ++reading.steps;
    reading.blocks_attended += static_cast<double>(sparsity.blocks_attended);
    reading.blocks_visible += static_cast<double>(sparsity.blocks_visible);
    reading.bytes_read += static_cast<double>(sparsity.bytes_read);
    reading.bytes_dense += static_cast<double>(sparsity.bytes_dense);
    reading.believed += static_cast<double>(sparsity.covered_mass);
    if (ChooserOf(*rows[i]) != model::Chooser::kQuest) continue;
    reading.bytes_read +=
        estimate_bytes * static_cast<double>(twilight_->superset_blocks()[quest_row++]);
  }
  if (probing_) RecordChoices(rows);
}

void EvalModel::RecordChoices(std::span<EvalRow* const> rows) {
  const std::span<const ChoiceMass> choices = probe_->choices();
  const auto layers = static_cast<size_t>(config().layers);
  SPOTD_CHECK(choices.size() == layers * rows.size());
  for (size_t layer = 0; layer < layers; ++layer) {
    for (size_t at = 0; at < rows.size(); ++at) {
      const ChoiceMass& choice = choices[layer * rows.size() + at];
      Reading& reading = rows[step_order_[at]]->reading;
      reading.layers.resize(layers);
      LayerReading& sum = reading.layers[layer];
      sum.mass += choice.mass;
      sum.oracle += choice.oracle;
      sum.layer_oracle += choice.layer_oracle;
      sum.believed += choice.believed;
      sum.density += choice.chosen_blocks / choice.visible_blocks;
      sum.heads.resize(choice.heads.size());
      for (size_t h = 0; h < choice.heads.size(); ++h) {
        sum.heads[h] += static_cast<double>(choice.heads[h]);
      }
      reading.beliefs.push_back(
          {static_cast<float>(choice.believed), static_cast<float>(choice.mass)});
    }
  }
}

absl::StatusOr<std::vector<kvstore::BlockTable>> EvalModel::QuantiseKeys(
    std::span<kvstore::BlockTable* const> prefixes) {
  kvstore::KvStore& store = loaded_->store();
  const kvstore::KvLayout& layout = store.layout();
  if (layout.head_dim % kernels::kInt4Group != 0) {
    return Unimplemented("twilight: a head of ", layout.head_dim, " dims has no int4 form");
  }
  std::vector<int32_t> instead_of(static_cast<size_t>(store.stats().blocks_total));
  std::iota(instead_of.begin(), instead_of.end(), 0);
  std::vector<kvstore::BlockTable> copies;
  std::vector<std::pair<int32_t, int32_t>> pairs;  // block, its copy
  for (const kvstore::BlockTable* prefix : prefixes) {
    kvstore::BlockTable& copy = copies.emplace_back(store.NewTable());
    SPOTD_RETURN_IF_ERROR(store.Reserve(&copy, prefix->num_tokens()));
    store.Commit(&copy, prefix->num_tokens());
    for (size_t b = 0; b < copy.blocks().size(); ++b) {
      pairs.emplace_back(prefix->blocks()[b], copy.blocks()[b]);
      instead_of[static_cast<size_t>(prefix->blocks()[b])] = copy.blocks()[b];
    }
  }
  for (int32_t layer = 0; layer < layout.layers; ++layer) QuantiseLayer(layer, pairs);
  SPOTD_RETURN_IF_ERROR(loaded_->backend().Synchronize());
  twilight_->SetQuantisedBlocks(std::move(instead_of));
  return copies;
}

void EvalModel::QuantiseLayer(int32_t layer, std::span<const std::pair<int32_t, int32_t>> blocks) {
  kvstore::KvStore& store = loaded_->store();
  const kvstore::KvLayout& layout = store.layout();
  const kernels::KvLayer view = store.LayerView(layer);
  const size_t block_elements = layout.KvBlockBytes() / sizeof(Bf16);
  const size_t key_elements = block_elements / 2;  // K before V
  // Only the stretch of the array that the blocks lie in.
  int32_t low = view.num_blocks;
  int32_t high = 0;
  for (const auto& [from, to] : blocks) {
    low = std::min({low, from, to});
    high = std::max({high, from + 1, to + 1});
  }
  Bf16* const device = static_cast<Bf16*>(view.kv) + static_cast<size_t>(low) * block_elements;
  std::vector<Bf16> kv =
      ToHost(loaded_->backend(), device, static_cast<size_t>(high - low) * block_elements);
  pool_->ParallelFor(static_cast<int64_t>(blocks.size()), 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const auto [from, to] = blocks[static_cast<size_t>(i)];
      Bf16* const keys = &kv[static_cast<size_t>(to - low) * block_elements];
      std::copy_n(&kv[static_cast<size_t>(from - low) * block_elements], key_elements, keys);
      for (size_t at = 0; at < key_elements; at += static_cast<size_t>(layout.head_dim)) {
        RoundToInt4(keys + at, layout.head_dim);
      }
    }
  });
  loaded_->backend().Upload(device, kv.data(), kv.size() * sizeof(Bf16));
}

}  // namespace spotd::eval
