// Attention, scoring and choosing on the CPU at named geometries, one decode step's or one chunk's
// worth for all layers. Reads distinct memory for every layer, as a step does.
//
// `time` is the wall clock, `CPU` the time of all threads together; blocks lie scattered over the
// pool. qwen3-8b(4) is four of its layers. Counters: GB/s are the bytes that the operation must
// read, GFLOP/s its multiply-adds times two, GMAC/s the multiply-adds of the selector's scores. The
// floor to hold GB/s against is BM_ReadKv: a plain sum over the same cache; that of GMAC/s is
// BM_Int8Product: int8 products from the core's own cache.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/backend.h"
#include "kernels/core/check.h"
#include "kernels/core/float16.h"
#include "kernels/core/thread_pool.h"
#include "kernels/paged.h"

namespace spotd::kernels {
namespace {

constexpr int kBlockTokens = 16;
int g_threads = 2;  // --threads=N

struct Geometry {
  const char* name;
  int layers;
  int q_heads;
  int kv_heads;
  int head_dim;
  int selector_heads;
  int selector_dim;
};

constexpr Geometry kGeometries[] = {{"smollm2-135m", 30, 9, 3, 64, 8, 64},
                                    {"qwen2.5-0.5b", 24, 14, 2, 64, 4, 64},
                                    {"qwen3-8b(4)", 4, 32, 8, 128, 4, 128}};

// One sequence of `tokens` tokens in a cache of its own, and everything a step's operations need.
class Bench {
 public:
  Bench(const Geometry& g, int tokens, int rows, int seqs = 1,
        SelectorKeyFormat format = SelectorKeyFormat::kInt4)
      : g_(g), tokens_(tokens), rows_(rows), seqs_(seqs), format_(format) {
    auto backend = CreateBackend({"cpu", g_threads});
    SPOTD_CHECK(backend.ok());
    backend_ = *std::move(backend);
    blocks_ = NumBlocks(tokens, kBlockTokens);
    const auto pool = static_cast<size_t>(blocks_ * seqs);
    const size_t kv = 2ul * kBlockTokens * static_cast<size_t>(g.kv_heads * g.head_dim);
    for (int l = 0; l < g.layers; ++l) {
      kv_.push_back(Fill<Bf16>(pool * kv, RandomBf16()));
      summary_.push_back(Fill<Bf16>(pool * kv / kBlockTokens, RandomBf16()));
      keys_.push_back(
          Fill<uint8_t>(pool * kBlockTokens * SelectorKeyBytes(format, g.selector_dim), 0x2b));
    }
    std::vector<int32_t> table(pool);
    for (size_t b = 0; b < pool; ++b) table[b] = static_cast<int32_t>(b);
    std::shuffle(table.begin(), table.end(), random_);
    table_ = Put(table);
    kv_len_ = Put(std::vector<int32_t>(static_cast<size_t>(seqs), tokens));
    std::vector<int32_t> row_start;
    for (int s = 0; s <= seqs; ++s) row_start.push_back(s * rows);
    row_start_ = Put(row_start);
    q_ = Put(RandomFloats(all_rows() * static_cast<size_t>(g.q_heads * g.head_dim)));
    out_ = Put(std::vector<float>(all_rows() * static_cast<size_t>(g.q_heads * g.head_dim)));
    selector_q_ =
        Put(RandomFloats(all_rows() * static_cast<size_t>(g.selector_heads * g.selector_dim)));
    selector_w_ =
        Put(RandomFloats(all_rows() * static_cast<size_t>(g.kv_heads * g.selector_heads)));
    const size_t choices = all_rows() * static_cast<size_t>(g.kv_heads * blocks_);
    lse_ = Put(std::vector<float>(choices));
    selected_ = Put(std::vector<int32_t>(choices));
    counts_ = Put(std::vector<int32_t>(all_rows() * static_cast<size_t>(g.kv_heads)));
    covered_ = Put(std::vector<float>(all_rows() * static_cast<size_t>(g.kv_heads)));
    rules_ = Put(std::vector<BudgetRule>(
        all_rows(), {BudgetKind::kFixedFraction, 0, 0, 0.1f, 0, 128, 256, 0, 0}));
  }

