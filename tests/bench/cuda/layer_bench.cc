// Times the attention operations of one qwen3-8b layer on the GPU: dense decode, selector score,
// selection, sparse decode, their sum, prefill and projections, beside the bytes or operations they
// cannot avoid.
//
//   layer_bench [--decode] [--formats] [--prefill] [--linear] [--json] [LENGTH ...]
//
// All parts by default; --formats is the score over fp4 and bf16 keys. Decode lengths are in units
// of 1024 tokens, 2 8 32 128 1024 by default. Prints a table; JSON lines with --json.
//
// Each figure is the mean over a captured step that repeats the operation over several layers'
// caches, too large together for the L2 cache; the median of the repetitions is reported.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/core/float16.h"
#include "kernels/cuda/cuda_backend.h"

namespace spotd::kernels {
namespace {

constexpr int kQHeads = 32;
constexpr int kKvHeads = 8;
constexpr int kDim = 128;
constexpr int kBlockTokens = 16;
constexpr int kSelectorHeads = 4;
constexpr int kSelectorDim = 128;
constexpr size_t kKvBlockBytes = size_t{4} * kKvHeads * kBlockTokens * kDim;

size_t KeyBlockBytes(SelectorKeyFormat format) {
  return kBlockTokens * SelectorKeyBytes(format, kSelectorDim);
}

bool json = false;

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

class Bench {
 public:
  explicit Bench(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}
  Backend& backend() { return *backend_; }

  Buffer Make(size_t bytes) {
    auto buffer = backend_->Allocate(bytes);
    Require(buffer.status());
    return *std::move(buffer);
  }
  template <typename T>
  Buffer Put(const std::vector<T>& values) {
    Buffer buffer = Make(values.size() * sizeof(T));
    backend_->Upload(buffer.data(), values.data(), buffer.bytes());
    return buffer;
  }
  Buffer PutActs(size_t count, float deviation) {
    std::vector<Bf16> values(count);
    std::normal_distribution<float> normal(0, deviation);
    for (Bf16& value : values) value = ToBf16(normal(random_));
    return Put(values);
  }
  // Fills memory with copies of its first `seeded` bytes.
  void Replicate(const Buffer& buffer, size_t seeded) {
    for (size_t done = seeded; done < buffer.bytes(); done *= 2) {
      backend_->Copy(buffer.as<char>() + done, buffer.data(),
                     std::min(done, buffer.bytes() - done));
    }
  }

  // Seconds for one call of `issue`, captured: the median over repetitions that take about 50 ms
  // together.
  double Time(const std::function<void()>& issue) {
    const uint64_t key = ++key_;
    for (int warm = 0; warm < 3; ++warm) backend_->RunStep(key, issue);
    Require(backend_->Synchronize());
    const double once = Run(key, issue, 1);
    const int batch = std::max(1, static_cast<int>(5e-3 / once));
    std::vector<double> seconds;
    for (int i = 0; i < 9; ++i) seconds.push_back(Run(key, issue, batch) / batch);
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  }

  // The same without a captured step: the mean over `times` calls.
  double TimeDirect(const std::function<void()>& call, int times) {
    call();
    Require(backend_->Synchronize());
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) call();
    Require(backend_->Synchronize());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / times;
  }

  std::mt19937& random() { return random_; }

 private:
  double Run(uint64_t key, const std::function<void()>& issue, int times) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) backend_->RunStep(key, issue);
    Require(backend_->Synchronize());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  std::unique_ptr<Backend> backend_;
  std::mt19937 random_{1};
  uint64_t key_ = 0;
};

// One line of the report: microseconds, what the memory system or the tensor cores did meanwhile.
void Report(const std::string& what, double seconds, double bytes, double flops, double copy_rate) {
  const double rate = bytes / seconds;
  if (json) {
    std::printf(
        "{\"name\":\"%s\",\"us\":%.2f,\"gb_per_s\":%.1f,\"of_copy\":%.3f,\"tflop_per_s\":%.1f}\n",
        what.c_str(), seconds * 1e6, rate / 1e9, rate / copy_rate, flops / seconds / 1e12);
  } else if (bytes > 0) {
    std::printf("%-46s %9.1f us  %7.0f GB/s  %5.1f%% of copy, floor %.1f us\n", what.c_str(),
                seconds * 1e6, rate / 1e9, 100 * rate / copy_rate, bytes / copy_rate * 1e6);
  } else {
    std::printf("%-46s %9.1f us  %7.1f TFLOP/s\n", what.c_str(), seconds * 1e6,
                flops / seconds / 1e12);
  }
  std::fflush(stdout);
}

