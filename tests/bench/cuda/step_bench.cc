// Times whole decode steps and prefill of a model with random weights on the GPU, dense and with
// chosen blocks, beside the bytes they cannot avoid.
//
//   step_bench [GEOMETRY [CONTEXT [BATCH]]]     default: qwen3-8b 131072 3
//   step_bench GEOMETRY CONTEXT BATCH --sweep   a JSON line for every policy and context up to
//   CONTEXT
//
// The cache is filled with copies of a prefilled stretch; every sequence has blocks of its own, so
// that none is read from the L2 cache on behalf of another. The selector has random weights: the
// choice is of the right size (topk), not of the right blocks. Host time is what of a step is not
// spent waiting for the device.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/forwarding_backend.h"
#include "kvstore/kv_store.h"
#include "runtime/model/selector.h"
#include "runtime/model/transformer.h"
#include "tools/common/synthetic_source.h"

namespace spotd {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int32_t kSeedTokens = 8192;
constexpr int kWarmUp = 5;
constexpr int kSteps = 25;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

template <typename T>
T Require(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
  std::exit(1);
}
void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

// Counts the time spent waiting for the device.
class WaitingBackend final : public kernels::ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  void Download(void* dst, const void* src, size_t bytes) override {
    const auto start = Clock::now();
    ForwardingBackend::Download(dst, src, bytes);
    waited += SecondsSince(start);
  }
  absl::Status Synchronize() override {
    const auto start = Clock::now();
    const absl::Status status = ForwardingBackend::Synchronize();
    waited += SecondsSince(start);
    return status;
  }
  double waited = 0;
};

struct Figures {
  double step = 0;  // seconds, median
  double host = 0;  // seconds a step, mean
  double bytes = 0;
};

class StepBench {
 public:
  // `summaries`: keep the bounds of keys that quest needs.
  StepBench(const std::string& geometry, int32_t context, int32_t batch, bool summaries)
      : context_(context), batch_(batch) {
    backend_ = std::make_unique<WaitingBackend>(Require(kernels::CreateCudaBackend()));
    std::printf("# %s\n", backend_->description().c_str());
    copy_rate_ = MeasureCopyRate();
    free_before_ = FreeBytes();
    const auto source = Require(tools::MakeSyntheticSource(geometry));
    model::SelectorConfig selector;
    selector.dim = source->config().head_dim;
    model::Limits limits;
    limits.max_batch = batch;
    limits.max_prefill_chunk = kSeedTokens;
    limits.max_context = context + 256;
    const auto start = Clock::now();
    transformer_ = Require(model::Transformer::Load(
        backend_.get(), *source, model::RandomSelector(source->config(), selector, 1), limits));
    std::printf("# %s: %.1f GB of weights loaded in %.1f s, copy %.0f GB/s\n", geometry.c_str(),
                static_cast<double>(transformer_->weight_bytes()) / 1e9, SecondsSince(start),
                copy_rate_ / 1e9);
    kvstore::KvLayout layout = transformer_->KvLayoutFor(kernels::SelectorKeyFormat::kInt4);
    layout.summaries = summaries;
    const int64_t tokens = std::max<int64_t>(kSeedTokens, int64_t{batch} * (context + 256));
    const auto blocks = static_cast<size_t>(tokens / layout.block_tokens + batch);
    store_ =
        Require(kvstore::KvStore::Create(backend_.get(), layout, blocks * layout.BytesPerBlock()));
    transformer_->AttachStore(store_.get());
    FillCache();
  }

