// Sampling. A row's work is a few vector passes over its logits; only tokens that can still be
// chosen are ranked.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/sample.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <cmath>

#include "hwy/highway.h"
#include "kernels/core/philox.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels::cpu {
namespace HWY_NAMESPACE {

// Logits [i, i + lanes), -infinity beyond n and for NaN.
HWY_INLINE hn::Vec<Wide> LoadLogits(const float* logits, int i, int n) {
  const Wide d;
  const auto least = hn::Set(d, -HUGE_VALF);
  auto v = least;
  if (i + LanesOf(d) <= n) {
    v = hn::LoadU(d, logits + i);
  } else {
    HWY_ALIGN float tail[LanesOf(Wide())];
    hn::Store(least, d, tail);
    std::copy(logits + i, logits + n, tail);
    v = hn::Load(d, tail);
  }
  return hn::IfThenElse(hn::IsNaN(v), least, v);
}

float Largest(const float* logits, int n) {
  const Wide d;
  auto largest = hn::Set(d, -HUGE_VALF);
  for (int i = 0; i < n; i += LanesOf(d)) largest = hn::Max(largest, LoadLogits(logits, i, n));
  return hn::GetLane(hn::MaxOfLanes(d, largest));
}

// sum 2^((logit - top) * scale), top the largest logit.
double SumOfPowers(const float* logits, int n, float top, float scale) {
  const Wide d;
  constexpr int kRun = 4096;  // summed in float
  double total = 0;
  for (int begin = 0; begin < n; begin += kRun) {
    auto sum = hn::Zero(d);
    for (int i = begin; i < std::min(n, begin + kRun); i += LanesOf(d)) {
      const auto below = hn::Sub(LoadLogits(logits, i, n), hn::Set(d, top));
      sum = hn::Add(sum, Exp2(d, hn::Mul(below, hn::Set(d, scale))));
    }
    total += hn::GetLane(hn::SumOfLanes(d, sum));
  }
  return total;
}

// The tokens whose logit is at least `least`, ascending. tokens: [n + lanes]. Returns their number.
size_t GatherAtLeast(const float* logits, int n, float least, int32_t* tokens) {
  const Wide d;
  const hn::RebindToSigned<Wide> di;
  size_t count = 0;
  for (int i = 0; i < n; i += LanesOf(d)) {
    const auto v = LoadLogits(logits, i, n);
    const auto inside = hn::RebindMask(d, hn::Lt(hn::Iota(di, i), hn::Set(di, n)));
    const auto mask = hn::And(hn::Ge(v, hn::Set(d, least)), inside);
    if (hn::AllFalse(d, mask)) continue;
    count += hn::CompressStore(hn::Iota(di, i), hn::RebindMask(di, mask), di, tokens + count);
  }
  return count;
}

// p[i] = 2^((p[i] - top) * scale). p: [n], with room for a vector.
void ToPowers(float* p, size_t n, float top, float scale) {
  const Wide d;
  for (size_t i = 0; i < n; i += static_cast<size_t>(LanesOf(d))) {
    const auto below = hn::Sub(hn::LoadU(d, p + i), hn::Set(d, top));
    hn::StoreU(Exp2(d, hn::Mul(below, hn::Set(d, scale))), d, p + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace spotd::kernels::cpu {
namespace {

HWY_EXPORT(Largest);
HWY_EXPORT(SumOfPowers);
HWY_EXPORT(GatherAtLeast);
HWY_EXPORT(ToPowers);

constexpr size_t kVectorRoom = 16;
constexpr float kLog2E = 1.44269504f;

struct Row {
  const SamplingParams& params;
  float* logits;
  int32_t vocab;
  float top;    // largest logit after adjustment
  float scale;  // log2(e) / temperature
};

void Adjust(const SamplingParams& params, const TokenAdjustment& adjustment, float& logit) {
  logit += adjustment.bias;
  if (adjustment.seen > 0) {
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  }
  if (adjustment.generated > 0) {
    logit -= params.presence_penalty +
             params.frequency_penalty * static_cast<float>(adjustment.generated);
  }
}

bool HasTopK(const Row& row) {
  return row.params.top_k > 0 && row.params.top_k < row.vocab;
}

void Gather(const Row& row, float least, SampleRowScratch& scratch) {
  scratch.tokens.resize(static_cast<size_t>(row.vocab) + kVectorRoom);
  const size_t count =
      HWY_DYNAMIC_DISPATCH(GatherAtLeast)(row.logits, row.vocab, least, scratch.tokens.data());
  scratch.tokens.resize(count);
}

// p of scratch.tokens relative to the top token.
void Weigh(const Row& row, SampleRowScratch& scratch) {
  const size_t n = scratch.tokens.size();
  scratch.p.resize(n + kVectorRoom);
  for (size_t i = 0; i < n; ++i) scratch.p[i] = row.logits[scratch.tokens[i]];
  HWY_DYNAMIC_DISPATCH(ToPowers)(scratch.p.data(), n, row.top, row.scale);
}

double SumOf(const std::vector<float>& p, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += p[i];
  return sum;
}

// Puts the `k` first tokens of the order (descending logit, ascending id) in front, in any order.
void Partition(const Row& row, size_t k, std::vector<int32_t>& tokens, bool sorted) {
  const auto before = [&](int32_t a, int32_t b) {
    return row.logits[a] != row.logits[b] ? row.logits[a] > row.logits[b] : a < b;
  };
  const auto middle = tokens.begin() + static_cast<int64_t>(k);
  if (sorted) {
    std::partial_sort(tokens.begin(), middle, tokens.end(), before);
  } else {
    std::nth_element(tokens.begin(), middle, tokens.end(), before);
  }
}

void KeepTopK(const Row& row, SampleRowScratch& scratch) {
  const auto k = static_cast<size_t>(row.params.top_k);
  for (const float powers : {8.0f, 32.0f, HUGE_VALF}) {
    Gather(row, row.top - powers / row.scale, scratch);
    if (scratch.tokens.size() >= k) break;
  }
  if (scratch.tokens.size() <= k) return;
  Partition(row, k, scratch.tokens, false);
  scratch.tokens.resize(k);
}

// The shortest run of best tokens that holds top_p of `total`.
void KeepTopP(const Row& row, double total, SampleRowScratch& scratch) {
  const size_t n = scratch.tokens.size();
  const double needed = total * row.params.top_p;
  for (size_t sorted = std::min<size_t>(n, 64);; sorted = std::min(n, sorted * 8)) {
    Partition(row, sorted, scratch.tokens, true);
    Weigh(row, scratch);
    double sum = 0;
    size_t keep = 0;
    while (keep < sorted && sum < needed) sum += scratch.p[keep++];
    if (sum < needed && sorted < n) continue;
    scratch.tokens.resize(keep);
    return;
  }
}

void KeepBest(const Row& row, SampleRowScratch& scratch) {
  const bool top_p = row.params.top_p < 1.0f;
  if (HasTopK(row)) {
    KeepTopK(row, scratch);
    Weigh(row, scratch);
    if (top_p) KeepTopP(row, SumOf(scratch.p, scratch.tokens.size()), scratch);
    return;
  }
  if (!top_p) return Gather(row, -HUGE_VALF, scratch);
  const double total = HWY_DYNAMIC_DISPATCH(SumOfPowers)(row.logits, row.vocab, row.top, row.scale);
  for (const float powers : {12.0f, 32.0f, HUGE_VALF}) {
    Gather(row, row.top - powers / row.scale, scratch);
    Weigh(row, scratch);
    if (SumOf(scratch.p, scratch.tokens.size()) >= total * row.params.top_p) break;
  }
  KeepTopP(row, total, scratch);
}

// The token at which the running sum of p, in ascending id, exceeds u of the total.
int32_t Draw(const Row& row, SampleRowScratch& scratch) {
  std::vector<int32_t>& tokens = scratch.tokens;
  std::sort(tokens.begin(), tokens.end());
  Weigh(row, scratch);
  const size_t n = tokens.size();
  for (size_t i = 0; i < n; ++i) {
    if (scratch.p[i] < row.params.min_p) scratch.p[i] = 0;
  }
  const double target = SumOf(scratch.p, n) * PhiloxUniform(row.params.seed, row.params.draw);
  double sum = 0;
  int32_t last = tokens.front();
  for (size_t i = 0; i < n; ++i) {
    sum += scratch.p[i];
    if (scratch.p[i] > 0) last = tokens[i];
    if (sum > target) return tokens[i];
  }
  return last;
}

int32_t ChooseToken(const Row& row, SampleRowScratch& scratch) {
  if (row.params.temperature == 0 || std::isinf(row.top)) {
    if (row.top == -HUGE_VALF) return 0;
    return static_cast<int32_t>(std::find(row.logits, row.logits + row.vocab, row.top) -
                                row.logits);
  }
  KeepBest(row, scratch);
  return Draw(row, scratch);
}

// The logit of `token` before adjustment. adjustments, before: [n]
float LogitBefore(const float* logits, int32_t token, const TokenAdjustment* adjustments,
                  const std::vector<float>& before) {
  for (size_t i = 0; i < before.size(); ++i) {
    if (adjustments[i].token == token) return before[i];
  }
  return logits[token];
}

void SampleRow(const SampleArgs& args, int64_t r, SampleRowScratch& scratch) {
  float* const logits = args.logits + r * args.vocab;
  const SamplingParams& params = args.params[r];
  const float top_before = HWY_DYNAMIC_DISPATCH(Largest)(logits, args.vocab);
  const double sum = HWY_DYNAMIC_DISPATCH(SumOfPowers)(logits, args.vocab, top_before, kLog2E);
  const TokenAdjustment* const adjustments = args.adjustments + args.adjustment_start[r];
  scratch.before.clear();
  for (int32_t i = 0; i < args.adjustment_start[r + 1] - args.adjustment_start[r]; ++i) {
    float& logit = logits[adjustments[i].token];
    scratch.before.push_back(logit);
    Adjust(params, adjustments[i], logit);
  }
  const float top =
      scratch.before.empty() ? top_before : HWY_DYNAMIC_DISPATCH(Largest)(logits, args.vocab);
  const float scale = std::min(kLog2E / params.temperature, 1e30f);
  const int32_t token = ChooseToken({params, logits, args.vocab, top, scale}, scratch);
  args.tokens[r] = token;
  args.logprobs[r] = LogitBefore(logits, token, adjustments, scratch.before) - top_before -
                     static_cast<float>(std::log(sum));
}

}  // namespace

void Sample(const SampleArgs& args, ThreadPool& pool, SampleScratch& scratch) {
  scratch.resize(static_cast<size_t>(pool.num_threads()));
  pool.ParallelFor(args.rows, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t r = begin; r < end; ++r) SampleRow(args, r, scratch[static_cast<size_t>(thread)]);
  });
}

}  // namespace spotd::kernels::cpu
#endif  // HWY_ONCE
