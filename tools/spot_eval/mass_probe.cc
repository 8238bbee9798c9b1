#include "tools/spot_eval/mass_probe.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "kernels/paged.h"

namespace spotd::eval {

double BestMass(std::span<const float> masses, int32_t blocks, const kernels::BudgetRule& rule,
                int32_t kv_len, int32_t block_tokens) {
  const kernels::BudgetPlan plan = kernels::PlanReserved(rule, kv_len, block_tokens);
  std::vector<double> residual;
  double reserved = 0;
  double all = 0;
  for (int32_t b = 0; b < plan.blocks; ++b) {
    const auto mass = static_cast<double>(masses[static_cast<size_t>(b)]);
    all += mass;
    if (b >= plan.sink_blocks && b < plan.recent_begin) {
      residual.push_back(mass);
    } else {
      reserved += mass;
    }
  }
  const auto take =
      std::min(residual.size(), static_cast<size_t>(std::max(0, blocks - plan.reserved())));
  std::nth_element(residual.begin(), residual.begin() + static_cast<std::ptrdiff_t>(take),
                   residual.end(), std::greater<>());
  for (size_t i = 0; i < take; ++i) reserved += residual[i];
  return reserved / all;
}

MassProbe::MassProbe(std::unique_ptr<kernels::Backend> backend, ThreadPool* pool)
    : ForwardingBackend(std::move(backend)), reader_(&inner()), pool_(pool) {}

void MassProbe::WatchStep(std::vector<Row> rows) {
  rows_ = std::move(rows);
  choices_.clear();
  watching_ = true;
}

void MassProbe::RunStep(uint64_t key, const std::function<void()>& issue) {
  if (!watching_) return inner().RunStep(key, issue);
  issue();
  watching_ = false;
}

absl::Status MassProbe::Synchronize() {
  SPOTD_RETURN_IF_ERROR(failure_);
  return inner().Synchronize();
}

void MassProbe::AppendKv(const kernels::AppendKvArgs& args) {
  inner().AppendKv(args);
  next_row_ = 0;
}

void MassProbe::Select(const kernels::SelectArgs& args) {
  inner().Select(args);
  believed_ = args.covered_mass;
}

void MassProbe::Attend(const kernels::AttendArgs& args) {
  inner().Attend(args);
  if (!watching_) return;
  const auto rows = static_cast<size_t>(args.batch.num_seqs);
  SPOTD_CHECK(next_row_ + rows <= rows_.size());
  Lists lists;
  if (args.selected != nullptr) {
    if (const absl::Status status = Read(args, &lists); !status.ok()) {
      if (failure_.ok()) failure_ = status;
      return;
    }
  }
  const size_t first = choices_.size();
  const auto heads = static_cast<size_t>(args.layer.kv_heads);
  choices_.resize(first + rows);
  const auto judge = [&](size_t i) {
    const Row& row = rows_[next_row_ + i];
    const double blocks = kernels::NumBlocks(row.kv_len, args.layer.block_tokens);
    choices_[first + i] = args.selected != nullptr
                              ? Judge(lists, i, row, args.layer.block_tokens)
                              : ChoiceMass{.chosen_blocks = blocks,
                                           .visible_blocks = blocks,
                                           .heads = std::vector<float>(heads, 1)};
  };
  pool_->ParallelFor(static_cast<int64_t>(rows), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) judge(static_cast<size_t>(i));
  });
  next_row_ += rows;
}

absl::Status MassProbe::Read(const kernels::AttendArgs& args, Lists* lists) {
  const kernels::OracleScoreArgs score = {
      args.batch, args.layer, args.q_heads, args.scale, args.q, nullptr, args.batch.table_stride};
  SPOTD_RETURN_IF_ERROR(reader_.ReadPerKvHead(score, {}, &lists->masses));
  lists->heads = static_cast<size_t>(args.layer.kv_heads);
  lists->groups = static_cast<size_t>(args.groups);
  lists->stride = static_cast<size_t>(args.batch.table_stride);
  lists->selected_stride = static_cast<size_t>(args.selected_stride);
  const size_t choices = static_cast<size_t>(args.batch.num_seqs) * lists->groups;
  lists->selected = ToHost(inner(), args.selected, choices * lists->selected_stride);
  lists->counts = ToHost(inner(), args.counts, choices);
  lists->believed = ToHost(inner(), believed_, choices);
  SPOTD_RETURN_IF_ERROR(inner().Synchronize());
  // What lies behind a row's last block was never written; nothing reads it.
  pool_->ParallelFor(static_cast<int64_t>(lists->masses.size()), 4096,
                     [lists](int64_t begin, int64_t end, int) {
                       for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
                         lists->masses[i] = std::exp(lists->masses[i]);
                     });
  return absl::OkStatus();
}

std::vector<float> MassProbe::MeanMasses(const Lists& lists, size_t row_of_range, size_t first,
                                         size_t heads) {
  std::vector<float> mean(lists.stride);
  for (size_t head = first; head < first + heads; ++head) {
    const float* const masses = &lists.masses[(row_of_range * lists.heads + head) * lists.stride];
    for (size_t b = 0; b < lists.stride; ++b) mean[b] += masses[b] / static_cast<float>(heads);
  }
  return mean;
}

ChoiceMass MassProbe::Judge(const Lists& lists, size_t row_of_range, const Row& row,
                            int32_t block_tokens) const {
  const int32_t visible = kernels::NumBlocks(row.kv_len, block_tokens);
  ChoiceMass mean = {.chosen_blocks = 0,
                     .visible_blocks = static_cast<double>(visible),
                     .mass = 0,
                     .oracle = 0,
                     .layer_oracle = 0,
                     .believed = 0,
                     .heads = std::vector<float>(lists.heads)};
  const auto best = [&](const std::vector<float>& masses, int32_t blocks) {
    return BestMass(std::span(masses).first(static_cast<size_t>(visible)), blocks, row.rule,
                    row.kv_len, block_tokens);
  };
  const double share = 1.0 / static_cast<double>(lists.groups);
  const size_t heads = lists.heads / lists.groups;
  for (size_t group = 0; group < lists.groups; ++group) {
    const size_t choice = row_of_range * lists.groups + group;
    const int32_t* const blocks = &lists.selected[choice * lists.selected_stride];
    for (size_t head = group * heads; head < (group + 1) * heads; ++head) {
      const float* const masses = &lists.masses[(row_of_range * lists.heads + head) * lists.stride];
      for (int32_t i = 0; i < lists.counts[choice]; ++i) mean.heads[head] += masses[blocks[i]];
      mean.mass += static_cast<double>(mean.heads[head]) / static_cast<double>(lists.heads);
    }
    mean.chosen_blocks += share * lists.counts[choice];
    mean.oracle +=
        share * best(MeanMasses(lists, row_of_range, group * heads, heads), lists.counts[choice]);
    mean.believed += share * static_cast<double>(lists.believed[choice]);
  }
  mean.layer_oracle = lists.groups == 1
                          ? mean.oracle
                          : best(MeanMasses(lists, row_of_range, 0, lists.heads),
                                 static_cast<int32_t>(std::lround(mean.chosen_blocks)));
  return mean;
}

}  // namespace spotd::eval
