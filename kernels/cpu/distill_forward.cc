#include <dnnl.h>
#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/core/check.h"
#include "kernels/core/float16.h"
#include "kernels/core/selector_key.h"
#include "kernels/cpu/distill.h"

namespace spotd::kernels::cpu {
namespace {

// exp(x) for x <= 0 with a relative error below 3e-7, in arithmetic that compilers vectorise: 2^n
// times the Taylor series of 2^f around 0, f in [-1/2, 1/2]. The softmax of the teacher is most of
// the time outside matrix products.
inline float FastExp(float x) {
  constexpr float kLog2E = 1.44269504f;
  const float y = std::max(x * kLog2E, -126.0f);
  const float n = std::nearbyint(y);
  const float f = (y - n) * 0.693147181f;
  const float series =
      1 + f * (1 + f * (1.0f / 2 +
                        f * (1.0f / 6 + f * (1.0f / 24 + f * (1.0f / 120 + f * (1.0f / 720))))));
  return std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23) * series;
}

const float* Rows(const void* x) {
  return static_cast<const float*>(x);
}

// One KV head's keys of the sequence, gathered from its blocks, into scratch.teacher_k.
void GatherKeys(const DistillArgs& args, int32_t kv_head, DistillScratch& scratch) {
  const KvLayer& layer = args.layer;
  const int64_t head_elements = int64_t{layer.block_tokens} * layer.head_dim;
  const int64_t block_elements = 2 * layer.kv_heads * head_elements;
  for (int32_t row = 0; row < args.rows; ++row) {
    const int64_t block = args.block_table[row / layer.block_tokens];
    const Bf16* key = static_cast<const Bf16*>(layer.kv) + block * block_elements +
                      kv_head * head_elements + int64_t{row % layer.block_tokens} * layer.head_dim;
    float* out = scratch.teacher_k.data() + int64_t{row} * layer.head_dim;
    std::transform(key, key + layer.head_dim, out, [](Bf16 value) { return ToFloat(value); });
  }
}

// softmax of scores[0, count), in place.
void Softmax(float* scores, int64_t count) {
  const float max = *std::max_element(scores, scores + count);
  double sum = 0;
  for (int64_t j = 0; j < count; ++j) {
    scores[j] = FastExp(scores[j] - max);
    sum += scores[j];
  }
  const auto factor = static_cast<float>(1 / sum);
  for (int64_t j = 0; j < count; ++j) scores[j] *= factor;
}

// Residual masses of one query, summed over heads: as they are, and weighted.
struct ResidualSums {
  double mass = 0;
  double weighted = 0;
};

// Adds one head's probabilities of query r, weighted within the residual.
void AddHead(const DistillArgs& args, int64_t r, const float* head, float* out,
             ResidualSums* sums) {
  const int64_t visible = int64_t{args.queries[r]} + 1;
  const int64_t begin = std::min<int64_t>(args.sink_tokens, visible);
  const int64_t end = std::max(begin, visible - args.recency_tokens);
  double mass = 0;
  for (int64_t j = begin; j < end; ++j) mass += head[j];
  const double weight = mass > 0 ? std::pow(mass, double{args.teacher_power}) : 0;
  sums->mass += mass;
  sums->weighted += weight * mass;
  for (int64_t j = 0; j < visible; ++j) {
    const bool residual = j >= begin && j < end;
    out[j] += residual ? static_cast<float>(weight) * head[j] : head[j];
  }
}

// From sums over heads to their mean, with the residual's own total.
void FinishTeacher(const DistillArgs& args, int64_t r, const ResidualSums& sums, float* out) {
  const int64_t visible = int64_t{args.queries[r]} + 1;
  const int64_t begin = std::min<int64_t>(args.sink_tokens, visible);
  const int64_t end = std::max(begin, visible - args.recency_tokens);
  const float share = static_cast<float>(args.groups) / static_cast<float>(args.q_heads);
  const float residual_share =
      sums.weighted > 0 ? share * static_cast<float>(sums.mass / sums.weighted) : 0.0f;
  for (int64_t j = 0; j < visible; ++j) out[j] *= j >= begin && j < end ? residual_share : share;
}

// What each group's residual term counts for in a query: sums [groups] to shares [groups].
void ShareResidual(const DistillArgs& args, const ResidualSums* sums, float* shares) {
  double total = 0;
  for (int32_t g = 0; g < args.groups; ++g) {
    total += std::pow(sums[g].mass, double{args.group_power});
  }
  for (int32_t g = 0; g < args.groups; ++g) {
    const double own = std::pow(sums[g].mass, double{args.group_power});
    shares[g] = static_cast<float>(total > 0 ? own / total : 1.0 / args.groups);
  }
}

void NormaliseKeys(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch) {
  pool.ParallelFor(args.rows, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* raw = scratch.k_raw.data() + row * args.dim;
      double squares = 0;
      for (int32_t i = 0; i < args.dim; ++i) squares += double{raw[i]} * raw[i];
      const auto rms = static_cast<float>(1.0 / std::sqrt(squares / args.dim + args.norm_eps));
      scratch.k_rms[static_cast<size_t>(row)] = rms;
      float* out = scratch.k.data() + row * args.dim;
      for (int32_t i = 0; i < args.dim; ++i) out[i] = raw[i] * rms * args.weights.k_norm[i];
    }
  });
}

