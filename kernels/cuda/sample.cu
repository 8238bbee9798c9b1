// Sampling on the device: adjustments, temperature, top-k, top-p, min-p, and the draw.
//
// Every filter keeps a prefix of the tokens by descending logit (ties to the lower id), so the kept
// set is described by a boundary (key, index), found by bisection over ordered keys; nothing is
// sorted. Probabilities are integers, 2^40 for the largest, so that sums do not depend on the
// schedule. A cluster of thread blocks serves a row where the device has clusters; the log-sum-exp
// of the unmodified logits comes from a kernel over the whole device before it.
#include <climits>

#include "kernels/core/budget_rule.h"
#include "kernels/core/philox.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tally.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxCluster = 8;
constexpr int kLseChunks = 32;
constexpr float kMassUnit = 1099511627776.0f;  // 2^40

// --- log sum exp of the unmodified logits, in kLseChunks pieces per row ---
__global__ void LogSumExpKernel(const float* logits, int32_t vocab, float2* partial) {
  __shared__ float scratch[33];
  AllowNext();
  WaitForPrevious();
  const int share = (vocab + kLseChunks - 1) / kLseChunks;
  const int begin = blockIdx.x * share;
  const int end = min(vocab, begin + share);
  const float* x = logits + int64_t{blockIdx.y} * vocab;
  float max = -INFINITY;
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += blockDim.x)
    max = fmaxf(max, x[i]);
  max = BlockReduce<true>(max, scratch);
  const float base = max == -INFINITY ? 0.0f : max;
  float sum = 0;
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += blockDim.x)
    sum += __expf(x[i] - base);
  sum = BlockReduce<false>(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.y * kLseChunks + blockIdx.x] = {max, sum};
}

// One warp merges the pieces.
__device__ inline float MergeLse(const float2* partial) {
  static_assert(kLseChunks == 32);
  const float2 own = partial[threadIdx.x % 32];
  const float max = WarpMax(own.x);
  const float sum = WarpSum(own.x == -INFINITY ? 0.0f : own.y * __expf(own.x - max));
  return max + logf(sum);
}

// --- choosing ---
struct Problem {
  SampleArgs args;
  const float2* partial;  // [rows, kLseChunks]
  float* originals;  // [rows, vocab] the unmodified logits of adjusted tokens; other entries are
                     // not written
};

// Kept tokens: key > boundary key, or key equal and index below the boundary index.
struct Boundary {
  uint32_t key;
  int32_t index;
};

struct Space {
  TallySpace tally;
  uint64_t best[32];
  uint64_t member_best;
  uint64_t warp_mass[kWarps];
  uint64_t member_mass;
};

struct Row {
  float* logits;
  int32_t begin;  // this thread block's share
  int32_t end;
  int32_t vocab;
  float top;    // largest logit
  float scale;  // log2 e / temperature
  float min_p;
};

__device__ inline uint64_t Mass(const Row& row, float logit) {
  const float p = Exp2((logit - row.top) * row.scale);
  return p >= row.min_p ? static_cast<uint64_t>(p * kMassUnit) : 0;
}

__device__ inline bool Keeps(const Boundary& boundary, uint32_t key, int index) {
  return key > boundary.key || (key == boundary.key && index < boundary.index);
}

