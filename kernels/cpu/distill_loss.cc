#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/cpu/distill.h"

namespace spotd::kernels::cpu {
namespace {

// The tokens of one query, cut into reserved (read by every budget) and residual.
struct Span {
  int64_t visible;
  int64_t sinks;          // [0, sinks) is reserved
  int64_t recency_begin;  // [recency_begin, visible) is reserved
};

Span SpanOf(const DistillArgs& args, int64_t r) {
  const int64_t visible = int64_t{args.queries[r]} + 1;
  const int64_t sinks = std::min<int64_t>(args.sink_tokens, visible);
  return {visible, sinks, std::max(sinks, visible - args.recency_tokens)};
}

// softmax of scores into `out` (0 beyond `count`).
void Softmax(const float* scores, int64_t count, std::vector<double>& out) {
  const float max = *std::max_element(scores, scores + count);
  double sum = 0;
  for (int64_t j = 0; j < count; ++j)
    sum += out[j] = std::exp(static_cast<double>(scores[j]) - max);
  for (int64_t j = 0; j < count; ++j) out[j] /= sum;
}

// KL between teacher and student restricted to the tokens where in(j), both renormalised; adds
// weight * d KL / d score to `gradient`. 0 where either side has no mass there.
template <typename In>
double RestrictedKl(const float* teacher, const std::vector<double>& student, int64_t count,
                    const In& in, double weight, std::vector<double>& gradient) {
  double teacher_mass = 0;
  double student_mass = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (!in(j)) continue;
    teacher_mass += teacher[j];
    student_mass += student[j];
  }
  constexpr double kTiny = 1e-12;
  if (teacher_mass < kTiny || student_mass < kTiny) return 0;
  double kl = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (!in(j)) continue;
    const double t = teacher[j] / teacher_mass;
    const double s = student[j] / student_mass;
    if (t > 0) kl += t * std::log(t / std::max(s, 1e-30));
    gradient[j] += weight * (s - t);
  }
  return kl;
}

// The blocks a budget of `fraction` of the visible blocks would read: reserved ones, then the
// student's best.
std::vector<char> ChosenBlocks(const std::vector<double>& student, const Span& span,
                               int32_t block_tokens, double fraction) {
  const int64_t blocks = (span.visible + block_tokens - 1) / block_tokens;
  std::vector<char> chosen(static_cast<size_t>(blocks), 0);
  std::vector<double> mass(static_cast<size_t>(blocks), 0.0);
  int64_t taken = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = b * block_tokens;
    const int64_t end = std::min(begin + block_tokens, span.visible);
    chosen[b] = begin < span.sinks || end > span.recency_begin;
    taken += chosen[b];
    for (int64_t j = begin; j < end; ++j) mass[b] += student[j];
  }
  std::vector<int64_t> order(static_cast<size_t>(blocks));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return mass[a] > mass[b]; });
  const auto budget = static_cast<int64_t>(std::ceil(fraction * static_cast<double>(blocks)));
  for (size_t i = 0; i < order.size() && taken < budget; ++i) {
    if (chosen[order[i]]) continue;
    chosen[order[i]] = 1;
    ++taken;
  }
  return chosen;
}

template <typename Probabilities>
double MassOf(const Probabilities& probabilities, const std::vector<char>& chosen, const Span& span,
              int32_t block_tokens) {
  double mass = 0;
  for (int64_t j = 0; j < span.visible; ++j) {
    if (chosen[j / block_tokens]) mass += probabilities[j];
  }
  return mass;
}

// `choice` counts the groups of each query.
void LossOfChoice(const DistillArgs& args, int64_t choice, DistillScratch& scratch,
                  DistillStats* stats) {
  const Span span = SpanOf(args, choice / args.groups);
  const int32_t block_tokens = args.layer.block_tokens;
  float* scores = scratch.scores.data() + choice * args.rows;
  const float* teacher = scratch.teacher.data() + choice * args.rows;
  std::vector<double> student(static_cast<size_t>(span.visible));
  std::vector<double> gradient(static_cast<size_t>(span.visible), 0.0);
  Softmax(scores, span.visible, student);

  const auto everywhere = [](int64_t) { return true; };
  const bool sparse = args.sparse_fraction > 0;
  const double kl = RestrictedKl(teacher, student, span.visible, everywhere,
                                 sparse ? 0.0 : args.full_weight, gradient);
  double first_term = kl;
  if (sparse) {
    const std::vector<char> read = ChosenBlocks(student, span, block_tokens, args.sparse_fraction);
    first_term = RestrictedKl(
        teacher, student, span.visible, [&](int64_t j) { return read[j / block_tokens] != 0; },
        args.full_weight, gradient);
  }
  // Times groups: what follows is a mean over them.
  const double residual_weight = double{args.residual_weight} * args.groups *
                                 scratch.residual_share[static_cast<size_t>(choice)];
  const double residual = RestrictedKl(
      teacher, student, span.visible,
      [&](int64_t j) { return j >= span.sinks && j < span.recency_begin; }, residual_weight,
      gradient);

  const std::vector<char> recalled =
      ChosenBlocks(student, span, block_tokens, args.recall_fraction);
  stats->kl += kl;
  stats->residual_kl += residual;
  stats->loss += args.full_weight * first_term + residual_weight * residual;
  stats->recalled_mass += MassOf(teacher, recalled, span, block_tokens);
  stats->believed_mass += MassOf(student, recalled, span, block_tokens);
  const double scale = static_cast<double>(args.gradient_scale) / args.groups;
  for (int64_t j = 0; j < span.visible; ++j) scores[j] = static_cast<float>(scale * gradient[j]);
  std::fill(scores + span.visible, scores + args.rows, 0.0f);
}

}  // namespace

void ComputeLoss(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch,
                 DistillStats* stats) {
  // One slot per choice, summed in order, so that the figures do not depend on the number of
  // threads.
  std::vector<DistillStats> by_choice(static_cast<size_t>(args.num_queries) *
                                      static_cast<size_t>(args.groups));
  pool.ParallelFor(static_cast<int64_t>(by_choice.size()), 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      LossOfChoice(args, i, scratch, &by_choice[static_cast<size_t>(i)]);
  });
  const double share = 1.0 / args.groups;
  for (const DistillStats& choice : by_choice) {
    stats->loss += share * choice.loss;
    stats->kl += share * choice.kl;
    stats->residual_kl += share * choice.residual_kl;
    stats->recalled_mass += share * choice.recalled_mass;
    stats->believed_mass += share * choice.believed_mass;
  }
  stats->queries += args.num_queries;
}

}  // namespace spotd::kernels::cpu
