// Linear on the CPU: bytes per second against what a plain read reaches, and products per second
// with many rows.
//
//   build/bench/linear_bench --benchmark_filter=SmolLm2
//
// Args are named; "GB/s" counts the bytes of weights that one pass reads.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/backend.h"
#include "kernels/core/dtype.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/weight.h"
#include "kernels/cpu/weight_memory.h"
#include "tests/kernels/random_weights.h"

namespace spotd::kernels {
namespace {

constexpr size_t kBeyondL3 = size_t{192} << 20;

int Threads() {
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::unique_ptr<Weight> RandomWeight(DType type, int64_t rows, int64_t cols) {
  // Few distinct rows: making them is slower than packing them.
  constexpr int64_t kDistinct = 64;
  const std::vector<uint8_t> some = RandomMatrix(type, kDistinct, cols, 1);
  std::vector<uint8_t> data;
  for (int64_t row = 0; row < rows; row += kDistinct) {
    const auto count = static_cast<int64_t>(RowBytes(type, cols)) * std::min(kDistinct, rows - row);
    data.insert(data.end(), some.begin(), some.begin() + count);
  }
  return MakeCpuWeight({"random", rows, cols, type, data.data()}).value();
}

// One projection or several of one input, with room for its results.
class Projection {
 public:
  Projection(std::vector<std::unique_ptr<Weight>> weights, int rows)
      : weights_(std::move(weights)),
        x_(RandomFloats(static_cast<size_t>(rows * weights_[0]->cols()), 2)) {
    args_.x = x_.data();
    args_.rows = rows;
    args_.in_dim = static_cast<int32_t>(weights_[0]->cols());
    args_.num_outputs = static_cast<int32_t>(weights_.size());
    for (size_t i = 0; i < weights_.size(); ++i) {
      y_.emplace_back(static_cast<size_t>(rows * weights_[i]->rows()));
      args_.outputs[i] = {weights_[i].get(), nullptr, y_[i].data(), false};
    }
  }
  const LinearArgs& args() const { return args_; }
  size_t bytes() const {
    size_t sum = 0;
    for (const auto& weight : weights_) sum += weight->bytes();
    return sum;
  }
  double flops() const {
    double sum = 0;
    for (const auto& weight : weights_) {
      sum += 2.0 * static_cast<double>(weight->rows() * weight->cols()) * args_.rows;
    }
    return sum;
  }

 private:
  std::vector<std::unique_ptr<Weight>> weights_;
  std::vector<float> x_;
  std::vector<std::vector<float>> y_;
  LinearArgs args_ = {};
};

void Report(benchmark::State& state, double bytes, double flops) {
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  if (bytes > 0) state.counters["GB/s"] = Counter(bytes / 1e9, rate);
  if (flops > 0) state.counters["GFLOP/s"] = Counter(flops / 1e9, rate);
}

// What the memory gives to a loop that only adds: the ceiling of every decode step.
void BM_Read(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  const std::shared_ptr<uint8_t> memory = AllocateWeightMemory(kBeyondL3);
  auto* const words = reinterpret_cast<uint64_t*>(memory.get());
  const auto count = static_cast<int64_t>(kBeyondL3 / sizeof(uint64_t));
  std::fill_n(words, count, 1);
  std::vector<uint64_t> sums(static_cast<size_t>(pool.num_threads()) * 8);
  for (auto _ : state) {
    pool.ParallelFor(count, count / (8 * pool.num_threads()), [&](int64_t a, int64_t b, int t) {
      uint64_t sum[8] = {};
      for (int64_t i = a; i + 8 <= b; i += 8) {
        for (int lane = 0; lane < 8; ++lane) sum[lane] += words[i + lane];
      }
      for (const uint64_t lane : sum) sums[static_cast<size_t>(t) * 8] += lane;
    });
  }
  benchmark::DoNotOptimize(sums.data());
  Report(state, static_cast<double>(kBeyondL3), 0);
}
BENCHMARK(BM_Read)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();

void BM_ForkJoin(benchmark::State& state) {
  ThreadPool pool(Threads());
  for (auto _ : state) pool.Run([](int) {});
}
BENCHMARK(BM_ForkJoin)->UseRealTime();

// A matrix that no cache holds, or one that L2 and L3 do, times `rows` rows.
void BM_Linear(benchmark::State& state, DType type, size_t bytes) {
  constexpr int64_t kCols = 2048;
  const auto rows = static_cast<int64_t>(bytes / RowBytes(type, kCols)) / 16 * 16;
  std::vector<std::unique_ptr<Weight>> weights;
  weights.push_back(RandomWeight(type, rows, kCols));
  const Projection projection(std::move(weights), static_cast<int>(state.range(0)));
  ThreadPool pool(Threads());
  LinearScratch scratch;
  for (auto _ : state) CpuLinear(projection.args(), pool, scratch);
  Report(state, static_cast<double>(projection.bytes()), projection.flops());
}

// The linears of one step of SmolLM2-135M: 30 layers and the head, which only the last row of a
// prompt needs.
void BM_SmolLm2Step(benchmark::State& state) {
  const auto rows = static_cast<int>(state.range(0));
  const int head_rows = rows > 64 ? 1 : rows;
  std::vector<Projection> step;
  const auto add = [&](DType type, std::vector<int64_t> out, int64_t in, int n) {
    std::vector<std::unique_ptr<Weight>> weights;
    for (const int64_t dim : out) weights.push_back(RandomWeight(type, dim, in));
    step.emplace_back(std::move(weights), n);
  };
  for (int layer = 0; layer < 30; ++layer) {
    add(DType::kQ4_1, {576, 192, 192}, 576, rows);
    add(DType::kQ4_1, {576}, 576, rows);
    add(DType::kQ4_1, {1536, 1536}, 576, rows);
    add(DType::kQ4_1, {576}, 1536, rows);
  }
  add(DType::kQ8_0, {49152}, 576, head_rows);
  ThreadPool pool(static_cast<int>(state.range(1)));
  LinearScratch scratch;
  double bytes = 0, flops = 0;
  for (const Projection& projection : step) {
    bytes += static_cast<double>(projection.bytes());
    flops += projection.flops();
  }
  for (auto _ : state) {
    for (const Projection& projection : step) CpuLinear(projection.args(), pool, scratch);
  }
  Report(state, bytes, flops);
  state.counters["tok/s"] = benchmark::Counter(rows, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(BM_SmolLm2Step)
    ->ArgNames({"rows", "threads"})
    ->ArgsProduct({{1, 2, 4, 8, 16, 32, 128, 512}, {1, 2}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

void RegisterLinear() {
  constexpr size_t kInCache = size_t{2} << 20;
  for (const DType type :
       {DType::kF32, DType::kF16, DType::kBf16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
        DType::kQ5_0, DType::kQ5_1, DType::kQ4K, DType::kQ5K, DType::kQ6K}) {
    const std::string name = "Linear/" + std::string(GetDTypeInfo(type).name);
    benchmark::RegisterBenchmark((name + "/memory").c_str(), BM_Linear, type, kBeyondL3)
        ->ArgName("rows")
        ->Arg(1)
        ->Arg(8)
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
    benchmark::RegisterBenchmark((name + "/cache").c_str(), BM_Linear, type, kInCache)
        ->ArgName("rows")
        ->Arg(1)
        ->Arg(512)
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

[[maybe_unused]] const bool registered = (RegisterLinear(), true);

}  // namespace
}  // namespace spotd::kernels
