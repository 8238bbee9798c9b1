#include "tools/spot_eval/retrieval.h"

#include <algorithm>
#include <utility>

#include "kernels/core/status.h"

namespace spotd::eval {
namespace {

// One policy's reply to one prompt, as it grows.
struct ReplyRow {
  EvalRow row;
  std::span<const int32_t> question;  // fed before the reply
  size_t fed = 0;                     // of the question
  int32_t max_new_tokens = 0;
  std::vector<int32_t> reply;
  bool done = false;
  std::vector<double> recall;  // sums over the steps that predict the reply, a layer each
  int64_t recall_steps = 0;
  model::SelectionTrace trace;

  int32_t NextToken() const { return fed < question.size() ? question[fed] : reply.back(); }
  // After NextToken was fed; `predicted` follows it.
  void Take(int32_t predicted, std::span<const int32_t> eos) {
    if (fed < question.size() && ++fed < question.size()) return;
    done = std::find(eos.begin(), eos.end(), predicted) != eos.end();
    if (done) return;
    reply.push_back(predicted);
    done = reply.size() >= static_cast<size_t>(max_new_tokens);
  }
};

// Adds what the last step of `row` read of the blocks [begin, end).
void AddRecall(int32_t begin, int32_t end, ReplyRow* row) {
  const std::vector<std::vector<int32_t>>& layers = row->trace.blocks;
  row->recall.resize(layers.size());
  ++row->recall_steps;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const auto low = std::lower_bound(layers[layer].begin(), layers[layer].end(), begin);
    const auto high = std::lower_bound(low, layers[layer].end(), end);
    row->recall[layer] += static_cast<double>(high - low) / (end - begin);
  }
}

class ReplyBatch {
 public:
  ReplyBatch(EvalModel* model, std::span<const Prompt> prompts,
             std::span<const PolicySpec> policies)
      : model_(*model), prompts_(prompts), policies_(policies) {
    dense_.label = "full";
  }
  absl::Status Prefill();
  absl::Status Decode();
  absl::StatusOr<std::vector<std::vector<Reply>>> Replies() const;

 private:
  const tools::PromptTokens& PromptOf(const ReplyRow& row) const {
    return prompts_[static_cast<size_t>(&row - rows_.data()) / (policies_.size() + 1)].tokens;
  }
  void WatchFact(ReplyRow* row) const;

  EvalModel& model_;
  std::span<const Prompt> prompts_;
  std::span<const PolicySpec> policies_;
  PolicySpec dense_;
  std::vector<kvstore::BlockTable> prefixes_;
  std::vector<kvstore::BlockTable> quantised_;
  std::vector<ReplyRow> rows_;  // [prompts, 1 + policies]
};

absl::Status ReplyBatch::Prefill() {
  kvstore::KvStore& store = model_.loaded().store();
  std::vector<kvstore::BlockTable*> prefixes;
  prefixes_.reserve(prompts_.size());
  for (const Prompt& prompt : prompts_) {
    const std::span<const int32_t> question(prompt.tokens.question);
    // The last token is always decoded: what follows it is the reply.
    const size_t dense = prompt.dense_question ? question.size() - 1 : 0;
    kvstore::BlockTable& table = prefixes_.emplace_back(store.NewTable());
    SPOTD_RETURN_IF_ERROR(model_.loaded().Prefill(prompt.tokens.document, &table));
    if (dense > 0) SPOTD_RETURN_IF_ERROR(model_.loaded().Prefill(question.first(dense), &table));
    prefixes.push_back(&table);
    for (size_t p = 0; p < policies_.size() + 1; ++p) {
      ReplyRow& row = rows_.emplace_back();
      row.row.spec = p == 0 ? &dense_ : &policies_[p - 1];
      row.row.table = store.Fork(table);
      row.question = question.subspan(dense);
      row.max_new_tokens = prompt.max_new_tokens;
    }
  }
  for (ReplyRow& row : rows_) {
    if (PromptOf(row).fact_end > 0) row.row.trace = &row.trace;
  }
  if (std::any_of(policies_.begin(), policies_.end(),
                  [](const PolicySpec& spec) { return spec.twilight.has_value(); })) {
    SPOTD_ASSIGN_OR_RETURN(quantised_, model_.QuantiseKeys(prefixes));
  }
  return absl::OkStatus();
}

absl::Status ReplyBatch::Decode() {
  const std::vector<int32_t>& eos = model_.config().eos_tokens;
  for (;;) {
    std::vector<ReplyRow*> active;
    std::vector<EvalRow*> rows;
    std::vector<int32_t> tokens;
    for (ReplyRow& row : rows_) {
      if (row.done) continue;
      active.push_back(&row);
      rows.push_back(&row.row);
      tokens.push_back(row.NextToken());
    }
    if (active.empty()) return absl::OkStatus();
    std::vector<int32_t> next(active.size());
    SPOTD_RETURN_IF_ERROR(model_.Step(rows, tokens, next, {}));
    for (size_t i = 0; i < active.size(); ++i) {
      WatchFact(active[i]);
      active[i]->Take(next[i], eos);
    }
  }
}

void ReplyBatch::WatchFact(ReplyRow* row) const {
  const tools::PromptTokens& prompt = PromptOf(*row);
  if (prompt.fact_end == 0 || row->fed + 1 < row->question.size()) return;
  const int32_t block_tokens = model_.loaded().store().layout().block_tokens;
  AddRecall(prompt.fact_begin / block_tokens, (prompt.fact_end - 1) / block_tokens + 1, row);
}

absl::StatusOr<std::vector<std::vector<Reply>>> ReplyBatch::Replies() const {
  std::vector<std::vector<Reply>> replies(prompts_.size());
  for (size_t i = 0; i < rows_.size(); ++i) {
    SPOTD_ASSIGN_OR_RETURN(std::string text, model_.loaded().tokenizer().Decode(rows_[i].reply));
    std::vector<double> recall = rows_[i].recall;
    for (double& layer : recall) layer /= static_cast<double>(rows_[i].recall_steps);
    replies[i / (policies_.size() + 1)].push_back(
        {std::move(text), rows_[i].row.reading.density(), std::move(recall)});
  }
  return replies;
}

}  // namespace

absl::StatusOr<std::vector<std::vector<Reply>>> AnswerPrompts(
    EvalModel& model, std::span<const Prompt> prompts, std::span<const PolicySpec> policies) {
  ReplyBatch batch(&model, prompts, policies);
  SPOTD_RETURN_IF_ERROR(batch.Prefill());
  SPOTD_RETURN_IF_ERROR(batch.Decode());
  return batch.Replies();
}

}  // namespace spotd::eval
