#include "tools/spot_bench/decode_command.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "kernels/core/status.h"
#include "nlohmann/json.hpp"
#include "tools/common/synthetic_source.h"
#include "tools/spot_bench/fill.h"
#include "tools/spot_bench/operation_timer.h"

ABSL_FLAG(std::vector<std::string>, policy, std::vector<std::string>({"full"}),
          "decode: full, distilled, quest, topk, window or oracle, or several; quest, topk and "
          "oracle also with the share of the context to read, as in topk@0.05");
ABSL_FLAG(double, fraction, 0.10, "quest: share of the visible blocks");
ABSL_FLAG(int, k_tokens, 0, "topk, quest, oracle: tokens read; 0 = the policy's default");
ABSL_FLAG(double, p_residual, 0.8, "distilled: share of the residual mass to take");
ABSL_FLAG(bool, sweep, false, "decode: at every power of two from 1024 to --context");

namespace spotd::bench {
namespace {

constexpr int32_t kShortestContext = 1024;
constexpr int32_t kSpareTokens = 32;  // for the steps that warm up, and what blocks round up

// "topk@0.05": the policy for a context of so many tokens.
absl::StatusOr<model::Policy> PolicyFor(const std::string& spec, int32_t context) {
  const size_t at = std::min(spec.find('@'), spec.size());
  model::Policy policy;
  SPOTD_ASSIGN_OR_RETURN(policy.kind, model::ParsePolicy(spec.substr(0, at)));
  policy.dense_below_tokens = 0;
  policy.fraction = static_cast<float>(absl::GetFlag(FLAGS_fraction));
  policy.k_tokens = absl::GetFlag(FLAGS_k_tokens);
  policy.p_residual = static_cast<float>(absl::GetFlag(FLAGS_p_residual));
  if (at < spec.size()) {
    const double share = std::strtod(spec.c_str() + at + 1, nullptr);
    if (!(share > 0 && share <= 1)) {
      return InvalidArgument("--policy: ", spec, ": the share must be over 0 and at most 1");
    }
    if (policy.kind == model::PolicyKind::kQuest) {
      policy.fraction = static_cast<float>(share);
    } else if (policy.kind == model::PolicyKind::kTopK ||
               policy.kind == model::PolicyKind::kOracle) {
      policy.k_tokens = static_cast<int32_t>(share * context);
    } else {
      return InvalidArgument("--policy: ", spec, ": this policy takes no share");
    }
  }
  SPOTD_RETURN_IF_ERROR(policy.Validate());
  return policy;
}

void PrintJson(const DecodeResult& r, const std::string& policy, const std::string& device) {
  std::printf("%s\n", nlohmann::json{{"policy", policy},
                                     {"device", device},
                                     {"context", r.context},
                                     {"batch", r.batch},
                                     {"steps", r.steps},
                                     {"seconds", r.seconds},
                                     {"median_step_seconds", r.median_step},
                                     {"host_seconds", r.host_seconds},
                                     {"tokens_per_second", r.TokensPerSecond()},
                                     {"weight_bytes", r.weight_bytes},
                                     {"kv_bytes", r.kv_bytes},
                                     {"kv_bytes_dense", r.kv_bytes_dense},
                                     {"density", r.density},
                                     {"covered_mass", r.covered_mass},
                                     {"read_rate", r.read_rate},
                                     {"floor_seconds", r.FloorSeconds()}}
                          .dump()
                          .c_str());
  std::fflush(stdout);
}

void PrintText(const DecodeResult& r, const std::string& policy, double dense_step) {
  std::printf("decode at %d tokens, batch %d, policy %s: %.1f tokens/s, median step %.3f ms\n",
              r.context, r.batch, policy.c_str(), r.TokensPerSecond(), 1e3 * r.median_step);
  std::printf("  density %.3f, covered mass %.3f\n", r.density, r.covered_mass);
  std::printf("  reads %.1f MB of weights and %.1f MB of KV a step (dense: %.1f MB)\n",
              static_cast<double>(r.weight_bytes) / 1e6, r.kv_bytes / 1e6, r.kv_bytes_dense / 1e6);
  std::printf("  floor %.3f ms at %.1f GB/s measured here: %.0f%% of the read rate\n",
              1e3 * r.FloorSeconds(), r.read_rate / 1e9, 100 * r.FloorSeconds() / r.median_step);
  if (r.host_seconds > 0) {
    std::printf("  host %.3f ms of a step (%.1f%%), the rest waits for the device\n",
                1e3 * r.host_seconds, 100 * r.host_seconds / r.median_step);
  }
  if (dense_step > 0) std::printf("  %.2f x full\n", dense_step / r.median_step);
  std::fflush(stdout);
}

// What the device holds beyond weights and KV.
void PrintMemory(tools::LoadedModel& model, const WaitMeter& meter) {
  const auto taken = static_cast<double>(meter.free_at_first() - model.backend().memory().free);
  const auto weights = static_cast<double>(model.transformer().weight_bytes());
  const double kv = static_cast<double>(model.store().LayerView(0).num_blocks) *
                    static_cast<double>(model.store().layout().BytesPerBlock());
  std::printf("memory: %.2f GB taken, weights %.2f, KV %.2f, beyond them %.2f GB\n", taken / 1e9,
              weights / 1e9, kv / 1e9, (taken - weights - kv) / 1e9);
}

// What loading depends on, for all the policies together.
absl::StatusOr<tools::ModelOptions> ModelFor(const BenchOptions& options,
                                             const std::vector<std::string>& policies) {
  tools::ModelOptions model = options.model;
  model.summaries = false;
  for (const std::string& spec : policies) {
    SPOTD_ASSIGN_OR_RETURN(const model::Policy policy, PolicyFor(spec, options.context));
    model.summaries |= policy.kind == model::PolicyKind::kQuest;
    model.random_selector |=
        policy.kind == model::PolicyKind::kDistilled || policy.kind == model::PolicyKind::kTopK;
  }
  if (options.filled) {
    model.kv_tokens = std::max<int64_t>(
        kStretchTokens, int64_t{options.batch} * (model.max_context + kSpareTokens));
    model.max_context = std::max(model.max_context, kStretchTokens);
  }
  return model;
}

}  // namespace

absl::Status RunDecode(BenchOptions options, bool json) {
  const std::vector<std::string> policies = absl::GetFlag(FLAGS_policy);
  const bool sweep = absl::GetFlag(FLAGS_sweep);
  // A synthetic model's numbers mean nothing: its cache may hold the same stretch again and again.
  options.filled = options.model.model.starts_with(tools::kSyntheticPrefix);
  SPOTD_ASSIGN_OR_RETURN(tools::ModelOptions model_options, ModelFor(options, policies));
  WaitMeter* meter = nullptr;
  model_options.wrap_backend = [&meter](std::unique_ptr<kernels::Backend> backend) {
    auto wrapped = std::make_unique<WaitMeter>(std::move(backend));
    meter = wrapped.get();
    return wrapped;
  };
  SPOTD_ASSIGN_OR_RETURN(const auto model, tools::LoadedModel::Load(model_options));
  if (!json) std::printf("%s\n", model->backend().description().c_str());
  if (options.filled) SPOTD_RETURN_IF_ERROR(FillByCopies(*model));
  const bool on_device = model->backend().memory().total > 0;
  const double copy_rate = on_device ? OperationTimer(&model->backend()).CopyRate() : 0;
  const int32_t longest = options.context;
  for (int32_t context = sweep ? std::min(kShortestContext, longest) : longest; context <= longest;
       context *= 2) {
    options.context = context;
    double dense_step = 0;
    for (const std::string& spec : policies) {
      SPOTD_ASSIGN_OR_RETURN(options.policy, PolicyFor(spec, context));
      SPOTD_ASSIGN_OR_RETURN(DecodeResult result, MeasureDecode(*model, options, meter->waited()));
      if (on_device) result.read_rate = copy_rate;
      if (json) {
        PrintJson(result, spec, model->backend().description());
      } else {
        PrintText(result, spec, dense_step);
      }
      if (options.policy.kind == model::PolicyKind::kFull) dense_step = result.median_step;
    }
  }
  if (on_device && !json) PrintMemory(*model, *meter);
  return absl::OkStatus();
}

}  // namespace spotd::bench