__device__ inline void Adjust(const Problem& problem, int row, float* logits) {
  const SampleArgs& args = problem.args;
  const SamplingParams& params = args.params[row];
  const int end = args.adjustment_start[row + 1];
  for (int a = args.adjustment_start[row] + static_cast<int>(threadIdx.x); a < end; a += kThreads) {
    const TokenAdjustment& adjustment = args.adjustments[a];
    float logit = logits[adjustment.token];
    problem.originals[int64_t{row} * args.vocab + adjustment.token] = logit;
    logit += adjustment.bias;
    if (adjustment.seen > 0) {
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
    if (adjustment.generated > 0) {
      logit -= params.presence_penalty +
               params.frequency_penalty * static_cast<float>(adjustment.generated);
    }
    logits[adjustment.token] = logit;
  }
}

// Whether the row adjusts a token: its unmodified logit then lies in `originals`.
__device__ inline bool IsAdjusted(const SampleArgs& args, int row, int token) {
  if (args.adjustments == nullptr) return false;
  bool found = false;
  for (int a = args.adjustment_start[row] + static_cast<int>(threadIdx.x % 32);
       a < args.adjustment_start[row + 1]; a += 32) {
    found = found || args.adjustments[a].token == token;
  }
  return __any_sync(kFullMask, found);
}

// The largest logit and its lowest index, as (key, ~index), to every thread.
template <bool kCluster>
__device__ inline uint64_t FindBest(const Row& row, Space& space) {
  uint64_t best = 0;
  for (int i = row.begin + static_cast<int>(threadIdx.x); i < row.end; i += kThreads) {
    const uint64_t own =
        static_cast<uint64_t>(BudgetOrder(row.logits[i])) << 32 | static_cast<uint32_t>(~i);
    best = own > best ? own : best;
  }
  const auto warp_best = [](uint64_t v) {
    for (int offset = 16; offset > 0; offset /= 2) {
      const uint64_t other = ShuffleXor(v, offset);
      v = other > v ? other : v;
    }
    return v;
  };
  best = warp_best(best);
  if (threadIdx.x % 32 == 0) space.best[threadIdx.x / 32] = best;
  __syncthreads();
  best = warp_best(space.best[threadIdx.x % 32]);
  if constexpr (kCluster) {
    if (threadIdx.x == 0) space.member_best = best;
    ClusterSync();
    for (int m = 0; m < ClusterSize(); ++m) {
      const uint64_t other = *ClusterPointer(&space.member_best, m);
      best = other > best ? other : best;
    }
  }
  return best;
}

template <bool kCluster, typename Take>
__device__ inline Tally Measure(const Row& row, Space& space, const Take& take) {
  Tally tally = {0, 0};
  for (int i = row.begin + static_cast<int>(threadIdx.x); i < row.end; i += kThreads) {
    const float logit = row.logits[i];
    if (!take(BudgetOrder(logit), i)) continue;
    tally.count += 1;
    tally.mass += Mass(row, logit);
  }
  return ClusterTally<kCluster>(tally, space.tally);
}

// The boundary of the prefix that ends where `wants_more(count, mass before)` turns false.
template <bool kCluster, typename WantsMore>
__device__ inline Boundary Bisect(const Row& row, Space& space, const WantsMore& wants_more) {
  uint32_t key = 0;
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    const uint32_t trial = key | (bit - 1);
    if (!wants_more(Measure<kCluster>(row, space, [&](uint32_t k, int) { return k > trial; })))
      key |= bit;
  }
  const Tally ties = Measure<kCluster>(row, space, [&](uint32_t k, int) { return k == key; });
  if (ties.count == 1) return {key, INT_MAX};
  int32_t low = 0;
  int32_t high = row.vocab;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    const Tally taken = Measure<kCluster>(row, space, [&](uint32_t k, int i) {
      return Keeps({key, middle}, k, i);
    });
    if (wants_more(taken)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return {key, low};
}

// The first token, by id, at which the running sum of kept masses exceeds `target`, or -1. One warp
// per contiguous share.
template <bool kCluster, typename MassOf>
__device__ inline int Draw(const Row& row, Space& space, const MassOf& mass_of, float uniform) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int share = ((row.end - row.begin + kWarps - 1) / kWarps + 31) / 32 * 32;
  const int first = row.begin + warp * share;
  const int last = min(row.end, first + share);
  Tally own = {0, 0};
  for (int i = first + lane; i < last; i += 32) own.mass += mass_of(i);
  own = WarpTally(own);
  if (lane == 0) space.warp_mass[warp] = own.mass;
  const uint64_t total = ClusterTally<kCluster>({0, lane == 0 ? own.mass : 0}, space.tally).mass;
  uint64_t before = 0;
  if constexpr (kCluster) {
    for (int m = 0; m < ClusterRank(); ++m) before += ClusterPointer(&space.tally, m)->member.mass;
  }
  for (int w = 0; w < warp; ++w) before += space.warp_mass[w];
  // 24 random bits: the product is exact enough in double, and floor keeps target < total.
  const auto target =
      static_cast<uint64_t>(static_cast<double>(total) * static_cast<double>(uniform));
  if (target < before || target >= before + own.mass) return -1;
  for (int i = first; i < last; i += 32) {
    const uint64_t mass = i + lane < last ? mass_of(i + lane) : 0;
    uint64_t prefix = mass;
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint64_t other =
          __shfl_up_sync(kFullMask, static_cast<unsigned long long>(prefix), offset);
      if (lane >= offset) prefix += other;
    }
    const unsigned hit = __ballot_sync(kFullMask, before + prefix > target);
    if (hit != 0) return i + __ffs(static_cast<int>(hit)) - 1;
    before += __shfl_sync(kFullMask, static_cast<unsigned long long>(prefix), 31);
  }
  return -1;
}

