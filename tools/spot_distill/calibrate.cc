#include "tools/spot_distill/calibrate.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "kernels/core/status.h"
#include "kernels/distill.h"
#include "runtime/distill/budget_search.h"
#include "runtime/distill/checkpoint.h"
#include "runtime/distill/corpus.h"
#include "runtime/distill/reliability.h"
#include "runtime/distill/tail_meter.h"
#include "runtime/model/selector.h"
#include "tools/common/loaded_model.h"
#include "tools/spot_distill/question_documents.h"

namespace spotd::distill {
namespace {

using Documents = std::vector<std::span<const int32_t>>;
using Metadata = std::map<std::string, std::string>;

// What budgets are searched with, and what judges them.
struct Texts {
  std::vector<TailDocument> search;
  std::vector<TailDocument> judge;
};

constexpr size_t kReliabilityDocuments = 4;
constexpr int32_t kSearchRows = 256;
constexpr int32_t kSearchChunk = 2048;
constexpr uint64_t kQuestionSeed = 20;

constexpr const char* kBudgetKeys[] = {"budget_p_residual", "budget_p_total", "budget_k_min_tokens",
                                       "budget_density", "budget_context"};

template <typename T>
std::string Joined(const std::vector<T>& values) {
  std::string text;
  for (const T& value : values) text += Concat(text.empty() ? "" : ",", value);
  return text;
}

// The first `length` tokens of each document.
Documents Shortened(const Documents& documents, int32_t length) {
  Documents out;
  for (const auto& document : documents) out.push_back(document.first(static_cast<size_t>(length)));
  return out;
}

// A selector that is not in any file yet; messages name the one that it comes from.
formats::MappedFile InMemory(const CalibrateOptions& options, const std::string& bytes) {
  return formats::MappedFile::InMemory(options.selector, bytes);
}

tools::ModelOptions BaseOptions(const CalibrateOptions& options) {
  tools::ModelOptions model;
  model.model = options.model;
  model.backend = options.backend;
  model.threads = options.threads;
  return model;
}

double Mean(const std::vector<std::vector<double>>& errors, const std::vector<size_t>& picks) {
  double sum = 0;
  for (size_t i = 0; i < errors.size(); ++i) sum += errors[i][picks[i]];
  return sum / static_cast<double>(errors.size());
}

// [length][layer][scale]: the errors of MeasureReliability.
using Errors = std::vector<std::vector<std::vector<double>>>;

// The scale of each layer with the least error over all lengths.
std::vector<size_t> PickScales(const Errors& errors) {
  std::vector<size_t> picks;
  for (size_t layer = 0; layer < errors.front().size(); ++layer) {
    std::vector<double> cost(errors.front()[layer].size(), 0.0);
    for (const auto& length : errors) {
      for (size_t s = 0; s < cost.size(); ++s) cost[s] += length[layer][s];
    }
    picks.push_back(static_cast<size_t>(std::min_element(cost.begin(), cost.end()) - cost.begin()));
  }
  return picks;
}

// Picks and prints a temperature for each layer; returns them as metadata.
absl::StatusOr<Metadata> FitTemperatures(const CalibrateOptions& options,
                                         const std::string& selector_bytes,
                                         const Documents& documents, int32_t context) {
  tools::ModelOptions model_options = BaseOptions(options);
  model_options.max_context = context;
  model_options.chunk = context;
  SPOTD_ASSIGN_OR_RETURN(const auto model, tools::LoadedModel::Load(model_options));
  SPOTD_ASSIGN_OR_RETURN(const auto selector, model::ReadSelector(InMemory(options, selector_bytes),
                                                                  model->transformer().config()));
  SPOTD_ASSIGN_OR_RETURN(const auto kernels,
                         kernels::CreateDistillKernels(&model->backend(), options.threads));
  SPOTD_RETURN_IF_ERROR(
      kernels::CheckDistillLimits(kernels->limits(model->transformer().limits().block_tokens),
                                  model->transformer().config().q_heads, context, "--context"));
  ReliabilityOptions reliability;
  reliability.scales = {1.0f, 0.7f, 0.8f, 0.87f, 0.94f, 1.06f, 1.13f, 1.2f, 1.3f, 1.45f, 1.6f};
  const int32_t trained = std::min(std::max(selector->config().training_length, 512), context);
  reliability.queries = std::min(reliability.queries, trained / 2);
  Errors errors;
  for (const int32_t length : {trained, context}) {
    const Documents texts = Shortened(documents, length);
    SPOTD_ASSIGN_OR_RETURN(
        auto measured, MeasureReliability(&model->backend(), &model->transformer(), &model->store(),
                                          kernels.get(), *selector, texts, reliability));
    errors.push_back(std::move(measured));
  }
  const std::vector<size_t> picks = PickScales(errors);
  const std::vector<size_t> unscaled(picks.size(), 0);
  std::vector<float> scales;
  for (const size_t pick : picks) scales.push_back(reliability.scales[pick]);
  std::string summary;
  for (size_t i = 0; i < errors.size(); ++i) {
    const int32_t length = i == 0 ? trained : context;
    std::printf(
        "length %d: mean |believed - true mass| %.2f points, %.2f with a temperature a layer\n",
        length, 100 * Mean(errors[i], unscaled), 100 * Mean(errors[i], picks));
    summary += Concat(i == 0 ? "" : ",", length, ":", Mean(errors[i], picks));
  }
  Metadata entries = {{"calibration", Joined(scales)}, {"calibration_error", summary}};
  // Budgets that an earlier calibration found belong to its temperatures.
  for (const char* key : kBudgetKeys) entries[key] = "";
  return entries;
}

// Empty names are passed over: --rules "" searches nothing.
absl::StatusOr<std::vector<RuleFamily>> FamiliesOf(const std::vector<std::string>& names) {
  std::vector<RuleFamily> families;
  for (const std::string& name : names) {
    if (name.empty()) continue;
    bool known = false;
    for (RuleFamily& family : std::vector<RuleFamily>{
             ResidualFamily(), TotalFamily(), FractionFamily(), FloorFamily(), DenseFamily()}) {
      if (family.name != name) continue;
      families.push_back(std::move(family));
      known = true;
    }
    if (!known) {
      return InvalidArgument("--rules: '", name,
                             "' is not p_residual, p_total, fraction, floor or dense");
    }
  }
  return families;
}

// The densities to search for, options.density first.
absl::StatusOr<std::vector<double>> DensitiesOf(const CalibrateOptions& options) {
  std::vector<double> densities = {options.density};
  for (const std::string& text : options.densities) {
    double value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stop != end) {
      return InvalidArgument("--densities: '", text, "' is not a number");
    }
    if (value != options.density) densities.push_back(value);
  }
  for (const double density : densities) {
    if (!(density > 0 && density <= 1)) {
      return InvalidArgument("a density must be above 0 and at most 1, got ", density);
    }
  }
  return densities;
}

// Whether a selector's file can hold the rule.
bool Storable(const kernels::BudgetRule& rule) {
  return rule.kind == kernels::BudgetKind::kDualTopP;
}

// A line of the table of what was tried.
struct Judged {
  std::string name;
  Variant variant;
};

// The rules that need no search: one setting for all layers.
std::vector<Judged> UniformRules(size_t layers) {
  std::vector<Judged> rules;
  model::Policy policy;
  policy.kind = model::PolicyKind::kDistilled;
  for (const float p : {0.5f, 0.6f, 0.7f, 0.75f, 0.8f, 0.85f, 0.9f}) {
    policy.p_residual = p;
    rules.push_back(
        {Concat("dual top-p ", p, " everywhere"),
         {model::PolicyKind::kDistilled, std::vector<kernels::BudgetRule>(layers, policy.Rule())}});
  }
  for (const RuleFamily& family : {FractionFamily(), TotalFamily(), ResidualFamily()}) {
    for (size_t level = 1; level + 1 < family.levels.size(); level += 2) {
      const kernels::BudgetRule& rule = family.levels[level];
      rules.push_back({Concat(family.name, " ",
                              rule.kind == kernels::BudgetKind::kFixedFraction
                                  ? rule.fraction
                                  : std::min(rule.p_total, rule.p_residual),
                              " everywhere"),
                       VariantOf(family, Levels(layers, level))});
    }
  }
  for (const float fraction : {0.05f, 0.10f, 0.15f, 0.20f}) {
    kernels::BudgetRule rule = FractionFamily().levels.front();
    rule.fraction = fraction;
    const std::vector<kernels::BudgetRule> same(layers, rule);
    rules.push_back({Concat("oracle, fraction ", fraction), {model::PolicyKind::kOracle, same}});
    rules.push_back({Concat("fixed fraction ", fraction), {model::PolicyKind::kDistilled, same}});
  }
  return rules;
}

struct BudgetChoice {
  Judged rule;  // without rules: none
  double density = 0;
};

Metadata BudgetMetadata(const BudgetChoice& choice, int32_t context) {
  if (choice.rule.variant.rules.empty()) return {};
  std::vector<float> p_residual;
  std::vector<float> p_total;
  std::vector<int32_t> k_min;
  for (const kernels::BudgetRule& rule : choice.rule.variant.rules) {
    p_residual.push_back(rule.p_residual);
    p_total.push_back(rule.p_total);
    k_min.push_back(rule.k_min_tokens);
  }
  return {{"budget_p_residual", Joined(p_residual)},
          {"budget_p_total", Joined(p_total)},
          {"budget_k_min_tokens", Joined(k_min)},
          {"budget_density", Concat(choice.density)},
          {"budget_context", Concat(context)}};
}

// What the file that was written has, in a line.
std::string Outcome(const CalibrateOptions& options, const BudgetChoice& budget, int32_t context) {
  if (!budget.rule.variant.rules.empty()) {
    return Concat("temperatures, and budgets: ", budget.rule.name, "; at ", context,
                  " tokens they read ", budget.density, " of the blocks");
  }
  const std::string rules = Joined(options.rules);
  if (rules.empty()) return "temperatures, and no budgets: --rules names none";
  return Concat("temperatures, and no budgets: a selector's file cannot hold those of --rules ",
                rules);
}

class BudgetCalibration {
 public:
  BudgetCalibration(const CalibrateOptions& options, std::vector<RuleFamily> families,
                    std::vector<double> densities, tools::LoadedModel* model, Texts texts)
      : options_(options),
        families_(std::move(families)),
        densities_(std::move(densities)),
        model_(model),
        texts_(std::move(texts)) {}

