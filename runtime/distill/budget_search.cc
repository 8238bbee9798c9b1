#include "runtime/distill/budget_search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "kernels/core/budget_rule.h"
#include "kernels/core/status.h"
#include "runtime/model/policy.h"

namespace spotd::distill {
namespace {

constexpr size_t kLevels = 21;
// Level steps that a layer is moved by, in the first round and in later ones. The last level, which
// reads everything, is tried besides: one layer may find what no other does, and only when it reads
// all. Seven moves of thirty layers fit one decode batch.
constexpr std::array<int, 6> kLeaps = {-7, -4, -2, 2, 4, 7};
constexpr std::array<int, 6> kSteps = {-4, -2, -1, 1, 2, 4};
constexpr int kBisections = 60;
constexpr double kTolerance = 0.005;  // how much more than asked for may be read, relatively
constexpr int32_t kAttempts = 3;
constexpr double kLeastFloor = 96;     // tokens; the reserved ones are hardly fewer
constexpr float kFloorShare = 0.45f;   // what a layer reads beyond its floor, in FloorFamily
constexpr float kBesideDense = 0.45f;  // of a layer that is not dense, in DenseFamily
constexpr int32_t kFloorOfAll = 1 << 26;

kernels::BudgetRule ReservedFloorRule() {
  model::Policy policy;
  policy.kind = model::PolicyKind::kDistilled;
  kernels::BudgetRule rule = policy.Rule();
  rule.p_residual = rule.p_total = 1.0f;
  rule.k_min_tokens = 0;
  return rule;
}

// Evenly spaced log odds from `least`; the last level is everything.
float ShareAt(size_t level, double least, double step) {
  if (level + 1 == kLevels) return 1.0f;
  return static_cast<float>(1 / (1 + std::exp(-(least + step * static_cast<double>(level)))));
}

// The move of least loss + price * density.
const Move& BestMove(const std::vector<Move>& moves, double price) {
  return *std::min_element(moves.begin(), moves.end(), [price](const Move& a, const Move& b) {
    return a.loss + price * a.density < b.loss + price * b.density;
  });
}

double DensityAt(const std::vector<std::vector<Move>>& moves, double price) {
  double density = 0;
  for (const std::vector<Move>& layer : moves) density += BestMove(layer, price).density;
  return density;
}

// The level, the same in all layers, that comes closest to the density.
absl::StatusOr<size_t> UniformStart(TailMeter& meter, const RuleFamily& family, int32_t layers,
                                    double density, TailFigures* figures) {
  std::vector<Variant> variants;
  for (size_t level = 0; level < family.levels.size(); ++level) {
    variants.push_back(VariantOf(family, Levels(static_cast<size_t>(layers), level)));
  }
  SPOTD_ASSIGN_OR_RETURN(const std::vector<TailFigures> measured, meter.Measure(variants));
  size_t best = 0;
  for (size_t i = 0; i < measured.size(); ++i) {
    if (std::abs(measured[i].density - density) < std::abs(measured[best].density - density)) {
      best = i;
    }
  }
  *figures = measured[best];
  return best;
}

// Where one layer may go from `level` by one of `steps`, staying put first.
std::vector<Move> MovesFrom(size_t level, std::span<const int> steps, size_t levels) {
  const auto last = static_cast<int64_t>(levels) - 1;
  std::set<size_t> targets = {levels - 1};
  for (const int step : steps) {
    targets.insert(
        static_cast<size_t>(std::clamp(static_cast<int64_t>(level) + step, int64_t{0}, last)));
  }
  targets.erase(level);
  std::vector<Move> moves = {{level, 0, 0}};
  for (const size_t target : targets) moves.push_back({target, 0, 0});
  return moves;
}

double LossOf(const TailFigures& figures, const SearchOptions& options) {
  return figures.kl + options.answer_weight * figures.answer_kl;
}

// Every single-layer move from `levels` by one of `steps`; `figures` receives those of `levels`
// themselves.
absl::StatusOr<std::vector<std::vector<Move>>> MeasureMoves(
    TailMeter& meter, const RuleFamily& family, const Levels& levels, std::span<const int> steps,
    const SearchOptions& options, TailFigures* figures) {
  std::vector<Variant> variants = {VariantOf(family, levels)};
  std::vector<std::vector<Move>> moves(levels.size());
  for (size_t layer = 0; layer < levels.size(); ++layer) {
    moves[layer] = MovesFrom(levels[layer], steps, family.levels.size());
    for (size_t i = 1; i < moves[layer].size(); ++i) {
      Levels moved = levels;
      moved[layer] = moves[layer][i].level;
      variants.push_back(VariantOf(family, moved));
    }
  }
  SPOTD_ASSIGN_OR_RETURN(const std::vector<TailFigures> measured, meter.Measure(variants));
  *figures = measured.front();
  size_t next = 1;
  for (std::vector<Move>& layer : moves) {
    for (size_t i = 1; i < layer.size(); ++i, ++next) {
      layer[i].loss = LossOf(measured[next], options) - LossOf(*figures, options);
      layer[i].density = measured[next].density - figures->density;
    }
  }
  return moves;
}

}  // namespace

RuleFamily ResidualFamily() {
  RuleFamily family{"p_residual", {}};
  for (size_t level = 0; level < kLevels; ++level) {
    family.levels.push_back(ReservedFloorRule());
    family.levels.back().p_residual = ShareAt(level, -1.6, 0.4);
  }
  return family;
}

RuleFamily TotalFamily() {
  RuleFamily family{"p_total", {}};
  for (size_t level = 0; level < kLevels; ++level) {
    family.levels.push_back(ReservedFloorRule());
    family.levels.back().p_total = ShareAt(level, 0.0, 0.3);
  }
  return family;
}

RuleFamily FractionFamily() {
  RuleFamily family{"fraction", {}};
  for (size_t level = 0; level < kLevels; ++level) {
    family.levels.push_back(ReservedFloorRule());
    family.levels.back().kind = kernels::BudgetKind::kFixedFraction;
    family.levels.back().fraction =
        std::min(1.0f, 0.0125f * std::pow(1.25f, static_cast<float>(level)));
  }
  return family;
}

RuleFamily FloorFamily() {
  RuleFamily family{"floor", {}};
  for (size_t level = 0; level < kLevels; ++level) {
    family.levels.push_back(ReservedFloorRule());
    family.levels.back().p_residual = kFloorShare;
    family.levels.back().k_min_tokens =
        level + 1 == kLevels
            ? kFloorOfAll
            : static_cast<int32_t>(kLeastFloor * std::pow(1.22, static_cast<double>(level)));
  }
  return family;
}

RuleFamily DenseFamily() {
  RuleFamily family{"dense", {ReservedFloorRule(), ReservedFloorRule()}};
  family.levels.front().p_residual = kBesideDense;
  return family;
}

double ReservedDensity(int32_t tokens, int32_t tail, int32_t block_tokens) {
  double sum = 0;
  for (int32_t context = tokens - tail + 1; context <= tokens; ++context) {
    const kernels::BudgetPlan plan =
        kernels::PlanReserved(ReservedFloorRule(), context, block_tokens);
    sum += double(plan.reserved()) / plan.blocks;
  }
  return sum / tail;
}

Variant VariantOf(const RuleFamily& family, const Levels& levels) {
  Variant variant;
  for (const size_t level : levels) variant.rules.push_back(family.levels[level]);
  return variant;
}

Levels BuyLevels(const std::vector<std::vector<Move>>& moves, double density) {
  // Log prices: KL per unit of density spans orders of magnitude.
  double low = -20;
  double high = 10;
  for (int i = 0; i < kBisections; ++i) {
    const double middle = (low + high) / 2;
    (DensityAt(moves, std::exp(middle)) > density ? low : high) = middle;
  }
  Levels levels;
  for (const std::vector<Move>& layer : moves) {
    levels.push_back(BestMove(layer, std::exp(high)).level);
  }
  return levels;
}

std::optional<size_t> LeastLoss(std::span<const double> losses) {
  std::optional<size_t> best;
  for (size_t i = 0; i < losses.size(); ++i) {
    if (std::isfinite(losses[i]) && (!best || losses[i] < losses[*best])) best = i;
  }
  return best;
}

absl::StatusOr<SearchResult> SearchBudget(TailMeter& meter, const RuleFamily& family,
                                          int32_t layers, const SearchOptions& options) {
  SearchResult result;
  SPOTD_ASSIGN_OR_RETURN(const size_t start,
                         UniformStart(meter, family, layers, options.density, &result.uniform));
  const auto log = [&](const std::string& what, const TailFigures& figures) {
    if (!options.log) return;
    options.log(Concat(family.name, " for density ", options.density, ", ", what, ": density ",
                       figures.density, " KL ", figures.kl, " of answers ", figures.answer_kl));
  };
  log("the same everywhere", result.uniform);
  result.levels = Levels(static_cast<size_t>(layers), start);
  std::vector<std::vector<Move>> moves;
  double room = 0;  // density to spend on the last round's moves
  for (int32_t round = 0; round < options.rounds; ++round) {
    TailFigures current;
    SPOTD_ASSIGN_OR_RETURN(moves, MeasureMoves(meter, family, result.levels,
                                               round == 0 ? kLeaps : kSteps, options, &current));
    log(Concat("before round ", round + 1), current);
    room = options.density - current.density;
    result.levels = BuyLevels(moves, room);
  }
  // Moves together may cost more than one by one: then less is bought.
  for (int32_t attempt = 0;; ++attempt) {
    const Variant found = VariantOf(family, result.levels);
    SPOTD_ASSIGN_OR_RETURN(const std::vector<TailFigures> figures, meter.Measure({&found, 1}));
    result.figures = figures.front();
    log("found", result.figures);
    const double over = result.figures.density - options.density;
    if (over <= kTolerance * options.density || moves.empty() || attempt == kAttempts) break;
    room -= over;
    result.levels = BuyLevels(moves, room);
  }
  return result;
}

}  // namespace spotd::distill
