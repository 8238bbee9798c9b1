#include "tools/spot_bench/layer_command.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <utility>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "kernels/core/float16.h"
#include "kernels/core/status.h"
#include "nlohmann/json.hpp"
#include "tools/common/synthetic_source.h"
#include "tools/spot_bench/layer_caches.h"
#include "tools/spot_bench/operation_timer.h"

ABSL_DECLARE_FLAG(std::string, model);
ABSL_DECLARE_FLAG(std::string, backend);
ABSL_DECLARE_FLAG(int, threads);
ABSL_DECLARE_FLAG(int, context);
ABSL_DECLARE_FLAG(int, batch);
ABSL_DECLARE_FLAG(int, chunk);
ABSL_DECLARE_FLAG(bool, json);
ABSL_FLAG(std::vector<std::string>, densities, std::vector<std::string>({"0.02", "0.05", "0.1"}),
          "attention: shares of the blocks that sparse attention reads");
ABSL_FLAG(std::vector<std::string>, rows, std::vector<std::string>({"1", "3", "8", "32"}),
          "linear: rows of a product; --chunk rows besides");

namespace spotd::bench {
namespace {

constexpr int32_t kLongestPrompt = 65536;
constexpr double kLeastCacheBytes = 8e9;  // on a device: more than any cache keeps
constexpr double kLeastHostBytes = 2.5e8;

// One timed operation. Bytes and arithmetic are what it cannot avoid.
struct Row {
  std::string name;
  double seconds = 0;
  double bytes = 0;
  double flops = 0;
  nlohmann::json more = nlohmann::json::object();
};

class Report {
 public:
  Report(std::string device, double copy_rate) : device_(std::move(device)), copy_rate_(copy_rate) {
    json_ = absl::GetFlag(FLAGS_json);
    if (!json_) std::printf("%s, copy %.0f GB/s\n", device_.c_str(), copy_rate_ / 1e9);
  }
  void Add(const Row& row) {
    nlohmann::json out = {{"name", row.name}, {"us", row.seconds * 1e6}};
    if (row.bytes > 0) {
      out["floor_us"] = row.bytes / copy_rate_ * 1e6;
      out["of_copy"] = row.bytes / row.seconds / copy_rate_;
    }
    if (row.flops > 0) out["tflop_per_s"] = row.flops / row.seconds / 1e12;
    out.update(row.more);
    if (!json_) Print(out);
    rows_.push_back(std::move(out));
  }
  void Finish(nlohmann::json head) {
    if (!json_) return;
    head["device"] = device_;
    head["copy_gb_per_s"] = copy_rate_ / 1e9;
    head["rows"] = std::move(rows_);
    std::printf("%s\n", head.dump().c_str());
  }

 private:
  static void Print(const nlohmann::json& row) {
    std::printf("  %-40s %10.1f us", row["name"].get<std::string>().c_str(),
                row["us"].get<double>());
    if (row.contains("floor_us")) {
      std::printf("  floor %9.1f us, %5.1f%% of copy", row["floor_us"].get<double>(),
                  100 * row["of_copy"].get<double>());
    }
    if (row.contains("tflop_per_s"))
      std::printf("  %7.1f TFLOP/s", row["tflop_per_s"].get<double>());
    if (row.contains("times_dense"))
      std::printf("  %5.2f x own dense", row["times_dense"].get<double>());
    std::printf("\n");
    std::fflush(stdout);
  }

  std::string device_;
  double copy_rate_;
  bool json_ = false;
  nlohmann::json rows_ = nlohmann::json::array();
};

class LayerBench {
 public:
  LayerBench(OperationTimer* timer, model::ModelConfig model, Report* report)
      : timer_(*timer), model_(std::move(model)), report_(*report) {}

  void Attention();
  void Select();
  void Linear();

 private:
  // Layers whose caches are too large together for any cache of the device.
  int32_t Layers(double layer_bytes) const {
    const double least = timer_.on_device() ? kLeastCacheBytes : kLeastHostBytes;
    return std::clamp(static_cast<int32_t>(least / layer_bytes), 3, 36);
  }
  CacheShape Shape(kernels::SelectorKeyFormat keys, bool summaries) const;
  // Seconds of one layer's `issue`.
  double PerLayer(const LayerCaches& caches, const std::function<void(int32_t)>& issue) {
    const int32_t layers = caches.shape().layers;
    const double seconds = timer_.Time([&] {
      for (int32_t i = 0; i < layers; ++i) issue(i);
    });
    return seconds / layers;
  }
  void PrefillAttention();
  void Project(const std::string& name, int32_t rows, int32_t in, const std::vector<int32_t>& outs,
               bool logits);

