// How much each layer should read: a search over per-layer budgets for the one that strays least
// from dense decoding at a given mean density: on plain text and, if there are any, on the answers
// to questions about something far back, which plain text hardly ever asks for.
//
// From a budget that is the same everywhere, every layer is moved to every other level while the
// rest stay, and the change in KL and in density is measured on real text. A price of density then
// buys each layer the level it is worth (a Lagrangian), and the price is set by the density asked
// for. A second round does the same around the first one's result, because layers are not
// independent.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/distill/tail_meter.h"

namespace spotd::distill {

// Rules of one kind, by growing budget.
struct RuleFamily {
  std::string name;
  std::vector<kernels::BudgetRule> levels;
};

// p_residual rises and p_total is off; p_total rises and p_residual is off; a share of the context
// rises. The floor is the reserved tokens.
RuleFamily ResidualFamily();
RuleFamily TotalFamily();
RuleFamily FractionFamily();
// A low p_residual everywhere and a floor of tokens that rises; a low p_residual, or everything.
RuleFamily FloorFamily();
RuleFamily DenseFamily();

// The density that every family reads at least: the reserved tokens alone, over the last `tail`
// steps of a context of `tokens`.
double ReservedDensity(int32_t tokens, int32_t tail, int32_t block_tokens);

// The level of each layer.
using Levels = std::vector<size_t>;

Variant VariantOf(const RuleFamily& family, const Levels& levels);

// What moving one layer to one level does.
struct Move {
  size_t level = 0;
  double loss = 0;     // change of what is minimised, against the current levels
  double density = 0;  // likewise, of the mean over layers
};

// The level of each layer, among moves[layer], that minimises the sum of loss with the sum of
// density at most `density`. Levels that cost more and help less are passed over.
Levels BuyLevels(const std::vector<std::vector<Move>>& moves, double density);

// The index of the least loss; infinite ones and such that are no numbers are passed over.
std::optional<size_t> LeastLoss(std::span<const double> losses);

struct SearchOptions {
  double density = 0.15;
  int32_t rounds = 2;
  double answer_weight = 0;  // what is minimised is kl + answer_weight * answer_kl
  std::function<void(const std::string&)> log;  // a line of progress; may be empty
};

struct SearchResult {
  Levels levels;
  TailFigures figures;  // on the text searched with
  TailFigures uniform;  // of the best single level at no more than about the same density
};

absl::StatusOr<SearchResult> SearchBudget(TailMeter& meter, const RuleFamily& family,
                                          int32_t layers, const SearchOptions& options);

}  // namespace spotd::distill
