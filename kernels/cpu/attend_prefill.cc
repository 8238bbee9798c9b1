// Prefill attention. A unit of work is a run of rows of one sequence and one KV head; all query
// heads of the group are stacked, so that a packed tile of K and V serves rows * group query
// vectors. Tiles start at multiples of kPrefillTile tokens, whatever the rows: a row's result does
// not depend on how the prompt was cut.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/prefill_kernels.h"
#include "kernels/paged.h"

namespace spotd::kernels::cpu {
namespace {

constexpr int32_t kUnitVectors = 96;  // query vectors of a unit, about
constexpr int32_t kMinUnitRows = 16;
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

// Where a thread keeps a unit's state: carved from PrefillScratch.
struct Workspace {
  std::byte* queries;  // [vectors, dim] packed
  std::byte* keys;
  std::byte* values;
  float* max;  // [vectors]
  float* sum;  // [vectors]
  float* acc;  // [vectors, dim]
};

int32_t UnitRows(int32_t group) {
  return std::max(kMinUnitRows, kUnitVectors / group);
}

// Sizes are whole cache lines, so that threads do not share one.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  std::byte* Take(size_t bytes) {
    std::byte* const taken = base_ + used_;
    used_ += (bytes + 63) / 64 * 64;
    return taken;
  }
  size_t used() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

Workspace CarveWorkspace(const PrefillKernels& kernels, size_t vectors, size_t dim,
                         Carver& carver) {
  Workspace w;
  w.queries = carver.Take(vectors * dim * kernels.element_bytes);
  w.keys = carver.Take(kPrefillTile * dim * kernels.element_bytes);
  w.values = carver.Take(kPrefillTile * dim * kernels.element_bytes);
  w.max = reinterpret_cast<float*>(carver.Take(vectors * sizeof(float)));
  w.sum = reinterpret_cast<float*>(carver.Take(vectors * sizeof(float)));
  w.acc = reinterpret_cast<float*>(carver.Take(vectors * dim * sizeof(float)));
  return w;
}

// Runs one unit.
class UnitRunner {
 public:
  UnitRunner(const PrefillAttendArgs& args, const PrefillKernels& kernels, const PrefillUnit& unit,
             const Workspace& work)
      : args_(args),
        kernels_(kernels),
        unit_(unit),
        work_(work),
        group_(args.q_heads / args.layer.kv_heads),
        dim_(args.layer.head_dim) {}

  void Run() {
    LoadQueries();
    const int32_t all_visible = unit_.visible + unit_.rows - 1;
    for (int32_t token = 0; token < all_visible; token += kPrefillTile) {
      const int32_t tokens = std::min(kPrefillTile, all_visible - token);
      PackTile(token, tokens);
      for (int32_t v = 0; v < vectors(); v += kPrefillRows) AttendGroup(v, token);
    }
    StoreResults();
  }

 private:
  int32_t vectors() const { return unit_.rows * group_; }
  int32_t VisibleOf(int32_t vector) const { return unit_.visible + vector / group_; }
  // Index of the unit's first head in row `r` of the unit, in [rows, q_heads].
  int64_t HeadIndex(int32_t r) const {
    return int64_t{unit_.row + r} * args_.q_heads + unit_.kv_head * group_;
  }

  void LoadQueries() {
    const auto row_bytes = static_cast<size_t>(group_ * dim_) * kernels_.element_bytes;
    for (int32_t r = 0; r < unit_.rows; ++r) {
      kernels_.pack_queries(static_cast<const float*>(args_.q) + HeadIndex(r) * dim_, group_ * dim_,
                            args_.scale * kLog2E,
                            work_.queries + static_cast<size_t>(r) * row_bytes);
    }
    std::fill(work_.max, work_.max + vectors(), -HUGE_VALF);
    std::fill(work_.sum, work_.sum + vectors(), 0.0f);
    std::fill(work_.acc, work_.acc + vectors() * dim_, 0.0f);
  }

  void PackTile(int32_t first, int32_t tokens) {
    const int32_t block_tokens = args_.layer.block_tokens;
    for (int32_t t = 0; t < kPrefillTile; t += kPackTokens) {
      const int32_t present = std::clamp(tokens - t, 0, kPackTokens);
      const Bf16* keys = nullptr;
      const Bf16* values = nullptr;
      if (present > 0) {
        const int32_t physical = PhysicalBlock(args_.batch, unit_.seq, (first + t) / block_tokens);
        const int32_t offset = (first + t) % block_tokens * dim_;
        keys = BlockKeys(args_.layer, physical, unit_.kv_head) + offset;
        values = BlockValues(args_.layer, physical, unit_.kv_head) + offset;
      }
      kernels_.pack_keys(keys, present, dim_, t, work_.keys);
      kernels_.pack_values(values, present, dim_, t, work_.values);
    }
  }