  // Prints what was tried and returns the searched rule at options.density that judged best, of
  // those that can be stored; one without rules when none can.
  absl::StatusOr<BudgetChoice> Run() {
    TailMeter meter = Meter(texts_.search);
    const auto layers = model_->transformer().config().layers;
    std::vector<Judged> judged = UniformRules(static_cast<size_t>(layers));
    const size_t first_searched = judged.size();
    std::vector<double> asked(judged.size(), 0);
    for (const RuleFamily& family : families_) {
      for (const double density : densities_) {
        SearchOptions search;
        search.density = density;
        search.rounds = options_.rounds;
        search.answer_weight = options_.answer_weight;
        search.log = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
        SPOTD_ASSIGN_OR_RETURN(const SearchResult found,
                               SearchBudget(meter, family, layers, search));
        judged.push_back({Concat(family.name, " per layer, searched for ", density),
                          VariantOf(family, found.levels)});
        asked.push_back(density);
      }
    }
    SPOTD_ASSIGN_OR_RETURN(const std::vector<TailFigures> figures, Judge(judged));
    std::vector<size_t> storable;
    std::vector<double> losses;
    for (size_t i = first_searched; i < judged.size(); ++i) {
      if (asked[i] != options_.density || !Storable(judged[i].variant.rules.front())) continue;
      storable.push_back(i);
      losses.push_back(figures[i].kl + options_.answer_weight * figures[i].answer_kl);
    }
    if (storable.empty()) return BudgetChoice{};
    const std::optional<size_t> best = LeastLoss(losses);
    if (!best) return Internal("no budget has a KL to dense that is a number; nothing is written");
    const size_t chosen = storable[*best];
    return BudgetChoice{judged[chosen], figures[chosen].density};
  }