  void Prefill() {
    kvstore::BlockTable table = store_->NewTable();
    std::vector<int32_t> tokens(kSeedTokens);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 7919 % 100000);
    double total = 0;
    for (int32_t done = 0; done < std::min(context_, 32768); done += kSeedTokens) {
      Require(store_->Reserve(&table, kSeedTokens));
      const auto start = Clock::now();
      Require(transformer_->Prefill({tokens, &table}, {}));
      Require(backend_->Synchronize());
      total += SecondsSince(start);
      store_->Commit(&table, kSeedTokens);
    }
    const double count = table.num_tokens();
    const model::ModelConfig& c = transformer_->config();
    const double q_dim = static_cast<double>(c.q_heads) * c.head_dim;
    const double linear =
        c.hidden * (2 * q_dim + 2.0 * c.kv_heads * c.head_dim) + 3.0 * c.hidden * c.ffn_hidden;
    const double flops = 2 * c.layers * count * (linear + q_dim * count);
    std::printf("prefill of %.0f tokens in chunks of %d: %.3f s, %.0f tokens/s, %.0f TFLOP/s\n",
                count, kSeedTokens, total, count / total, flops / total / 1e12);
  }

  // One JSON line per context and policy: what plot_context.py draws.
  void Sweep() {
    for (int32_t context = 1024; context <= context_; context *= 2) {
      for (const model::PolicyKind kind :
           {model::PolicyKind::kFull, model::PolicyKind::kQuest, model::PolicyKind::kTopK}) {
        model::Policy policy;
        policy.kind = kind;
        policy.dense_below_tokens = 0;
        policy.fraction = 0.05f;
        if (kind == model::PolicyKind::kTopK) policy.k_tokens = context / 20;
        const Figures figures = Decode(policy, context);
        std::printf(
            "{\"context\":%d,\"batch\":%d,\"policy\":\"%s\",\"ms\":%.4f,\"floor_ms\":%.4f,"
            "\"host_ms\":%.4f}\n",
            context, batch_, std::string(model::PolicyName(kind)).c_str(), 1e3 * figures.step,
            1e3 * figures.bytes / copy_rate_, 1e3 * figures.host);
        std::fflush(stdout);
      }
    }
  }

  Figures Decode(const model::Policy& policy, int32_t context) {
    std::vector<kvstore::BlockTable> tables;
    std::vector<model::DecodeRow> rows(static_cast<size_t>(batch_));
    for (int32_t i = 0; i < batch_; ++i) {
      tables.push_back(store_->NewTable());
      Require(store_->Reserve(&tables.back(), context));
      store_->Commit(&tables.back(), context);
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i].token = static_cast<int32_t>(i) + 100;
      rows[i].table = &tables[i];
      rows[i].policy = policy;
      rows[i].sampling.top_p = 1;
      rows[i].sampling.repetition_penalty = 1;
    }
    std::vector<model::DecodeResult> results(rows.size());
    std::vector<double> seconds;
    Figures figures;
    for (int i = 0; i < kWarmUp + kSteps; ++i) {
      for (kvstore::BlockTable& table : tables) Require(store_->Reserve(&table, 1));
      backend_->waited = 0;
      const auto start = Clock::now();
      Require(transformer_->Decode(rows, results));
      const double step = SecondsSince(start);
      for (size_t r = 0; r < rows.size(); ++r) store_->Commit(&tables[r], 1);
      if (i < kWarmUp) continue;
      seconds.push_back(step);
      figures.host += (step - backend_->waited) / kSteps;
    }
    std::nth_element(seconds.begin(), seconds.begin() + kSteps / 2, seconds.end());
    figures.step = seconds[kSteps / 2];
    figures.bytes = static_cast<double>(transformer_->decode_weight_bytes());
    for (const model::DecodeResult& result : results)
      figures.bytes += static_cast<double>(result.sparsity.bytes_read);
    return figures;
  }

  void Report(const char* what, const Figures& figures, double dense) const {
    std::printf("%-12s %8.3f ms  floor %7.3f ms (%5.1f%%)  host %.3f ms (%4.1f%%)  %.2f x dense\n",
                what, 1e3 * figures.step, 1e3 * figures.bytes / copy_rate_,
                100 * figures.bytes / copy_rate_ / figures.step, 1e3 * figures.host,
                100 * figures.host / figures.step, dense / figures.step);
    std::fflush(stdout);
  }

  void Run() {
    Prefill();
    std::printf("decode of %d sequences at %d tokens\n", batch_, context_);
    model::Policy policy;
    const Figures dense = Decode(policy, context_);
    Report("full", dense, dense.step);
    policy.kind = model::PolicyKind::kTopK;
    for (const int percent : {2, 5, 10}) {
      policy.k_tokens = static_cast<int32_t>(int64_t{context_} * percent / 100);
      Report(("topk " + std::to_string(percent) + "%").c_str(), Decode(policy, context_),
             dense.step);
    }
    ReportMemory();
  }

 private:
  static size_t FreeBytes() {
    size_t free_bytes = 0;
    size_t total = 0;
    if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess) std::exit(1);
    return free_bytes;
  }

  // What the device holds beyond weights and KV, the backend's own memory apart.
  void ReportMemory() const {
    const double taken = static_cast<double>(free_before_ - FreeBytes());
    const double weights = static_cast<double>(transformer_->weight_bytes());
    const kvstore::KvLayout& layout = store_->layout();
    const double kv = static_cast<double>(store_->LayerView(0).num_blocks) *
                      static_cast<double>(layout.BytesPerBlock());
    std::printf("# memory: %.2f GB taken, weights %.2f, KV %.2f, beyond them %.2f GB\n",
                taken / 1e9, weights / 1e9, kv / 1e9, (taken - weights - kv) / 1e9);
  }

  double MeasureCopyRate() {
    constexpr size_t kBytes = size_t{1} << 30;
    const kernels::Buffer from = Require(backend_->Allocate(kBytes));
    const kernels::Buffer to = Require(backend_->Allocate(kBytes));
    double best = 1e9;
    for (int i = 0; i < 5; ++i) {
      const auto start = Clock::now();
      for (int j = 0; j < 10; ++j) backend_->Copy(to.data(), from.data(), kBytes);
      Require(backend_->Synchronize());
      best = std::min(best, SecondsSince(start) / 10);
    }
    return 2.0 * kBytes / best;
  }

  // Prefills a stretch and copies its blocks over the whole pool.
  void FillCache() {
    kvstore::BlockTable table = store_->NewTable();
    std::vector<int32_t> tokens(kSeedTokens);
    for (size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<int32_t>(i * 104729 % 100000);
    Require(store_->Reserve(&table, kSeedTokens));
    Require(transformer_->Prefill({tokens, &table}, {}));
    store_->Commit(&table, kSeedTokens);
    const kvstore::KvLayout& layout = store_->layout();
    const size_t key_bytes = static_cast<size_t>(layout.block_tokens) *
                             kernels::SelectorKeyBytes(layout.selector_format, layout.selector_dim);
    const size_t summary_bytes =
        size_t{4} * static_cast<size_t>(layout.kv_heads) * static_cast<size_t>(layout.head_dim);
    const auto [low, high] = std::minmax_element(table.blocks().begin(), table.blocks().end());
    const auto first = static_cast<size_t>(*low);
    const auto end = static_cast<size_t>(*high) + 1;
    if (end - first != table.blocks().size()) {
      std::fprintf(stderr, "the pool gave out scattered blocks\n");
      std::exit(1);
    }
    for (int32_t layer = 0; layer < layout.layers; ++layer) {
      const kernels::KvLayer view = store_->LayerView(layer);
      for (auto [base, bytes] :
           {std::pair(view.kv, layout.KvBlockBytes()), std::pair(view.selector_keys, key_bytes),
            std::pair(view.summary, summary_bytes)}) {
        if (base == nullptr) continue;
        Replicate(base, bytes, first, end, 0, first);
        Replicate(base, bytes, first, end, end, static_cast<size_t>(view.num_blocks));
      }
    }
    Require(backend_->Synchronize());
  }

  // Blocks [to, to_end) become copies of [from, from_end), repeated.
  void Replicate(void* base, size_t bytes, size_t from, size_t from_end, size_t to, size_t to_end) {
    auto* blocks = static_cast<char*>(base);
    for (; to < to_end; to += from_end - from) {
      backend_->Copy(blocks + to * bytes, blocks + from * bytes,
                     std::min(from_end - from, to_end - to) * bytes);
    }
  }

  int32_t context_;
  int32_t batch_;
  double copy_rate_ = 0;
  size_t free_before_ = 0;
  std::unique_ptr<WaitingBackend> backend_;
  std::unique_ptr<model::Transformer> transformer_;
  std::unique_ptr<kvstore::KvStore> store_;
};

}  // namespace
}  // namespace spotd

int main(int argc, char** argv) {
  const std::string geometry = argc > 1 ? argv[1] : "qwen3-8b";
  const int32_t context = argc > 2 ? std::atoi(argv[2]) : 131072;
  const int32_t batch = argc > 3 ? std::atoi(argv[3]) : 3;
  const bool sweep = argc > 4 && std::string(argv[4]) == "--sweep";
  spotd::StepBench bench(geometry, context, batch, sweep);
  sweep ? bench.Sweep() : bench.Run();
  return 0;
}
