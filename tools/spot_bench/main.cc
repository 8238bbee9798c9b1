// spot-bench: how fast this machine prefills and decodes a model, with the floor beside each
// figure; and what clients of a running server see under load.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "nlohmann/json.hpp"
#include "tools/common/program_help.h"
#include "tools/spot_bench/decode_command.h"
#include "tools/spot_bench/layer_command.h"
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
ABSL_FLAG(bool, json, false, "print one JSON object instead of text");

namespace spotd::bench {
namespace {

constexpr int32_t kSpareTokens = 16;  // for the steps that warm up

constexpr char kUsage[] =
    "measures a model on this machine, operations of one layer, or a running server.\n"
    "A model is a path, or random weights of a geometry: synthetic:qwen3-8b (-0.6b, -4b, -14b, "
    "-32b, llama-3.1-8b).\n"
    "  spot-bench prefill --model M --context 8192\n"
    "  spot-bench decode --model M --context 8192 --policy quest --fraction 0.1\n"
    "  spot-bench decode --model synthetic:qwen3-8b --context 131072 --batch 3 "
    "--policy full,topk@0.05\n"
    "  spot-bench attention --model synthetic:qwen3-8b --context 131072 --batch 8\n"
    "  spot-bench select --model synthetic:qwen3-8b --context 131072\n"
    "  spot-bench linear --model synthetic:qwen3-8b --chunk 8192\n"
    "  spot-bench serve --address H:P --rate 4 --mix 512/64@0.9,8000/32@0.1 --duration 60s"
    "\n"
    "  spot-bench serve --model synthetic:qwen3-8b --concurrency 16 --mix 8000/128";

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
  if (options.context < 1 || options.batch < 1 || options.steps < 1 || options.model.chunk < 1 ||
      absl::GetFlag(FLAGS_repeats) < 1) {
    return absl::InvalidArgumentError(
        "--context, --batch, --steps, --chunk and --repeats must be at least 1");
  }
  options.model.max_context = options.context + options.steps + kSpareTokens;
  options.model.max_batch = options.batch;
  options.model.sequences = options.batch;
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
    std::printf(", %.0f%% of a large product here (%.1f GFLOP/s)",
                100 * r.FlopsRate() / r.gemm_flops_rate, r.gemm_flops_rate / 1e9);
  }
  std::printf("\n");
}

absl::Status Run(const std::string& command) {
  if (command == "serve") return RunServe();
  if (command == "attention" || command == "select" || command == "linear") {
    return RunLayerCommand(command);
  }
  auto options = OptionsFromFlags();
  if (!options.ok()) return options.status();
  const bool json = absl::GetFlag(FLAGS_json);
  if (command == "decode") return RunDecode(*options, json);
  options->model.summaries = false;
  auto model = tools::LoadedModel::Load(options->model);
  if (!model.ok()) return model.status();
  if (!json) std::printf("%s\n", (*model)->backend().description().c_str());
  auto result = MeasurePrefill(**model, *options, absl::GetFlag(FLAGS_repeats));
  if (!result.ok()) return result.status();
  PrintPrefill(*result, json);
  return absl::OkStatus();
}

}  // namespace
}  // namespace spotd::bench

int main(int argc, char** argv) {
  spotd::tools::SetProgramHelp(spotd::bench::kUsage, "tools/spot_bench/");
  const std::vector<char*> args = absl::ParseCommandLine(argc, argv);
  const std::string command = args.size() == 2 ? args[1] : "";
  const std::vector<std::string> known = {"prefill", "decode", "attention",
                                          "select",  "linear", "serve"};
  if (std::find(known.begin(), known.end(), command) == known.end()) {
    std::fprintf(stderr, "spot-bench %s\n", spotd::bench::kUsage);
    return 2;
  }
  if (const absl::Status status = spotd::bench::Run(command); !status.ok()) {
    std::fprintf(stderr, "spot-bench: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}
