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
                     std::vector<TailDocument> documents, int32_t tail, int threads)
    : transformer_(transformer),
      store_(store),
      documents_(std::move(documents)),
      tail_(static_cast<size_t>(tail)),
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
  const auto at_once = static_cast<size_t>(transformer_->limits().max_batch - 1);
  double plain = 0;
  double answers = 0;
  for (const TailDocument& document : documents_) {
    (document.answer_tokens > 0 ? answers : plain) +=
        document.answer_tokens > 0 ? document.answer_tokens + 1 : static_cast<double>(tail_);
    kvstore::BlockTable prefix = store_->NewTable();
    SPOTD_RETURN_IF_ERROR(Prefill(document.tokens.first(document.tokens.size() - tail_), &prefix));
    for (size_t first = 0; first < variants.size(); first += at_once) {
      const size_t count = std::min(at_once, variants.size() - first);
      SPOTD_RETURN_IF_ERROR(MeasureTail(prefix, document, variants.subspan(first, count),
                                        std::span(figures).subspan(first, count)));
    }
  }
  for (TailFigures& figure : figures) {
    figure.kl /= std::max(plain, 1.0);
    figure.density /= std::max(plain, 1.0);
    figure.answer_kl /= std::max(answers, 1.0);
  }
  return figures;
}

absl::Status TailMeter::MeasureTail(const kvstore::BlockTable& prefix, const TailDocument& document,
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
  const auto answer = static_cast<size_t>(document.answer_tokens);
  for (size_t step = 0; step < tail_; ++step) {
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i].token = document.tokens[document.tokens.size() - tail_ + step];
      SPOTD_RETURN_IF_ERROR(store_->Reserve(&tables[i], 1));
    }
    SPOTD_RETURN_IF_ERROR(transformer_->Decode(rows, results, logits));
    for (kvstore::BlockTable& table : tables) store_->Commit(&table, 1);
    // The question is decoded like the answer, but what it predicts is of no interest.
    if (answer > 0 && step + 1 + answer < tail_) continue;
    const Reference dense(logits.first(vocab));
    pool_.ParallelFor(
        static_cast<int64_t>(variants.size()), 1, [&](int64_t begin, int64_t end, int) {
          for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
            const model::RowSparsity& read = results[i + 1].sparsity;
            const double kl = dense.KlTo(logits.subspan((i + 1) * vocab, vocab));
            (answer > 0 ? sums[i].answer_kl : sums[i].kl) += kl;
            if (answer > 0) continue;
            sums[i].density += static_cast<double>(read.blocks_attended) /
                               static_cast<double>(read.blocks_visible);
          }
        });
  }
  return absl::OkStatus();
}

}  // namespace spotd::distill