// One warp reports the chosen token.
__device__ inline void Report(const Problem& problem, int row, int token) {
  const SampleArgs& args = problem.args;
  const bool adjusted = IsAdjusted(args, row, token);
  const float lse = MergeLse(problem.partial + row * kLseChunks);
  if (threadIdx.x % 32 != 0) return;
  const int64_t at = int64_t{row} * args.vocab + token;
  args.tokens[row] = token;
  args.logprobs[row] = (adjusted ? problem.originals[at] : args.logits[at]) - lse;
}

template <bool kCluster>
__global__ __launch_bounds__(kThreads) void SampleKernel(const __grid_constant__ Problem problem) {
  __shared__ Space space;
  AllowNext();
  WaitForPrevious();
  const SampleArgs& args = problem.args;
  const int members = kCluster ? ClusterSize() : 1;
  const int member = kCluster ? ClusterRank() : 0;
  const int index = blockIdx.x / members;
  const SamplingParams params = args.params[index];
  Row row = {};
  row.logits = args.logits + int64_t{index} * args.vocab;
  row.vocab = args.vocab;
  const int share = (args.vocab + members - 1) / members;
  row.begin = min(args.vocab, member * share);
  row.end = min(args.vocab, row.begin + share);
  if (args.adjustments != nullptr) {
    if (member == 0) Adjust(problem, index, row.logits);
    __threadfence();
    ClusterSync();
  }
  const uint64_t best = FindBest<kCluster>(row, space);
  const auto best_token = static_cast<int>(~static_cast<uint32_t>(best));
  row.top = row.logits[best_token];
  const bool finite = fabsf(row.top) < INFINITY;
  if (params.temperature == 0.0f || !finite) {
    if (member == 0 && threadIdx.x < 32) Report(problem, index, best_token);
    if constexpr (kCluster) ClusterSync();
    return;
  }
  row.scale = kLog2E / params.temperature;
  row.min_p = 0;
  Boundary kept = {0, INT_MAX};
  const bool top_k = params.top_k > 0 && params.top_k < args.vocab;
  if (top_k) {
    const auto limit = static_cast<uint32_t>(params.top_k);
    kept = Bisect<kCluster>(row, space, [&](const Tally& before) { return before.count < limit; });
  }
  if (params.top_p < 1.0f) {
    const Tally all =
        Measure<kCluster>(row, space, [&](uint32_t key, int i) { return Keeps(kept, key, i); });
    const double needed = static_cast<double>(params.top_p) * static_cast<double>(all.mass);
    kept = Bisect<kCluster>(row, space, [&](const Tally& before) {
      return before.count < all.count && static_cast<double>(before.mass) < needed;
    });
  }
  row.min_p = params.min_p;
  const auto mass_of = [&](int i) {
    const float logit = row.logits[i];
    return Keeps(kept, BudgetOrder(logit), i) ? Mass(row, logit) : uint64_t{0};
  };
  const int token = Draw<kCluster>(row, space, mass_of, PhiloxUniform(params.seed, params.draw));
  if (token >= 0) Report(problem, index, token);
  if constexpr (kCluster) ClusterSync();  // nobody leaves while others read its shared memory
}

size_t PartialBytes(const SampleArgs& args) {
  return sizeof(float2) * kLseChunks * static_cast<size_t>(args.rows);
}

}  // namespace

size_t SampleScratchBytes(const SampleArgs& args) {
  return PartialBytes(args) +
         (args.adjustments == nullptr ? 0 : size_t{4} * args.rows * args.vocab);
}

cudaError_t LaunchSample(const LaunchContext& ctx, const SampleArgs& args, void* scratch) {
  auto* partial = static_cast<float2*>(scratch);
  const cudaError_t error = Launch(ctx, LogSumExpKernel, dim3(kLseChunks, args.rows), kThreads, 0,
                                   static_cast<const float*>(args.logits), args.vocab, partial);
  if (error != cudaSuccess) return error;
  auto* originals = reinterpret_cast<float*>(static_cast<char*>(scratch) + PartialBytes(args));
  const Problem problem = {args, partial, originals};
  if (!ctx.hopper) return Launch(ctx, SampleKernel<false>, args.rows, kThreads, 0, problem);
  return LaunchCluster(ctx, SampleKernel<true>, args.rows * kMaxCluster, kThreads, 0, kMaxCluster,
                       problem);
}

}  // namespace spotd::kernels::cuda