double CopyRate(Bench& bench) {
  Buffer a = bench.PutActs(size_t{32} << 20, 1);
  Buffer from = bench.Make(size_t{2} << 30);
  bench.backend().Copy(from.data(), a.data(), a.bytes());
  bench.Replicate(from, a.bytes());
  Buffer to = bench.Make(from.bytes());
  const double seconds =
      bench.TimeDirect([&] { bench.backend().Copy(to.data(), from.data(), from.bytes()); }, 20);
  return 2.0 * static_cast<double>(from.bytes()) / seconds;
}

// A batch of equal contexts over the caches of several layers.
struct Decode {
  Decode(Bench& bench, int batch, int length, int layer_count,
         SelectorKeyFormat key_format = SelectorKeyFormat::kInt4)
      : rows(batch), kv_len(length), layers(layer_count), format(key_format) {
    blocks = (length + kBlockTokens - 1) / kBlockTokens;
    const int pool = blocks * batch;
    std::vector<int32_t> table(static_cast<size_t>(pool));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), bench.random());
    tables = bench.Put(table);
    lengths = bench.Put(std::vector<int32_t>(static_cast<size_t>(batch), length));
    std::vector<int32_t> starts(static_cast<size_t>(batch) + 1);
    std::iota(starts.begin(), starts.end(), 0);
    row_start = bench.Put(starts);
    sequences = {batch,
                 batch,
                 length,
                 tables.as<int32_t>(),
                 blocks,
                 lengths.as<int32_t>(),
                 row_start.as<int32_t>()};
    q = bench.PutActs(static_cast<size_t>(batch) * kQHeads * kDim, 1);
    selector_q = bench.PutActs(static_cast<size_t>(batch) * kSelectorHeads * kSelectorDim, 1);
    selector_w = bench.PutActs(static_cast<size_t>(batch) * kSelectorHeads, 2);
    out = bench.Make(q.bytes());
    lse = bench.Make(static_cast<size_t>(pool) * 4);
    selected = bench.Make(static_cast<size_t>(pool) * 4);
    counts = bench.Make(static_cast<size_t>(batch) * 4);
    covered = bench.Make(static_cast<size_t>(batch) * 4);
    Buffer seed = bench.PutActs(size_t{32} << 20, 1);
    for (int i = 0; i < layer_count; ++i) {
      kv.push_back(bench.Make(static_cast<size_t>(pool) * kKvBlockBytes));
      const size_t seeded = std::min(seed.bytes(), kv.back().bytes());
      bench.backend().Copy(kv.back().data(), seed.data(), seeded);
      bench.Replicate(kv.back(), seeded);
      keys.push_back(bench.Make(static_cast<size_t>(pool) * KeyBlockBytes(format)));
      SeedKeys(bench, keys.back(), pool, format);
    }
  }

  KvLayer Layer(int i) const {
    return {kv[static_cast<size_t>(i)].data(),
            nullptr,
            keys[static_cast<size_t>(i)].data(),
            blocks * rows,
            kBlockTokens,
            kKvHeads,
            kDim,
            kSelectorDim,
            format};
  }
  void SetRule(Bench& bench, BudgetKind kind, float fraction) {
    BudgetRule rule = {};
    rule.kind = kind;
    rule.p_residual = 0.8f;
    rule.p_total = 1.0f;
    rule.fraction = fraction;
    rule.sink_tokens = 128;
    rule.recency_tokens = 256;
    rule.k_min_tokens = 512;
    rules = bench.Put(std::vector<BudgetRule>(static_cast<size_t>(rows), rule));
  }

  void Dense(Backend& backend, int layer) {
    AttendArgs args = {};
    args.batch = sequences;
    args.layer = Layer(layer);
    args.q_heads = kQHeads;
    args.scale = 0.088f;
    args.q = q.data();
    args.out = out.data();
    backend.Attend(args);
  }
  void Score(Backend& backend, int layer) {
    backend.SelectorScore({sequences, Layer(layer), kSelectorHeads, selector_q.data(),
                           selector_w.data(), lse.as<float>(), blocks});
  }
  void Select(Backend& backend) {
    backend.Select({sequences, kBlockTokens, 1, rules.as<BudgetRule>(), lse.as<float>(), blocks,
                    selected.as<int32_t>(), blocks, counts.as<int32_t>(), covered.as<float>()});
  }
  void Sparse(Backend& backend, int layer) {
    AttendArgs args = {};
    args.batch = sequences;
    args.layer = Layer(layer);
    args.q_heads = kQHeads;
    args.scale = 0.088f;
    args.q = q.data();
    args.selected = selected.as<int32_t>();
    args.counts = counts.as<int32_t>();
    args.groups = 1;
    args.selected_stride = blocks;
    args.out = out.data();
    backend.Attend(args);
  }

  int rows;
  int kv_len;
  int layers;
  int blocks;
  SelectorKeyFormat format;
  SequenceBatch sequences = {};
  Buffer tables, lengths, row_start, q, selector_q, selector_w, out, lse, selected, counts, covered,
      rules;
  std::vector<Buffer> kv, keys;

 private:
  // Keys by the operation itself (the order of bytes is the backend's), 16384 tokens at a time.
  // They come from one stretch of random numbers, but from another place in it each time: equal
  // keys would make ties, which real ones do not.
  static void SeedKeys(Bench& bench, const Buffer& keys, int pool, SelectorKeyFormat format) {
    constexpr int kAtOnce = 1024;  // blocks
    constexpr int kTokens = kAtOnce * kBlockTokens;
    constexpr int kShift = 3;
    const int pieces = (pool + kAtOnce - 1) / kAtOnce;
    std::vector<int32_t> positions(static_cast<size_t>(kTokens));
    std::iota(positions.begin(), positions.end(), 0);
    std::vector<float> frequencies;
    for (int i = 0; i < kSelectorDim / 2; ++i)
      frequencies.push_back(std::pow(1e6f, -2.0f * i / kSelectorDim));
    Buffer starts = bench.Put(std::vector<int32_t>{0, kTokens});
    Buffer lengths = bench.Put(std::vector<int32_t>{kTokens});
    Buffer where = bench.Put(positions);
    Buffer inv_freq = bench.Put(frequencies);
    Buffer norm = bench.Put(std::vector<float>(kSelectorDim, 1.0f));
    Buffer k = bench.PutActs(
        static_cast<size_t>(kTokens) * kSelectorDim + static_cast<size_t>(pieces) * kShift, 1);
    for (int piece = 0; piece < pieces; ++piece) {
      const int first = std::min(piece * kAtOnce, std::max(pool - kAtOnce, 0));
      const int tokens = std::min(pool, kAtOnce) * kBlockTokens;
      std::vector<int32_t> table(static_cast<size_t>(kAtOnce));
      std::iota(table.begin(), table.end(), first);
      Buffer tables = bench.Put(table);
      if (tokens < kTokens) {
        starts = bench.Put(std::vector<int32_t>{0, tokens});
        lengths = bench.Put(std::vector<int32_t>{tokens});
      }
      AppendSelectorArgs args = {};
      args.batch = {1,
                    tokens,
                    tokens,
                    tables.as<int32_t>(),
                    kAtOnce,
                    lengths.as<int32_t>(),
                    starts.as<int32_t>()};
      args.layer = {nullptr,  nullptr, keys.data(),  pool,  kBlockTokens,
                    kKvHeads, kDim,    kSelectorDim, format};
      args.rope = {inv_freq.as<float>(), kSelectorDim, 1.0f};
      args.positions = where.as<int32_t>();
      args.heads = kSelectorHeads;
      args.k = k.as<Bf16>() + static_cast<size_t>(piece) * kShift;
      args.k_norm = norm.as<float>();
      args.eps = 1e-6f;
      bench.backend().AppendSelector(args);
      Require(bench.backend().Synchronize());
    }
  }
};