// Rounds the keys as inference would store them.
void RoundKeys(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch) {
  pool.ParallelFor(args.rows, 64, [&](int64_t begin, int64_t end, int) {
    std::vector<Fp16> stored((SelectorKeyBytes(args.key_rounding, args.dim) + 1) / sizeof(Fp16));
    for (int64_t row = begin; row < end; ++row) {
      float* const key = scratch.k.data() + row * args.dim;
      EncodeSelectorKey(args.key_rounding, key, args.dim, stored.data());
      DecodeSelectorKey(args.key_rounding, stored.data(), args.dim, key);
    }
  });
}

// scores_g = sum_h w_g,h relu(dots_h) / sqrt(dim), over each query's visible keys.
void MixHeads(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(args.dim));
  pool.ParallelFor(args.num_queries, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t visible = int64_t{args.queries[r]} + 1;
      for (int64_t choice = r * args.groups; choice < (r + 1) * args.groups; ++choice) {
        float* scores = scratch.scores.data() + choice * args.rows;
        std::fill(scores, scores + visible, 0.0f);
        for (int32_t h = 0; h < args.heads; ++h) {
          const float weight = scratch.w[static_cast<size_t>(choice * args.heads + h)] * scale;
          const float* dots = scratch.dots.data() + (int64_t{h} * args.num_queries + r) * args.rows;
          for (int64_t j = 0; j < visible; ++j) scores[j] += weight * std::max(dots[j], 0.0f);
        }
      }
    }
  });
}

}  // namespace

void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
          const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
          int64_t ldc) {
  const dnnl_status_t status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k,
                                          alpha, a, lda, b, ldb, beta, c, ldc);
  SPOTD_CHECK(status == dnnl_success);
}

void RotateRows(const Rope& rope, const int32_t* positions, int64_t rows, int32_t heads,
                int32_t dim, float direction, float* values) {
  const int32_t half = rope.rotary_dim / 2;
  for (int64_t row = 0; row < rows; ++row) {
    for (int32_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(positions[row]) * rope.inv_freq[i];
      const auto cosine = static_cast<float>(std::cos(angle)) * rope.magnitude;
      const auto sine = static_cast<float>(std::sin(angle)) * rope.magnitude * direction;
      for (int32_t h = 0; h < heads; ++h) {
        float* value = values + (row * heads + h) * dim + i;
        const float first = value[0];
        const float second = value[half];
        value[0] = first * cosine - second * sine;
        value[half] = second * cosine + first * sine;
      }
    }
  }
}

