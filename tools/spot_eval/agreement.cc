#include "tools/spot_eval/agreement.h"

#include <algorithm>
#include <utility>

#include "kernels/core/status.h"
#include "tools/spot_eval/distribution.h"

namespace spotd::eval {
namespace {

// Documents side by side, each with one dense row and a row for each policy.
class TailBatch {
 public:
  TailBatch(EvalModel* model, std::span<const Document> documents, const TailOptions& options,
            std::span<const PolicySpec> policies)
      : model_(*model), documents_(documents), options_(options), policies_(policies) {
    dense_.label = "full";
    results_.assign(documents.size(), std::vector<Agreement>(policies.size()));
  }

  absl::Status Prefill();
  absl::Status Decode();
  std::vector<std::vector<Agreement>> TakeResults();

 private:
  size_t row_width() const { return policies_.size() + 1; }
  int32_t TailToken(size_t document, int32_t i) const {
    return documents_[document].tokens[static_cast<size_t>(options_.end - options_.tail + i)];
  }
  void CompareStep(int32_t step);

  EvalModel& model_;
  std::span<const Document> documents_;
  TailOptions options_;
  std::span<const PolicySpec> policies_;
  PolicySpec dense_;
  std::vector<kvstore::BlockTable> prefixes_;
  std::vector<kvstore::BlockTable> quantised_;
  std::vector<EvalRow> rows_;  // [documents, 1 + policies], the dense row first
  std::vector<float> logits_;  // [rows, vocab]
  std::vector<std::vector<Agreement>> results_;
};

absl::Status TailBatch::Prefill() {
  const auto begin = static_cast<size_t>(options_.end - options_.context);
  const auto length = static_cast<size_t>(options_.context - options_.tail);
  std::vector<kvstore::BlockTable*> prefixes;
  prefixes_.reserve(documents_.size());
  for (const Document& document : documents_) {
    kvstore::BlockTable& table = prefixes_.emplace_back(model_.loaded().store().NewTable());
    const std::span<const int32_t> tokens(document.tokens);
    SPOTD_RETURN_IF_ERROR(model_.loaded().Prefill(tokens.subspan(begin, length), &table));
    prefixes.push_back(&table);
  }
  if (std::any_of(policies_.begin(), policies_.end(),
                  [](const PolicySpec& spec) { return spec.twilight.has_value(); })) {
    SPOTD_ASSIGN_OR_RETURN(quantised_, model_.QuantiseKeys(prefixes));
  }
  for (const kvstore::BlockTable& prefix : prefixes_) {
    for (size_t p = 0; p < row_width(); ++p) {
      EvalRow& row = rows_.emplace_back();
      row.spec = p == 0 ? &dense_ : &policies_[p - 1];
      row.table = model_.loaded().store().Fork(prefix);
    }
  }
  return absl::OkStatus();
}

absl::Status TailBatch::Decode() {
  std::vector<EvalRow*> rows;
  for (EvalRow& row : rows_) rows.push_back(&row);
  std::vector<int32_t> tokens(rows.size());
  std::vector<int32_t> next(rows.size());
  logits_.resize(rows.size() * model_.vocab());
  // The last token of the tail is predicted, never fed.
  for (int32_t step = 0; step + 1 < options_.tail; ++step) {
    for (size_t i = 0; i < rows.size(); ++i) tokens[i] = TailToken(i / row_width(), step);
    SPOTD_RETURN_IF_ERROR(model_.Step(rows, tokens, next, logits_));
    CompareStep(step);
  }
  return absl::OkStatus();
}

void TailBatch::CompareStep(int32_t step) {
  const size_t vocab = model_.vocab();
  const double weight = 1.0 / (options_.tail - 1);
  const auto logits = [&](size_t row) {
    return std::span<const float>(&logits_[row * vocab], vocab);
  };
  std::vector<std::unique_ptr<Reference>> dense(documents_.size());
  model_.pool().ParallelFor(
      static_cast<int64_t>(documents_.size()), 1, [&](int64_t begin, int64_t end, int) {
        for (auto d = static_cast<size_t>(begin); d < static_cast<size_t>(end); ++d) {
          dense[d] = std::make_unique<Reference>(logits(d * row_width()));
        }
      });
  const auto compare = [&](size_t pair) {
    const size_t d = pair / policies_.size();
    const size_t p = pair % policies_.size();
    const int32_t token = TailToken(d, step + 1);
    const auto c = dense[d]->Compare(logits(d * row_width() + 1 + p), token);
    Agreement& sum = results_[d][p];
    sum.nll += weight * c.nll;
    sum.dense_nll += weight * dense[d]->Nll(token);
    sum.kl += weight * c.kl;
    sum.top1 += c.same_top ? weight : 0;
  };
  model_.pool().ParallelFor(static_cast<int64_t>(documents_.size() * policies_.size()), 1,
                            [&](int64_t begin, int64_t end, int) {
                              for (int64_t i = begin; i < end; ++i) compare(static_cast<size_t>(i));
                            });
}

std::vector<std::vector<Agreement>> TailBatch::TakeResults() {
  for (size_t d = 0; d < documents_.size(); ++d) {
    for (size_t p = 0; p < policies_.size(); ++p) {
      results_[d][p].reading = std::move(rows_[d * row_width() + 1 + p].reading);
    }
  }
  return std::move(results_);
}

}  // namespace

absl::StatusOr<std::vector<std::vector<Agreement>>> MeasureAgreement(
    EvalModel& model, std::span<const Document> documents, const TailOptions& options,
    std::span<const PolicySpec> policies) {
  TailBatch batch(&model, documents, options, policies);
  SPOTD_RETURN_IF_ERROR(batch.Prefill());
  SPOTD_RETURN_IF_ERROR(batch.Decode());
  return batch.TakeResults();
}

}  // namespace spotd::eval