void BenchDecode(Bench& bench, int batch, int length, double copy_rate) {
  const double layer_bytes = static_cast<double>(batch) * length *
                             (kKvBlockBytes + KeyBlockBytes(SelectorKeyFormat::kInt4)) /
                             kBlockTokens;
  const int layers = std::clamp(static_cast<int>(8e9 / layer_bytes), 3, 36);
  Decode decode(bench, batch, length, layers);
  Backend& backend = bench.backend();
  const std::string name =
      "L=" + std::to_string(length / 1024) + "K B=" + std::to_string(batch) + " ";
  const double kv_bytes = static_cast<double>(batch) * length * kKvBlockBytes / kBlockTokens;
  const double key_bytes =
      static_cast<double>(batch) * length * KeyBlockBytes(SelectorKeyFormat::kInt4) / kBlockTokens;
  const auto per_layer = [&](const std::function<void(int)>& issue) {
    return bench.Time([&] {
      for (int i = 0; i < layers; ++i) issue(i);
    }) / layers;
  };
  const double dense = per_layer([&](int i) { decode.Dense(backend, i); });
  Report(name + "dense attention", dense, kv_bytes, 0, copy_rate);
  Report(name + "selector score", per_layer([&](int i) { decode.Score(backend, i); }), key_bytes, 0,
         copy_rate);
  decode.SetRule(bench, BudgetKind::kDualTopP, 0);
  Report(name + "select, dual top-p 0.8", per_layer([&](int) { decode.Select(backend); }), 0, 0,
         copy_rate);
  for (const float fraction : {0.02f, 0.05f, 0.1f}) {
    decode.SetRule(bench, BudgetKind::kFixedFraction, fraction);
    decode.Select(backend);
    int32_t count = 0;
    backend.Download(&count, decode.counts.data(), 4);
    Require(backend.Synchronize());
    const double bytes = static_cast<double>(batch) * count * kKvBlockBytes;
    const std::string density =
        std::to_string(static_cast<int>(std::lround(100.0 * count / decode.blocks))) + "%";
    Report(name + "sparse attention " + density,
           per_layer([&](int i) { decode.Sparse(backend, i); }), bytes, 0, copy_rate);
    const double all = per_layer([&](int i) {
      decode.Score(backend, i);
      decode.Select(backend);
      decode.Sparse(backend, i);
    });
    Report(name + "score + select + sparse " + density, all, bytes + key_bytes, 0, copy_rate);
    std::printf("%-46s %9.2f x own dense\n", (name + "  speed-up at " + density).c_str(),
                dense / all);
  }
}

