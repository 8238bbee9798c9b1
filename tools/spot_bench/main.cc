// spot-bench: how fast this machine prefills and decodes a model, with the floor beside each
// figure; and what clients of a running server see under load.
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "nlohmann/json.hpp"
#include "tools/spot_bench/measure.h"
#include "tools/spot_bench/serve.h"

ABSL_FLAG(std::string, model, "", "model to measure: a .gguf file or a Hugging Face directory");
ABSL_FLAG(std::string, selector, "",
          "selector.safetensors; without one, distilled and topk use random weights");
ABSL_FLAG(std::string, text, "", "text file that fills the context; default: pseudo-random tokens");
ABSL_FLAG(std::string, backend, "auto", "auto, cpu, cuda or ref");
ABSL_FLAG(int, threads, 0, "host threads; 0 = one per core");
ABSL_FLAG(int, context, 512, "tokens in the cache (decode) or in the prompt (prefill)");
ABSL_FLAG(int, batch, 1, "decode: sequences in a step");
ABSL_FLAG(int, steps, 64, "decode: steps measured");
ABSL_FLAG(int, chunk, 512, "prefill: tokens in a chunk");
ABSL_FLAG(int, repeats, 1, "prefill: runs, of which the best counts");
ABSL_FLAG(std::string, policy, "full", "full, distilled, quest, topk, window or oracle");
ABSL_FLAG(double, fraction, 0.10, "quest: share of the visible blocks");
ABSL_FLAG(int, k_tokens, 0, "topk, quest, oracle: tokens read; 0 = the policy's default");
ABSL_FLAG(double, p_residual, 0.8, "distilled: share of the residual mass to take");
ABSL_FLAG(bool, json, false, "print one JSON object instead of text");

namespace spotd::bench {
namespace {

constexpr int32_t kSpareTokens = 16;  // for the steps that warm up

constexpr char kUsage[] =
    "measures a model on this machine, or a running server.\n"
    "  spot-bench prefill --model M --context 8192\n"
    "  spot-bench decode --model M --context 8192 --policy quest --fraction 0.1\n"
    "  spot-bench serve --address H:P --rate 4 --mix 512/64@0.9,8000/32@0.1 --duration 60s";

absl::StatusOr<BenchOptions> OptionsFromFlags() {
  BenchOptions options;
  options.model.model = absl::GetFlag(FLAGS_model);
  options.model.selector = absl::GetFlag(FLAGS_selector);
  options.model.backend = absl::GetFlag(FLAGS_backend);
  options.model.threads = absl::GetFlag(FLAGS_threads);
  options.model.chunk = absl::GetFlag(FLAGS_chunk);
  options.text = absl::GetFlag(FLAGS_text);
  options.context = absl::GetFlag(FLAGS_context);
  options.batch = absl::GetFlag(FLAGS_batch);
  options.steps = absl::GetFlag(FLAGS_steps);
  if (options.context < 1 || options.batch < 1 || options.steps < 1 || options.model.chunk < 1) {
    return absl::InvalidArgumentError("--context, --batch, --steps and --chunk must be at least 1");
  }
  options.model.max_context = options.context + options.steps + kSpareTokens;
  options.model.max_batch = options.batch;
  options.model.sequences = options.batch;
  auto kind = model::ParsePolicy(absl::GetFlag(FLAGS_policy));
  if (!kind.ok()) return kind.status();
  options.policy.kind = *kind;
  options.model.random_selector =
      *kind == model::PolicyKind::kDistilled || *kind == model::PolicyKind::kTopK;
  options.policy.fraction = static_cast<float>(absl::GetFlag(FLAGS_fraction));
  options.policy.k_tokens = absl::GetFlag(FLAGS_k_tokens);
  options.policy.p_residual = static_cast<float>(absl::GetFlag(FLAGS_p_residual));
  return options;
}

void PrintPrefill(const PrefillResult& r, bool json) {
  if (json) {
    std::printf("%s\n", nlohmann::json{{"tokens", r.tokens},
                                       {"seconds", r.seconds},
                                       {"tokens_per_second", r.TokensPerSecond()},
                                       {"flops_rate", r.FlopsRate()},
                                       {"gemm_flops_rate", r.gemm_flops_rate}}
                            .dump()
                            .c_str());
    return;
  }
  std::printf("prefill %d tokens: %.3f s, %.1f tokens/s\n", r.tokens, r.seconds,
              r.TokensPerSecond());
  std::printf("  %.1f GFLOP/s", r.FlopsRate() / 1e9);
  if (r.gemm_flops_rate > 0) {
    std::printf(", %.0f%% of a large fp32 product here (%.1f GFLOP/s)",
                100 * r.FlopsRate() / r.gemm_flops_rate, r.gemm_flops_rate / 1e9);
  }
  std::printf("\n");
}

void PrintDecode(const DecodeResult& r, const std::string& policy, bool json) {
  if (json) {
    std::printf("%s\n", nlohmann::json{{"policy", policy},
                                       {"context", r.context},
                                       {"batch", r.batch},
                                       {"steps", r.steps},
                                       {"seconds", r.seconds},
                                       {"median_step_seconds", r.median_step},
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
    return;
  }
  std::printf("decode at %d tokens, batch %d, policy %s: %.1f tokens/s, median step %.3f ms\n",
              r.context, r.batch, policy.c_str(), r.TokensPerSecond(), 1e3 * r.median_step);
  std::printf("  density %.3f, covered mass %.3f\n", r.density, r.covered_mass);
  std::printf("  reads %.1f MB of weights and %.1f MB of KV a step (dense: %.1f MB)\n",
              static_cast<double>(r.weight_bytes) / 1e6, r.kv_bytes / 1e6, r.kv_bytes_dense / 1e6);
  std::printf("  floor %.3f ms at %.1f GB/s measured here: %.0f%% of the read rate\n",
              1e3 * r.FloorSeconds(), r.read_rate / 1e9, 100 * r.FloorSeconds() / r.median_step);
}

absl::Status Run(const std::string& command) {
  if (command == "serve") return RunServe();
  auto options = OptionsFromFlags();
  if (!options.ok()) return options.status();
  if (const absl::Status status = options->policy.Validate(); !status.ok()) return status;
  auto model = tools::LoadedModel::Load(options->model);
  if (!model.ok()) return model.status();
  const bool json = absl::GetFlag(FLAGS_json);
  if (!json) std::printf("%s\n", (*model)->backend().description().c_str());
  if (command == "prefill") {
    auto result = MeasurePrefill(**model, *options, absl::GetFlag(FLAGS_repeats));
    if (!result.ok()) return result.status();
    PrintPrefill(*result, json);
    return absl::OkStatus();
  }
  auto result = MeasureDecode(**model, *options);
  if (!result.ok()) return result.status();
  PrintDecode(*result, std::string(model::PolicyName(options->policy.kind)), json);
  return absl::OkStatus();
}

}  // namespace
}  // namespace spotd::bench

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(spotd::bench::kUsage);
  const std::vector<char*> args = absl::ParseCommandLine(argc, argv);
  const std::string command = args.size() == 2 ? args[1] : "";
  if (command != "prefill" && command != "decode" && command != "serve") {
    std::fprintf(stderr, "spot-bench %s\n", spotd::bench::kUsage);
    return 2;
  }
  if (const absl::Status status = spotd::bench::Run(command); !status.ok()) {
    std::fprintf(stderr, "spot-bench: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}