 private:
  TailMeter Meter(const std::vector<TailDocument>& documents) {
    return TailMeter(&model_->transformer(), &model_->store(), documents, options_.tail,
                     model_->threads());
  }

  absl::StatusOr<std::vector<TailFigures>> Judge(const std::vector<Judged>& judged) {
    TailMeter meter = Meter(texts_.judge);
    std::vector<Variant> variants;
    for (const Judged& rule : judged) variants.push_back(rule.variant);
    SPOTD_ASSIGN_OR_RETURN(std::vector<TailFigures> figures, meter.Measure(variants));
    std::printf("\n| rule | density | KL to dense | KL of answers |\n|---|---|---|---|\n");
    for (size_t i = 0; i < judged.size(); ++i) {
      std::printf("| %s | %.3f | %.4f | %.4f |\n", judged[i].name.c_str(), figures[i].density,
                  figures[i].kl, figures[i].answer_kl);
    }
    std::fflush(stdout);
    return figures;
  }

  const CalibrateOptions& options_;
  std::vector<RuleFamily> families_;
  std::vector<double> densities_;
  tools::LoadedModel* model_;
  Texts texts_;
};

absl::StatusOr<BudgetChoice> FitBudget(const CalibrateOptions& options,
                                       const std::string& selector_bytes,
                                       std::vector<RuleFamily> families,
                                       std::vector<double> densities, Texts texts,
                                       int32_t context) {
  tools::ModelOptions model_options = BaseOptions(options);
  model_options.selector = options.selector;
  model_options.selector_bytes = selector_bytes;
  model_options.max_context = context;
  model_options.max_batch = kSearchRows;
  model_options.chunk = kSearchChunk;
  model_options.sequences = 2 + kSearchRows * (options.tail + 32) / context;
  SPOTD_ASSIGN_OR_RETURN(const auto model, tools::LoadedModel::Load(model_options));
  BudgetCalibration calibration(options, std::move(families), std::move(densities), model.get(),
                                std::move(texts));
  return calibration.Run();
}

// One half of the documents and questions each. Spans point into them.
Texts Halves(const Documents& documents, const std::vector<QuestionDocument>& questions,
             const CalibrateOptions& options, int32_t context) {
  Texts texts;
  const Documents plain = Shortened(documents, context);
  for (size_t i = 0; i < plain.size(); ++i) {
    (i < plain.size() / 2 ? texts.search : texts.judge).push_back({plain[i], 0});
  }
  // Neighbours ask at neighbouring depths.
  for (size_t i = 0; i < questions.size(); ++i) {
    (i % 2 == 0 ? texts.search : texts.judge)
        .push_back({questions[i].tokens, std::min(questions[i].answer_tokens, options.tail - 1)});
  }
  return texts;
}

absl::Status CheckOptions(const CalibrateOptions& options, int32_t context, int32_t most) {
  if (context > most) {
    return InvalidArgument("--context must be at most the model's, ", most, " tokens, got ",
                           context);
  }
  if (options.questions < 0) return InvalidArgument("--questions must not be negative");
  if (!(options.answer_weight >= 0)) return InvalidArgument("--answer_weight must not be negative");
  if (options.documents < 1) return InvalidArgument("--documents must be at least 1");
  if (options.tail < 2 || options.tail >= context) {
    return InvalidArgument("--tail must be in 2..", context - 1, ", got ", options.tail);
  }
  return absl::OkStatus();
}

// Below what is always read there is nothing to search.
absl::Status CheckDensities(const CalibrateOptions& options, const std::vector<double>& densities,
                            int32_t context) {
  const double least = ReservedDensity(context, options.tail, model::Limits{}.block_tokens);
  const double asked = *std::min_element(densities.begin(), densities.end());
  if (asked >= least) return absl::OkStatus();
  return InvalidArgument(asked == options.density ? "--density" : "--densities",
                         " must be at least ", std::ceil(1000 * least) / 1000,
                         " at a --context of ", context,
                         " tokens, where the sinks and the recent tokens are so much, got ", asked);
}

// Texts with a question are somewhat shorter than the context.
absl::Status CheckTail(const std::vector<QuestionDocument>& questions, int32_t tail) {
  for (const QuestionDocument& question : questions) {
    if (question.tokens.size() > static_cast<size_t>(tail)) continue;
    return InvalidArgument("--tail: a text with a question has only ", question.tokens.size(),
                           " tokens, got ", tail);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Calibrate(const CalibrateOptions& options) {
  SPOTD_ASSIGN_OR_RETURN(std::vector<RuleFamily> families, FamiliesOf(options.rules));
  SPOTD_ASSIGN_OR_RETURN(std::vector<double> densities, DensitiesOf(options));
  SPOTD_ASSIGN_OR_RETURN(const auto source, model::OpenModel(options.model));
  SPOTD_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::Create(source->tokenizer_data()));
  const int32_t longest = source->config().context_length;
  const int32_t context = options.context > 0 ? options.context : longest;
  SPOTD_RETURN_IF_ERROR(CheckOptions(options, context, longest));
  if (!families.empty()) SPOTD_RETURN_IF_ERROR(CheckDensities(options, densities, context));
  SPOTD_RETURN_IF_ERROR(model::OpenSelector(options.selector, source->config()).status());
  CorpusOptions corpus_options;
  corpus_options.paths = options.corpus;
  corpus_options.length = context;
  SPOTD_ASSIGN_OR_RETURN(const Corpus corpus,
                         Corpus::Load(corpus_options, *tokenizer, HostThreads(options.threads)));
  const Documents documents =
      corpus.LongDocuments(context, 2 * static_cast<size_t>(options.documents));
  if (documents.size() < 2) {
    return InvalidArgument("--corpus: calibration at ", context,
                           " tokens needs at least two "
                           "documents as long; found ",
                           documents.size());
  }
  const Documents few(documents.begin(),
                      documents.begin() + static_cast<std::ptrdiff_t>(
                                              std::min(documents.size(), kReliabilityDocuments)));
  SPOTD_ASSIGN_OR_RETURN(const std::vector<QuestionDocument> questions,
                         MakeQuestionDocuments(*source, *tokenizer, Shortened(documents, context),
                                               context, 2 * options.questions, kQuestionSeed));
  SPOTD_RETURN_IF_ERROR(CheckTail(questions, options.tail));
  // Temperatures and budgets are those of the weights as they are stored. --out, which may be the
  // file that is calibrated, is written once there are both.
  SPOTD_ASSIGN_OR_RETURN(formats::MappedFile original, formats::MappedFile::Open(options.selector));
  SPOTD_ASSIGN_OR_RETURN(const std::string stored,
                         RewrittenSelector(std::move(original), {}, options.storage));
  SPOTD_ASSIGN_OR_RETURN(const Metadata temperatures,
                         FitTemperatures(options, stored, few, context));
  SPOTD_ASSIGN_OR_RETURN(const std::string calibrated,
                         RewrittenSelector(InMemory(options, stored), temperatures));
  SPOTD_ASSIGN_OR_RETURN(const BudgetChoice budget,
                         FitBudget(options, calibrated, std::move(families), std::move(densities),
                                   Halves(documents, questions, options, context), context));
  SPOTD_RETURN_IF_ERROR(
      RewriteSelector(InMemory(options, calibrated), options.out, BudgetMetadata(budget, context)));
  std::fprintf(stderr, "wrote %s: %s\n", options.out.c_str(),
               Outcome(options, budget, context).c_str());
  return absl::OkStatus();
}

}  // namespace spotd::distill