  OperationTimer& timer_;
  model::ModelConfig model_;
  Report& report_;
};

CacheShape LayerBench::Shape(kernels::SelectorKeyFormat keys, bool summaries) const {
  CacheShape shape;
  shape.batch = absl::GetFlag(FLAGS_batch);
  shape.context = absl::GetFlag(FLAGS_context);
  shape.keys = keys;
  shape.summaries = summaries;
  const double token_bytes = 4.0 * model_.kv_heads * model_.head_dim;
  shape.layers = Layers(token_bytes * shape.context * shape.batch);
  return shape;
}

kernels::BudgetRule Rule(kernels::BudgetKind kind, float fraction) {
  kernels::BudgetRule rule = {};
  rule.kind = kind;
  rule.p_residual = 0.8f;
  rule.p_total = 1.0f;
  rule.fraction = fraction;
  rule.sink_tokens = 128;
  rule.recency_tokens = 256;
  rule.k_min_tokens = 512;
  return rule;
}

void LayerBench::Attention() {
  LayerCaches caches(&timer_, model_, Shape(kernels::SelectorKeyFormat::kInt4, false));
  const double blocks = static_cast<double>(caches.shape().batch) * caches.blocks();
  const double key_bytes = blocks * caches.key_block_bytes();
  const double dense = PerLayer(caches, [&](int32_t i) { caches.AttendAll(i); });
  report_.Add({"dense attention", dense, blocks * caches.kv_block_bytes()});
  caches.Score(0);
  for (const std::string& text : absl::GetFlag(FLAGS_densities)) {
    const float share = std::strtof(text.c_str(), nullptr);
    const int32_t count = caches.SetRule(Rule(kernels::BudgetKind::kFixedFraction, share), 1);
    const double bytes = caches.shape().batch * count * caches.kv_block_bytes();
    const nlohmann::json density = {{"density", static_cast<double>(count) / caches.blocks()}};
    report_.Add({"sparse attention " + text,
                 PerLayer(caches, [&](int32_t i) { caches.AttendChosen(i, 1); }), bytes, 0,
                 density});
    const double all = PerLayer(caches, [&](int32_t i) { caches.AttendByScore(i); });
    Row row{"score + select + sparse attention " + text, all, bytes + key_bytes, 0, density};
    row.more["times_dense"] = dense / all;
    report_.Add(row);
  }
  PrefillAttention();
}

void LayerBench::PrefillAttention() {
  CacheShape shape = Shape(kernels::SelectorKeyFormat::kInt4, false);
  shape.batch = 1;
  shape.layers = 1;
  shape.context = std::min(shape.context, kLongestPrompt);
  LayerCaches caches(&timer_, model_, shape);
  const int32_t rows = shape.context;
  const kernels::Buffer q = timer_.PutActs(
      static_cast<size_t>(rows) * static_cast<size_t>(model_.q_heads * model_.head_dim), 1);
  const kernels::Buffer out = timer_.Make(q.bytes());
  const kernels::Buffer starts = timer_.Put(std::vector<int32_t>{0, rows});
  const double seconds = timer_.Time([&] { caches.PrefillAttend(q, out, starts, rows); });
  const double flops = 2.0 * rows * rows * model_.q_heads * model_.head_dim;
  report_.Add({"causal attention of a prompt of " + std::to_string(rows), seconds, 0, flops});
}

void LayerBench::Select() {
  for (const auto& [format, name] : {std::pair(kernels::SelectorKeyFormat::kInt4, "int4"),
                                     std::pair(kernels::SelectorKeyFormat::kFp4, "fp4"),
                                     std::pair(kernels::SelectorKeyFormat::kBf16, "bf16")}) {
    const bool first = format == kernels::SelectorKeyFormat::kInt4;
    LayerCaches caches(&timer_, model_, Shape(format, first));
    const double blocks = static_cast<double>(caches.shape().batch) * caches.blocks();
    report_.Add({std::string("selector score, ") + name + " keys",
                 PerLayer(caches, [&](int32_t i) { caches.Score(i); }),
                 blocks * caches.key_block_bytes()});
    if (!first) continue;
    for (const auto& [kind, what] :
         {std::pair(kernels::BudgetKind::kDualTopP, "selection, dual top-p 0.8"),
          std::pair(kernels::BudgetKind::kFixedFraction, "selection, a twentieth")}) {
      const int32_t count = caches.SetRule(Rule(kind, 0.05f), 1);
      report_.Add({what,
                   PerLayer(caches, [&](int32_t) { caches.Select(1); }),
                   0,
                   0,
                   {{"density", static_cast<double>(count) / caches.blocks()}}});
    }
    report_.Add({"quest score", PerLayer(caches, [&](int32_t i) { caches.QuestScore(i); }),
                 blocks * caches.summary_block_bytes()});
    caches.SetRule(Rule(kernels::BudgetKind::kFixedFraction, 0.05f), model_.kv_heads);
    report_.Add({"selection for each KV head, a twentieth",
                 PerLayer(caches, [&](int32_t) { caches.Select(model_.kv_heads); })});
  }
}

void LayerBench::Project(const std::string& name, int32_t rows, int32_t in,
                         const std::vector<int32_t>& outs, bool logits) {
  std::vector<std::unique_ptr<kernels::Weight>> weights;
  std::vector<kernels::Buffer> outputs;
  const kernels::Buffer x = timer_.PutActs(static_cast<size_t>(rows) * static_cast<size_t>(in), 1);
  kernels::LinearArgs args = {};
  args.x = x.data();
  args.rows = rows;
  args.in_dim = in;
  double elements = 0;
  double weight_bytes = 0;
  for (const int32_t out : outs) {
    std::vector<uint16_t> values(static_cast<size_t>(out) * static_cast<size_t>(in));
    // Random signs and mantissas: numbers around 0.01.
    for (uint16_t& value : values)
      value = static_cast<uint16_t>(0x3c00 | (timer_.random()() & 0x81ff));
    kernels::WeightSource source;
    source.name = name;
    source.rows = out;
    source.cols = in;
    source.type = DType::kBf16;
    source.data = values.data();
    weights.push_back(Require(timer_.backend().CreateWeight(source)));
    weight_bytes += static_cast<double>(weights.back()->bytes());
    elements += static_cast<double>(values.size());
    outputs.push_back(timer_.Make(static_cast<size_t>(rows) * static_cast<size_t>(out) * 4));
    args.outputs[args.num_outputs++] = {weights.back().get(), nullptr, outputs.back().data(),
                                        false};
  }
  const double seconds =
      timer_.Time([&] { logits ? timer_.backend().Logits(args) : timer_.backend().Linear(args); });
  report_.Add({name + ", rows " + std::to_string(rows), seconds,
               rows > kernels::kMaxInvariantRows ? 0 : weight_bytes, 2 * elements * rows});
}

void LayerBench::Linear() {
  std::vector<int32_t> all_rows;
  for (const std::string& text : absl::GetFlag(FLAGS_rows))
    all_rows.push_back(std::atoi(text.c_str()));
  all_rows.push_back(absl::GetFlag(FLAGS_chunk));
  const int32_t hidden = model_.hidden;
  const int32_t q = model_.q_heads * model_.head_dim;
  const int32_t kv = model_.kv_heads * model_.head_dim;
  const int32_t selector = model_.head_dim;
  for (const int32_t rows : all_rows) {
    Project("q, k, v and selector", rows, hidden,
            {q, kv, kv, kSelectorHeads * selector, selector, kSelectorHeads}, false);
    Project("o", rows, q, {hidden}, false);
    Project("gate and up", rows, hidden, {model_.ffn_hidden, model_.ffn_hidden}, false);
    Project("down", rows, model_.ffn_hidden, {hidden}, false);
    if (rows <= kernels::kMaxInvariantRows) Project("head", rows, hidden, {model_.vocab}, true);
  }
}

absl::Status CheckLists() {
  for (const std::string& text : absl::GetFlag(FLAGS_densities)) {
    const float share = std::strtof(text.c_str(), nullptr);
    if (!(share > 0 && share <= 1)) {
      return InvalidArgument("--densities: '", text, "' is not over 0 and at most 1");
    }
  }
  for (const std::string& text : absl::GetFlag(FLAGS_rows)) {
    if (std::atoi(text.c_str()) < 1)
      return InvalidArgument("--rows: '", text, "' is not 1 or more");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunLayerCommand(const std::string& command) {
  const std::string name = absl::GetFlag(FLAGS_model);
  if (!name.starts_with(tools::kSyntheticPrefix)) {
    return InvalidArgument("--model: ", command, " takes a geometry, ", tools::kSyntheticPrefix,
                           "qwen3-8b for example");
  }
  SPOTD_ASSIGN_OR_RETURN(const model::ModelConfig model,
                         tools::SyntheticConfig(name.substr(tools::kSyntheticPrefix.size())));
  if (absl::GetFlag(FLAGS_context) < 1 || absl::GetFlag(FLAGS_batch) < 1 ||
      absl::GetFlag(FLAGS_chunk) < 1) {
    return InvalidArgument("--context, --batch and --chunk must be at least 1");
  }
  SPOTD_RETURN_IF_ERROR(CheckLists());
  SPOTD_ASSIGN_OR_RETURN(
      const auto backend,
      kernels::CreateBackend({absl::GetFlag(FLAGS_backend), absl::GetFlag(FLAGS_threads)}));
  OperationTimer timer(backend.get());
  Report report(backend->description(), timer.CopyRate());
  LayerBench bench(&timer, model, &report);
  if (command == "attention") bench.Attention();
  if (command == "select") bench.Select();
  if (command == "linear") bench.Linear();
  report.Finish({{"command", command},
                 {"geometry", name},
                 {"context", absl::GetFlag(FLAGS_context)},
                 {"batch", absl::GetFlag(FLAGS_batch)}});
  return absl::OkStatus();
}

}  // namespace spotd::bench