  Backend* operator->() const { return backend_.get(); }
  const Geometry& geometry() const { return g_; }
  int layers() const { return g_.layers; }
  const Bf16* kv(int layer) const { return kv_[static_cast<size_t>(layer)]; }

  SequenceBatch batch() const {
    return {seqs_, static_cast<int32_t>(all_rows()), tokens_, table_, blocks_, kv_len_, row_start_};
  }
  KvLayer layer(int l) const {
    const auto i = static_cast<size_t>(l);
    return {kv_[i],      summary_[i], keys_[i],        blocks_ * seqs_, kBlockTokens,
            g_.kv_heads, g_.head_dim, g_.selector_dim, format_};
  }
  AttendArgs Attend(int l, int groups) const {
    AttendArgs args = {batch(), layer(l), g_.q_heads, 0.125f, q_,     nullptr,
                       counts_, 1,        blocks_,    out_,   nullptr};
    if (groups > 0) args.selected = selected_;
    args.groups = std::max(1, groups);
    return args;
  }
  PrefillAttendArgs Prefill(int l) const {
    return {batch(), layer(l), g_.q_heads, 0.125f, q_, out_, nullptr};
  }
  QuestScoreArgs Quest(int l) const {
    return {batch(), layer(l), g_.q_heads, 0.125f, q_, lse_, blocks_};
  }
  SelectorScoreArgs Selector(int l, int groups) const {
    return {batch(), layer(l), g_.selector_heads, selector_q_, selector_w_, lse_, blocks_, groups};
  }
  SelectArgs Select(int groups) const {
    return {batch(), kBlockTokens, groups,  rules_,  lse_,
            blocks_, selected_,    blocks_, counts_, covered_};
  }

  // Bytes per layer of the whole batch.
  double kv_bytes() const { return 4.0 * tokens_ * seqs_ * g_.kv_heads * g_.head_dim; }
  double summary_bytes() const { return kv_bytes() / kBlockTokens; }
  double key_bytes() const {
    return static_cast<double>(tokens_ * seqs_) *
           static_cast<double>(SelectorKeyBytes(format_, g_.selector_dim));
  }
  double selector_products() const {
    return static_cast<double>(tokens_ * seqs_) * g_.selector_heads * g_.selector_dim;
  }
  double prefill_flops() const {
    const double pairs =
        static_cast<double>(rows_) * (tokens_ - rows_) + 0.5 * rows_ * (rows_ + 1.0);
    return 4.0 * pairs * seqs_ * g_.q_heads * g_.head_dim;
  }

 private:
  size_t all_rows() const { return static_cast<size_t>(rows_ * seqs_); }
  Bf16 RandomBf16() { return ToBf16(std::normal_distribution<float>()(random_)); }
  std::vector<float> RandomFloats(size_t n) {
    std::vector<float> x(n);
    for (float& v : x) v = std::normal_distribution<float>()(random_);
    return x;
  }
  void* Allocate(size_t bytes) {
    auto buffer = backend_->Allocate(bytes);
    SPOTD_CHECK(buffer.ok());
    buffers_.push_back(*std::move(buffer));
    return buffers_.back().data();
  }
  template <typename T>
  T* Put(const std::vector<T>& values) {
    void* const data = Allocate(values.size() * sizeof(T));
    std::memcpy(data, values.data(), values.size() * sizeof(T));
    return static_cast<T*>(data);
  }
  // Varied values, cheaply: a random one at every 61st place, `value` elsewhere.
  template <typename T>
  T* Fill(size_t n, T value) {
    T* const data = static_cast<T*>(Allocate(n * sizeof(T)));
    std::fill(data, data + n, value);
    if constexpr (sizeof(T) == sizeof(Bf16)) {
      for (size_t i = 0; i < n; i += 61) data[i] = RandomBf16();
    }
    return data;
  }