// The score over keys of the other formats.
void BenchFormats(Bench& bench, int batch, int length, double copy_rate) {
  for (const auto& [format, name] :
       {std::pair(SelectorKeyFormat::kFp4, "fp4"), std::pair(SelectorKeyFormat::kBf16, "bf16")}) {
    constexpr int kLayers = 6;
    Decode decode(bench, batch, length, kLayers, format);
    const double seconds = bench.Time([&] {
      for (int i = 0; i < kLayers; ++i) decode.Score(bench.backend(), i);
    });
    Report("L=" + std::to_string(length / 1024) + "K B=" + std::to_string(batch) +
               " selector score, " + name + " keys",
           seconds / kLayers,
           static_cast<double>(batch) * decode.blocks * static_cast<double>(KeyBlockBytes(format)),
           0, copy_rate);
  }
}

void BenchPrefill(Bench& bench, int length, int chunk) {
  Decode decode(bench, 1, length, 1);
  Buffer starts = bench.Put(std::vector<int32_t>{0, chunk});
  Buffer q = bench.PutActs(static_cast<size_t>(chunk) * kQHeads * kDim, 1);
  Buffer out = bench.Make(q.bytes());
  PrefillAttendArgs args = {};
  args.batch = decode.sequences;
  args.batch.num_rows = chunk;
  args.batch.row_start = starts.as<int32_t>();
  args.layer = decode.Layer(0);
  args.q_heads = kQHeads;
  args.scale = 0.088f;
  args.q = q.data();
  args.out = out.data();
  const double pairs =
      static_cast<double>(chunk) * (length - chunk) + 0.5 * static_cast<double>(chunk) * chunk;
  const double seconds = bench.Time([&] { bench.backend().PrefillAttend(args); });
  Report("prefill " + std::to_string(chunk / 1024) + "K rows of " + std::to_string(length / 1024) +
             "K",
         seconds, 0, 4.0 * pairs * kQHeads * kDim, 1);
}

