#include "tools/spot_eval/twilight_backend.h"

#include <cmath>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace spotd::eval {
namespace {

kernels::BudgetRule SupersetRule(const kernels::BudgetRule& rule, const TwilightRule& twilight) {
  kernels::BudgetRule superset = rule;
  superset.kind = kernels::BudgetKind::kFixedFraction;
  superset.fraction = twilight.superset;
  return superset;
}

kernels::BudgetRule PruningRule(const kernels::BudgetRule& rule, const TwilightRule& twilight) {
  // A top-p of 1 never stops, not even where the superset ends.
  if (twilight.p >= 1) return SupersetRule(rule, twilight);
  kernels::BudgetRule pruning = rule;
  pruning.kind = kernels::BudgetKind::kDualTopP;
  pruning.p_residual = 1;  // never stops
  pruning.p_total = twilight.p;
  return pruning;
}

}  // namespace

TwilightBackend::TwilightBackend(std::unique_ptr<kernels::Backend> backend)
    : ForwardingBackend(std::move(backend)), reader_(&inner()) {}

void TwilightBackend::SetQuestRows(std::vector<std::optional<TwilightRule>> rows) {
  rows_ = std::move(rows);
  active_ = false;
  for (const auto& row : rows_) active_ |= row.has_value();
  superset_blocks_.assign(rows_.size(), 0);
}

void TwilightBackend::RunStep(uint64_t key, const std::function<void()>& issue) {
  // Pruning looks at values between two operations, which a recorded step cannot.
  if (active_) {
    issue();
  } else {
    inner().RunStep(key, issue);
  }
}

absl::Status TwilightBackend::Synchronize() {
  SPOTD_RETURN_IF_ERROR(failure_);
  return inner().Synchronize();
}

void TwilightBackend::QuestScore(const kernels::QuestScoreArgs& args) {
  inner().QuestScore(args);
  if (active_) scored_ = args;
}

void TwilightBackend::Select(const kernels::SelectArgs& args) {
  if (!scored_.has_value()) return inner().Select(args);
  if (const absl::Status status = Prune(args); !status.ok() && failure_.ok()) failure_ = status;
  scored_.reset();
}

absl::Status TwilightBackend::Prune(const kernels::SelectArgs& args) {
  const auto rows = static_cast<size_t>(args.batch.num_seqs);
  SPOTD_CHECK(rows == rows_.size());
  std::vector<kernels::BudgetRule> rules = ToHost(inner(), args.rules, rows);
  SPOTD_RETURN_IF_ERROR(inner().Synchronize());
  SPOTD_RETURN_IF_ERROR(ChooseSuperset(args, rules));
  std::vector<float> masses;
  SPOTD_RETURN_IF_ERROR(Estimate(args, &masses));
  for (size_t row = 0; row < rows; ++row) {
    if (rows_[row].has_value()) rules[row] = PruningRule(rules[row], *rows_[row]);
  }
  SPOTD_RETURN_IF_ERROR(ToBackend(inner(), rules.data(), rows * sizeof(rules[0]), &rules_));
  SPOTD_RETURN_IF_ERROR(ToBackend(inner(), masses.data(), masses.size() * sizeof(float), &masses_));
  kernels::SelectArgs prune = args;
  prune.rules = rules_.as<kernels::BudgetRule>();
  prune.block_lse = masses_.as<float>();
  inner().Select(prune);
  return inner().Synchronize();
}

absl::Status TwilightBackend::ChooseSuperset(const kernels::SelectArgs& args,
                                             std::span<const kernels::BudgetRule> rules) {
  std::vector<kernels::BudgetRule> superset(rules.begin(), rules.end());
  for (size_t row = 0; row < superset.size(); ++row) {
    if (rows_[row].has_value()) superset[row] = SupersetRule(rules[row], *rows_[row]);
  }
  SPOTD_RETURN_IF_ERROR(
      ToBackend(inner(), superset.data(), superset.size() * sizeof(superset[0]), &rules_));
  kernels::SelectArgs choose = args;
  choose.rules = rules_.as<kernels::BudgetRule>();
  inner().Select(choose);
  return inner().Synchronize();
}

absl::Status TwilightBackend::Estimate(const kernels::SelectArgs& args,
                                       std::vector<float>* masses) {
  const kernels::QuestScoreArgs& quest = *scored_;
  std::vector<float> estimated;
  SPOTD_RETURN_IF_ERROR(reader_.ReadPerKvHead(
      {quest.batch, quest.layer, quest.q_heads, quest.scale, quest.q, nullptr, args.lse_stride},
      instead_of_, &estimated));
  const auto groups = static_cast<size_t>(args.groups);
  const auto stride = static_cast<size_t>(args.lse_stride);
  const auto list_stride = static_cast<size_t>(args.selected_stride);
  const size_t choices = rows_.size() * groups;
  *masses = ToHost(inner(), args.block_lse, choices * stride);
  const auto lists = ToHost(inner(), args.selected, choices * list_stride);
  const auto counts = ToHost(inner(), args.counts, choices);
  SPOTD_RETURN_IF_ERROR(inner().Synchronize());
  for (size_t choice = 0; choice < choices; ++choice) {
    if (!rows_[choice / groups].has_value()) continue;
    superset_blocks_[choice / groups] += counts[choice];
    float* const row = &(*masses)[choice * stride];
    std::fill_n(row, stride, -INFINITY);
    for (int32_t i = 0; i < counts[choice]; ++i) {
      const auto block = static_cast<size_t>(lists[choice * list_stride + static_cast<size_t>(i)]);
      row[block] = estimated[choice * stride + block];
    }
  }
  return absl::OkStatus();
}

}  // namespace spotd::eval