  Geometry g_;
  int tokens_;
  int rows_;
  int seqs_;
  SelectorKeyFormat format_;
  int blocks_ = 0;
  std::mt19937 random_{1};
  std::unique_ptr<Backend> backend_;
  std::vector<Buffer> buffers_;
  std::vector<Bf16*> kv_;
  std::vector<Bf16*> summary_;
  std::vector<uint8_t*> keys_;
  int32_t* table_ = nullptr;
  int32_t* kv_len_ = nullptr;
  int32_t* row_start_ = nullptr;
  float* q_ = nullptr;
  float* out_ = nullptr;
  float* selector_q_ = nullptr;
  float* selector_w_ = nullptr;
  float* lse_ = nullptr;
  int32_t* selected_ = nullptr;
  int32_t* counts_ = nullptr;
  float* covered_ = nullptr;
  BudgetRule* rules_ = nullptr;
};

void ReportBytes(benchmark::State& state, double bytes) {
  state.counters["GB/s"] =
      benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

// The floor: every byte of the cache, added up.
void BM_ReadKv(benchmark::State& state, const Geometry& g) {
  Bench bench(g, static_cast<int>(state.range(0)), 1);
  ThreadPool pool(g_threads);
  const auto words = static_cast<int64_t>(bench.kv_bytes()) / 8;
  for (auto _ : state) {
    for (int l = 0; l < bench.layers(); ++l) {
      const auto* const data = reinterpret_cast<const uint64_t*>(bench.kv(l));
      pool.ParallelFor(words, 1 << 15, [&](int64_t begin, int64_t end, int) {
        uint64_t sum = 0;
        for (int64_t i = begin; i < end; ++i) sum += data[i];
        benchmark::DoNotOptimize(sum);
      });
    }
  }
  ReportBytes(state, bench.kv_bytes() * bench.layers());
}

void BM_DenseDecode(benchmark::State& state, const Geometry& g) {
  Bench bench(g, static_cast<int>(state.range(0)), 1);
  for (auto _ : state) {
    for (int l = 0; l < bench.layers(); ++l) bench->Attend(bench.Attend(l, 0));
  }
  ReportBytes(state, bench.kv_bytes() * bench.layers());
}

// Quest at 10%: score, choose, attend.
void BM_QuestDecode(benchmark::State& state, const Geometry& g) {
  Bench bench(g, static_cast<int>(state.range(0)), 1);
  for (auto _ : state) {
    for (int l = 0; l < bench.layers(); ++l) {
      bench->QuestScore(bench.Quest(l));
      bench->Select(bench.Select(g.kv_heads));
      bench->Attend(bench.Attend(l, g.kv_heads));
    }
  }
  ReportBytes(state, (0.1 * bench.kv_bytes() + bench.summary_bytes()) * bench.layers());
}

void BM_QuestScore(benchmark::State& state, const Geometry& g) {
  Bench bench(g, static_cast<int>(state.range(0)), 1);
  for (auto _ : state) {
    for (int l = 0; l < bench.layers(); ++l) bench->QuestScore(bench.Quest(l));
  }
  ReportBytes(state, bench.summary_bytes() * bench.layers());
}

void ReportProducts(benchmark::State& state, double products) {
  state.counters["GMAC/s"] =
      benchmark::Counter(products * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void ScoreSelector(benchmark::State& state, const Geometry& g, int groups,
                   SelectorKeyFormat format) {
  Bench bench(g, static_cast<int>(state.range(0)), 1, 1, format);
  for (auto _ : state) {
    for (int l = 0; l < bench.layers(); ++l) bench->SelectorScore(bench.Selector(l, groups));
  }
  ReportBytes(state, bench.key_bytes() * bench.layers());
  ReportProducts(state, bench.selector_products() * bench.layers());
}

// One choice for all heads.
void BM_SelectorScore(benchmark::State& state, const Geometry& g) {
  ScoreSelector(state, g, 1, SelectorKeyFormat::kInt4);
}

// A choice for each KV head.
template <SelectorKeyFormat kFormat>
void BM_HeadSelectorScore(benchmark::State& state, const Geometry& g) {
  ScoreSelector(state, g, g.kv_heads, kFormat);
}

// The floor of multiply-adds: 4-bit weights of 72 KiB times int8 rows, as prefill multiplies them.
void BM_Int8Product(benchmark::State& state, const Geometry& /*g*/) {
  constexpr int64_t kRows = 512, kSize = 256;
  const auto backend = CreateBackend({"cpu", g_threads});
  SPOTD_CHECK(backend.ok());
  const std::vector<uint8_t> blocks(static_cast<size_t>(kSize) * RowBytes(DType::kQ4_0, kSize),
                                    0x2b);
  WeightSource source = {};
  source.name = "product";
  source.rows = source.cols = kSize;
  source.type = DType::kQ4_0;
  source.data = blocks.data();
  const auto weight = (*backend)->CreateWeight(source);
  SPOTD_CHECK(weight.ok());
  const std::vector<float> x(kRows * kSize, 1.0f);
  std::vector<float> y(kRows * kSize);
  LinearArgs args = {};
  args.x = x.data();
  args.rows = kRows;
  args.in_dim = kSize;
  args.num_outputs = 1;
  args.outputs[0] = {weight->get(), nullptr, y.data(), false};
  for (auto _ : state) (*backend)->Linear(args);
  ReportProducts(state, kRows * kSize * kSize);
}

void BM_Select(benchmark::State& state, const Geometry& g) {
  Bench bench(g, static_cast<int>(state.range(0)), 1);
  bench->QuestScore(bench.Quest(0));
  for (auto _ : state) {
    for (int l = 0; l < bench.layers(); ++l) bench->Select(bench.Select(g.kv_heads));
  }
}

// Attention to the blocks that Quest chose, one choice per KV head.
void BM_SparseAttend(benchmark::State& state, const Geometry& g) {
  Bench bench(g, static_cast<int>(state.range(0)), 1);
  bench->QuestScore(bench.Quest(0));
  bench->Select(bench.Select(g.kv_heads));
  for (auto _ : state) {
    for (int l = 0; l < bench.layers(); ++l) bench->Attend(bench.Attend(l, g.kv_heads));
  }
  ReportBytes(state, 0.1 * bench.kv_bytes() * bench.layers());
}

void BM_Prefill(benchmark::State& state, const Geometry& g) {
  Bench bench(g, static_cast<int>(state.range(0)), static_cast<int>(state.range(1)));
  for (auto _ : state) {
    bench->PrefillAttend(bench.Prefill(0));
  }
  state.counters["GFLOP/s"] = benchmark::Counter(bench.prefill_flops() * 1e-9,
                                                 benchmark::Counter::kIsIterationInvariantRate);
}

void Register() {
  using Body = void (*)(benchmark::State&, const Geometry&);
  const std::pair<const char*, Body> steps[] = {
      {"ReadKv", BM_ReadKv},
      {"DenseDecode", BM_DenseDecode},
      {"QuestDecode", BM_QuestDecode},
      {"QuestScore", BM_QuestScore},
      {"SelectorScore", BM_SelectorScore},
      {"HeadSelectorScore", BM_HeadSelectorScore<SelectorKeyFormat::kInt4>},
      {"HeadSelectorScoreFp4", BM_HeadSelectorScore<SelectorKeyFormat::kFp4>},
      {"HeadSelectorScoreBf16", BM_HeadSelectorScore<SelectorKeyFormat::kBf16>},
      {"Int8Product", BM_Int8Product},
      {"Select", BM_Select},
      {"SparseAttend", BM_SparseAttend}};
  for (const Geometry& g : kGeometries) {
    for (const auto& [name, body] : steps) {
      benchmark::RegisterBenchmark((std::string(name) + "/" + g.name).c_str(), body, g)
          ->Arg(8192)
          ->Unit(benchmark::kMillisecond)
          ->MeasureProcessCPUTime()
          ->UseRealTime();
    }
    benchmark::RegisterBenchmark((std::string("Prefill/") + g.name).c_str(), BM_Prefill, g)
        ->Args({512, 512})
        ->Args({8192, 512})
        ->Unit(benchmark::kMillisecond)
        ->MeasureProcessCPUTime()
        ->UseRealTime();
  }
}

}  // namespace
}  // namespace spotd::kernels

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  constexpr std::string_view kFlag = "--threads=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg.starts_with(kFlag))
      spotd::kernels::g_threads = std::stoi(std::string(arg.substr(kFlag.size())));
  }
  spotd::kernels::Register();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