void BenchLinear(Bench& bench, const std::string& name, int rows, int in_dim,
                 const std::vector<int>& out_dims, bool logits, double copy_rate) {
  std::vector<std::unique_ptr<Weight>> weights;
  LinearArgs args = {};
  Buffer x = bench.PutActs(static_cast<size_t>(rows) * in_dim, 1);
  std::vector<Buffer> outputs;
  args.x = x.data();
  args.rows = rows;
  args.in_dim = in_dim;
  double weight_elements = 0;
  for (const int out_dim : out_dims) {
    std::vector<uint16_t> values(static_cast<size_t>(out_dim) * in_dim);
    for (uint16_t& value : values)
      value = static_cast<uint16_t>(0x3c00 | (bench.random()() & 0x81ff));
    WeightSource source;
    source.rows = out_dim;
    source.cols = in_dim;
    source.type = DType::kBf16;
    source.data = values.data();
    auto weight = bench.backend().CreateWeight(source);
    Require(weight.status());
    weights.push_back(*std::move(weight));
    outputs.push_back(bench.Make(static_cast<size_t>(rows) * out_dim * 4));
    args.outputs[args.num_outputs++] = {weights.back().get(), nullptr, outputs.back().data(),
                                        false};
    weight_elements += static_cast<double>(values.size());
  }
  const double seconds =
      bench.Time([&] { logits ? bench.backend().Logits(args) : bench.backend().Linear(args); });
  const bool large = rows > kMaxInvariantRows;
  Report(name + " rows " + std::to_string(rows), seconds, large ? 0 : 2 * weight_elements,
         2 * weight_elements * rows, copy_rate);
}

void BenchLinears(Bench& bench, double copy_rate) {
  for (const int rows : {1, 3, 8, 32, 8192}) {
    BenchLinear(bench, "qkv + selector 4096 -> 6144 + 644", rows, 4096,
                {4096, 1024, 1024, 512, 128, 4}, false, copy_rate);
    BenchLinear(bench, "o 4096 -> 4096", rows, 4096, {4096}, false, copy_rate);
    BenchLinear(bench, "gate, up 4096 -> 2 x 12288", rows, 4096, {12288, 12288}, false, copy_rate);
    BenchLinear(bench, "down 12288 -> 4096", rows, 12288, {4096}, false, copy_rate);
    if (rows <= 32)
      BenchLinear(bench, "head 4096 -> 151936", rows, 4096, {151936}, true, copy_rate);
  }
}

int Main(int argc, char** argv) {
  std::string which;
  std::vector<int> lengths;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) {
      json = true;
    } else if (argv[i][0] == '-') {
      which += argv[i];
    } else {
      lengths.push_back(std::atoi(argv[i]));
    }
  }
  if (lengths.empty()) lengths = {2, 8, 32, 128, 1024};
  const auto wants = [&](const char* part) {
    return which.empty() || which.find(part) != std::string::npos;
  };
  auto backend = CreateCudaBackend();
  Require(backend.status());
  std::printf("# %s\n", (*backend)->description().c_str());
  Bench bench(*std::move(backend));
  const double copy_rate = CopyRate(bench);
  std::printf("# copy %.0f GB/s (read + written)\n", copy_rate / 1e9);
  if (wants("--decode")) {
    for (const int length : lengths) {
      for (const int batch : {1, 4, 8}) {
        if (batch * length <= 1024) BenchDecode(bench, batch, length * 1024, copy_rate);
      }
    }
  }
  if (wants("--formats")) {
    for (const int batch : {1, 8}) BenchFormats(bench, batch, 128 * 1024, copy_rate);
  }
  if (wants("--prefill")) {
    for (const int length : {2, 16, 64}) BenchPrefill(bench, length * 1024, length * 1024);
    BenchPrefill(bench, 64 * 1024, 8192);
  }
  if (wants("--linear")) BenchLinears(bench, copy_rate);
  return 0;
}

}  // namespace
}  // namespace spotd::kernels

int main(int argc, char** argv) {
  return spotd::kernels::Main(argc, argv);
}
