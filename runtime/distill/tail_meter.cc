#include "runtime/distill/tail_meter.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/core/status.h"

namespace spotd::distill {
namespace {

// log sum exp of one row of logits.
double LogSum(std::span<const float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

// A next-token distribution that others are compared with.
struct Reference {
  std::vector<float> probabilities;
  double entropy_term = 0;  // sum of p log p

  explicit Reference(std::span<const float> logits) : probabilities(logits.size()) {
    const double sum = LogSum(logits);
    for (size_t i = 0; i < logits.size(); ++i) {
      const float log_p = logits[i] - static_cast<float>(sum);
      probabilities[i] = std::exp(log_p);
      entropy_term += double{probabilities[i]} * log_p;
    }
  }
  // KL(reference || softmax(logits))
  double KlTo(std::span<const float> logits) const {
    const double sum = LogSum(logits);
    double cross = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      cross += double{probabilities[i]} * (logits[i] - sum);
    }
    return entropy_term - cross;
  }
};

}  // namespace

TailMeter::TailMeter(model::Transformer* transformer, kvstore::KvStore* store,
                     std::vector<std::span<const int32_t>> documents, const TailOptions& options,
                     int threads)
    : transformer_(transformer),
      store_(store),
      documents_(std::move(documents)),
      options_(options),
      pool_(threads) {
  logits_.resize(static_cast<size_t>(transformer->limits().max_batch) *
                 static_cast<size_t>(transformer->config().vocab));
}

absl::Status TailMeter::Prefill(std::span<const int32_t> tokens, kvstore::BlockTable* table) {
  const auto at_once = static_cast<size_t>(transformer_->limits().max_prefill_chunk);
  for (size_t first = 0; first < tokens.size(); first += at_once) {
    model::PrefillChunk chunk;
    chunk.tokens = tokens.subspan(first, std::min(at_once, tokens.size() - first));
    chunk.table = table;
    const auto count = static_cast<int32_t>(chunk.tokens.size());
    SPOTD_RETURN_IF_ERROR(store_->Reserve(table, count));
    SPOTD_RETURN_IF_ERROR(transformer_->Prefill(chunk, {}));
    store_->Commit(table, count);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TailFigures>> TailMeter::Measure(std::span<const Variant> variants) {
  std::vector<TailFigures> figures(variants.size());
  const auto prefix_tokens = static_cast<size_t>(options_.context - options_.tail);
  const auto at_once = static_cast<size_t>(transformer_->limits().max_batch - 1);
  for (const std::span<const int32_t> document : documents_) {
    kvstore::BlockTable prefix = store_->NewTable();
    SPOTD_RETURN_IF_ERROR(Prefill(document.first(prefix_tokens), &prefix));
    const auto tail = document.subspan(prefix_tokens, static_cast<size_t>(options_.tail));
    for (size_t first = 0; first < variants.size(); first += at_once) {
      const size_t count = std::min(at_once, variants.size() - first);
      SPOTD_RETURN_IF_ERROR(MeasureTail(prefix, tail, variants.subspan(first, count),
                                        std::span(figures).subspan(first, count)));
    }
  }
  const double tokens = static_cast<double>(documents_.size()) * options_.tail;
  for (TailFigures& figure : figures) {
    figure.kl /= tokens;
    figure.density /= tokens;
  }
  return figures;
}

absl::Status TailMeter::MeasureTail(const kvstore::BlockTable& prefix,
                                    std::span<const int32_t> tail,
                                    std::span<const Variant> variants,
                                    std::span<TailFigures> sums) {
  const auto vocab = static_cast<size_t>(transformer_->config().vocab);
  std::vector<kvstore::BlockTable> tables;
  std::vector<model::DecodeRow> rows(variants.size() + 1);  // row 0 is dense
  std::vector<model::DecodeResult> results(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) tables.push_back(store_->Fork(prefix));
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].table = &tables[i];
    rows[i].sampling.top_p = 1;
    rows[i].sampling.repetition_penalty = 1;
    if (i == 0) continue;
    rows[i].policy.kind = variants[i - 1].chooser;
    rows[i].policy.dense_below_tokens = 0;
    rows[i].layer_rules = variants[i - 1].rules;
  }
  const std::span<float> logits = std::span(logits_).first(rows.size() * vocab);
  for (const int32_t token : tail) {
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i].token = token;
      SPOTD_RETURN_IF_ERROR(store_->Reserve(&tables[i], 1));
    }
    SPOTD_RETURN_IF_ERROR(transformer_->Decode(rows, results, logits));
    for (kvstore::BlockTable& table : tables) store_->Commit(&table, 1);
    const Reference dense(logits.first(vocab));
    pool_.ParallelFor(
        static_cast<int64_t>(variants.size()), 1, [&](int64_t begin, int64_t end, int) {
          for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
            const model::RowSparsity& read = results[i + 1].sparsity;
            sums[i].kl += dense.KlTo(logits.subspan((i + 1) * vocab, vocab));
            sums[i].density += static_cast<double>(read.blocks_attended) /
                               static_cast<double>(read.blocks_visible);
          }
        });
  }
  return absl::OkStatus();
}

}  // namespace spotd::distill