  void AttendGroup(int32_t vector, int32_t first_token) {
    PrefillGroup g;
    g.rows = std::min(kPrefillRows, vectors() - vector);
    g.dim = dim_;
    g.queries = work_.queries +
                static_cast<size_t>(vector) * static_cast<size_t>(dim_) * kernels_.element_bytes;
    g.keys = work_.keys;
    g.values = work_.values;
    g.max = work_.max + vector;
    g.sum = work_.sum + vector;
    g.acc = work_.acc + int64_t{vector} * dim_;
    if (VisibleOf(vector + g.rows - 1) <= first_token) return;
    for (int i = 0; i < g.rows; ++i) {
      g.visible[i] = std::clamp(VisibleOf(vector + i) - first_token, 0, kPrefillTile);
    }
    kernels_.attend(g);
  }

  void StoreResults() {
    for (int32_t v = 0; v < vectors(); ++v) {
      const int64_t head = HeadIndex(v / group_) + v % group_;
      const float inverse = 1.0f / work_.sum[v];
      float* const out = static_cast<float*>(args_.out) + head * dim_;
      for (int32_t i = 0; i < dim_; ++i) out[i] = work_.acc[v * dim_ + i] * inverse;
      if (args_.lse != nullptr) {
        args_.lse[head] = kLn2 * (work_.max[v] + std::log2(work_.sum[v]));
      }
    }
  }

  const PrefillAttendArgs& args_;
  const PrefillKernels& kernels_;
  const PrefillUnit& unit_;
  const Workspace& work_;
  const int32_t group_;
  const int32_t dim_;
};

// Longest units first: the last ones to finish are short.
void PlanUnits(const PrefillAttendArgs& args, std::vector<PrefillUnit>& units) {
  const int32_t size = UnitRows(args.q_heads / args.layer.kv_heads);
  units.clear();
  for (int32_t s = 0; s < args.batch.num_seqs; ++s) {
    const int32_t begin = args.batch.row_start[s];
    const int32_t end = args.batch.row_start[s + 1];
    for (int32_t row = begin; row < end; row += size) {
      const int32_t visible = FirstNewToken(args.batch, s) + row - begin + 1;
      for (int32_t h = 0; h < args.layer.kv_heads; ++h) {
        units.push_back({s, h, row, std::min(size, end - row), visible});
      }
    }
  }
  std::stable_sort(units.begin(), units.end(),
                   [](const auto& a, const auto& b) { return a.visible > b.visible; });
}

}  // namespace

std::byte* PrefillScratch::Reserve(size_t bytes) {
  const size_t lines = (bytes + sizeof(Line) - 1) / sizeof(Line);
  if (lines_.size() < lines) lines_.resize(lines);
  return lines_.front().bytes;
}

void PrefillAttend(const PrefillAttendArgs& args, ThreadPool& pool, PrefillScratch& scratch) {
  const int32_t dim = args.layer.head_dim;
  const int32_t group = args.q_heads / args.layer.kv_heads;
  const bool bf16 = !args.full_precision && dim % 16 == 0 && HasBf16Prefill();
  const PrefillKernels kernels = bf16 ? Bf16PrefillKernels() : FloatPrefillKernels();
  PlanUnits(args, scratch.units);
  const auto vectors = static_cast<size_t>(UnitRows(group) * group);
  Carver sizes(nullptr);
  CarveWorkspace(kernels, vectors, static_cast<size_t>(dim), sizes);
  std::byte* const base = scratch.Reserve(sizes.used() * static_cast<size_t>(pool.num_threads()));
  const auto units = static_cast<int64_t>(scratch.units.size());
  pool.ParallelFor(units, 1, [&](int64_t begin, int64_t end, int thread) {
    Carver carver(base + sizes.used() * static_cast<size_t>(thread));
    const Workspace work = CarveWorkspace(kernels, vectors, static_cast<size_t>(dim), carver);
    for (int64_t u = begin; u < end; ++u) {
      UnitRunner(args, kernels, scratch.units[static_cast<size_t>(u)], work).Run();
    }
  });
}

}  // namespace spotd::kernels::cpu