void ComputeTeacher(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch) {
  const int64_t dim = args.layer.head_dim;
  const int64_t kv_group = args.q_heads / args.layer.kv_heads;
  const int64_t heads = args.q_heads / args.groups;  // that share a choice
  std::fill(scratch.teacher.begin(), scratch.teacher.end(), 0.0f);
  std::vector<ResidualSums> sums(static_cast<size_t>(args.num_queries * args.groups));
  for (int64_t head = 0; head < args.q_heads; ++head) {
    if (head % kv_group == 0) GatherKeys(args, static_cast<int32_t>(head / kv_group), scratch);
    for (int64_t r = 0; r < args.num_queries; ++r) {
      const float* q = Rows(args.q) + (int64_t{args.queries[r]} * args.q_heads + head) * dim;
      std::copy(q, q + dim, scratch.teacher_q.data() + r * dim);
    }
    Gemm(false, true, args.num_queries, args.rows, dim, args.teacher_scale,
         scratch.teacher_q.data(), dim, scratch.teacher_k.data(), dim, 0.0f,
         scratch.teacher_head.data(), args.rows);
    pool.ParallelFor(args.num_queries, 4, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        float* scores = scratch.teacher_head.data() + r * args.rows;
        Softmax(scores, int64_t{args.queries[r]} + 1);
        const int64_t choice = r * args.groups + head / heads;
        AddHead(args, r, scores, scratch.teacher.data() + choice * args.rows,
                &sums[static_cast<size_t>(choice)]);
      }
    });
  }
  for (int64_t choice = 0; choice < int64_t{args.num_queries} * args.groups; ++choice) {
    FinishTeacher(args, choice / args.groups, sums[static_cast<size_t>(choice)],
                  scratch.teacher.data() + choice * args.rows);
  }
  for (int64_t r = 0; r < args.num_queries; ++r) {
    ShareResidual(args, &sums[static_cast<size_t>(r * args.groups)],
                  scratch.residual_share.data() + r * args.groups);
  }
}

void ComputeStudent(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch) {
  const int64_t hidden = args.hidden;
  const int64_t q_width = int64_t{args.heads} * args.dim;
  std::vector<int32_t> query_positions(static_cast<size_t>(args.num_queries));
  for (int64_t r = 0; r < args.num_queries; ++r) {
    const float* x = Rows(args.x) + int64_t{args.queries[r]} * hidden;
    std::copy(x, x + hidden, scratch.x_queries.data() + r * hidden);
    query_positions[static_cast<size_t>(r)] = args.positions[args.queries[r]];
  }
  Gemm(false, true, args.num_queries, q_width, hidden, 1, scratch.x_queries.data(), hidden,
       args.weights.q, hidden, 0, scratch.q.data(), q_width);
  const int64_t w_width = int64_t{args.groups} * args.heads;
  Gemm(false, true, args.num_queries, w_width, hidden, 1, scratch.x_queries.data(), hidden,
       args.weights.w, hidden, 0, scratch.w.data(), w_width);
  Gemm(false, true, args.rows, args.dim, hidden, 1, Rows(args.x), hidden, args.weights.k, hidden, 0,
       scratch.k_raw.data(), args.dim);
  NormaliseKeys(args, pool, scratch);
  RotateRows(args.rope, query_positions.data(), args.num_queries, args.heads, args.dim, 1,
             scratch.q.data());
  RotateRows(args.rope, args.positions, args.rows, 1, args.dim, 1, scratch.k.data());
  if (args.key_rounding != SelectorKeyFormat::kNone) RoundKeys(args, pool, scratch);
  for (int64_t h = 0; h < args.heads; ++h) {
    Gemm(false, true, args.num_queries, args.rows, args.dim, 1, scratch.q.data() + h * args.dim,
         q_width, scratch.k.data(), args.dim, 0,
         scratch.dots.data() + h * args.num_queries * args.rows, args.rows);
  }
  MixHeads(args, pool, scratch);
}

}  // namespace spotd::kernels::cpu
