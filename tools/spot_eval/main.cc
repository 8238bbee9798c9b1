// spot-eval: what sparse decoding keeps of a model, measured on real text. docs/quality.md shows
// its output.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "kernels/core/status.h"
#include "nlohmann/json.hpp"
#include "tools/common/loaded_model.h"
#include "tools/spot_eval/agreement.h"
#include "tools/spot_eval/policy_spec.h"

ABSL_FLAG(std::string, model, "", "checkpoint: a .gguf file or a Hugging Face directory");
ABSL_FLAG(std::string, selector, "", "selector.safetensors of that checkpoint");
ABSL_FLAG(std::string, selector_keys, "int4", "bf16, int4 or fp4");
ABSL_FLAG(std::string, backend, "auto", "auto, cpu, cuda or ref");
ABSL_FLAG(int, threads, 0, "host threads; 0 = one per core");
ABSL_FLAG(std::vector<std::string>, text, {},
          "text files or directories of them, separated by commas");
ABSL_FLAG(int, context, 8192, "tokens of each document that are used");
ABSL_FLAG(int, tail, 128, "of these, the tokens decoded under each policy");
ABSL_FLAG(int, documents, 8, "documents used: the first that are long enough, in order of name");
ABSL_FLAG(std::vector<std::string>, policies, std::vector<std::string>({"quest@0.10", "window"}),
          "policies to compare with dense; see policy_spec.h");
ABSL_FLAG(bool, json, false, "print one JSON object a policy instead of a table");

namespace spotd::eval {
namespace {

constexpr char kUsage[] =
    "compares decoding policies with dense decoding on real text.\n"
    "  spot-eval ppl --model M.gguf --selector S.safetensors --text texts/ --policies "
    "distilled@0.8,quest@0.10";

absl::StatusOr<kernels::SelectorKeyFormat> ParseKeyFormat(const std::string& name) {
  if (name == "bf16") return kernels::SelectorKeyFormat::kBf16;
  if (name == "int4") return kernels::SelectorKeyFormat::kInt4;
  if (name == "fp4") return kernels::SelectorKeyFormat::kFp4;
  return InvalidArgument("--selector_keys must be bf16, int4 or fp4, got ", name);
}

std::vector<std::string> TextFiles(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path, error)) {
      if (entry.is_regular_file(error)) files.push_back(entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Documents of at least `context` tokens.
absl::StatusOr<std::vector<std::vector<int32_t>>> LoadDocuments(const text::Tokenizer& tokenizer,
                                                                int32_t context) {
  std::vector<std::vector<int32_t>> documents;
  const auto wanted = static_cast<size_t>(absl::GetFlag(FLAGS_documents));
  for (const std::string& path : TextFiles(absl::GetFlag(FLAGS_text))) {
    if (documents.size() == wanted) break;
    SPOTD_ASSIGN_OR_RETURN(auto tokens, tools::TokensOfFile(path, tokenizer));
    if (tokens.size() >= static_cast<size_t>(context)) documents.push_back(std::move(tokens));
  }
  if (documents.empty()) return InvalidArgument("--text: no file has ", context, " tokens");
  return documents;
}

absl::StatusOr<std::unique_ptr<tools::LoadedModel>> LoadModel() {
  tools::ModelOptions options;
  options.model = absl::GetFlag(FLAGS_model);
  options.selector = absl::GetFlag(FLAGS_selector);
  options.backend = absl::GetFlag(FLAGS_backend);
  options.threads = absl::GetFlag(FLAGS_threads);
  options.max_context = absl::GetFlag(FLAGS_context);
  options.sequences = 2;  // the prefix and one fork's tail
  SPOTD_ASSIGN_OR_RETURN(options.selector_format,
                         ParseKeyFormat(absl::GetFlag(FLAGS_selector_keys)));
  return tools::LoadedModel::Load(options);
}

// One figure of every document.
template <typename Get>
Interval Over(const std::vector<Agreement>& documents, const Get& get) {
  std::vector<double> values;
  for (const Agreement& a : documents) values.push_back(get(a));
  return MeanInterval(values);
}

void PrintRow(const std::string& label, const std::vector<Agreement>& documents, bool json) {
  const Interval density = Over(documents, [](const Agreement& a) { return a.density; });
  const Interval kl = Over(documents, [](const Agreement& a) { return a.kl; });
  const Interval top1 = Over(documents, [](const Agreement& a) { return a.top1; });
  const Interval nll = Over(documents, [](const Agreement& a) { return a.nll - a.dense_nll; });
  const Interval mass = Over(documents, [](const Agreement& a) { return a.covered_mass; });
  if (json) {
    const nlohmann::json row = {
        {"policy", label},       {"documents", documents.size()},    {"density", density.mean},
        {"kl", kl.mean},         {"kl_ci95", kl.half_width},         {"top1", top1.mean},
        {"nll_delta", nll.mean}, {"nll_delta_ci95", nll.half_width}, {"covered_mass", mass.mean}};
    std::printf("%s\n", row.dump().c_str());
    return;
  }
  std::printf("| %s | %.3f | %.4f ± %.4f | %.3f | %+.2f%% ± %.2f%% | %.3f |\n", label.c_str(),
              density.mean, kl.mean, kl.half_width, top1.mean, 100 * std::expm1(nll.mean),
              100 * nll.half_width, mass.mean);
}

absl::Status Run() {
  const int32_t context = absl::GetFlag(FLAGS_context);
  const int32_t tail = absl::GetFlag(FLAGS_tail);
  if (tail < 2 || context <= tail)
    return InvalidArgument("--tail must be in 2..context - 1, got ", tail);
  std::vector<PolicySpec> policies;
  for (const std::string& text : absl::GetFlag(FLAGS_policies)) {
    SPOTD_ASSIGN_OR_RETURN(PolicySpec spec, ParsePolicySpec(text, context));
    policies.push_back(std::move(spec));
  }
  SPOTD_ASSIGN_OR_RETURN(const auto model, LoadModel());
  SPOTD_ASSIGN_OR_RETURN(const auto documents, LoadDocuments(model->tokenizer(), context));
  std::vector<std::vector<Agreement>> by_policy(policies.size());
  for (size_t d = 0; d < documents.size(); ++d) {
    SPOTD_ASSIGN_OR_RETURN(const auto results,
                           MeasureAgreement(*model, documents[d], context, tail, policies));
    for (size_t p = 0; p < policies.size(); ++p) by_policy[p].push_back(results[p]);
    std::fprintf(stderr, "document %zu of %zu\n", d + 1, documents.size());
  }
  const bool json = absl::GetFlag(FLAGS_json);
  if (!json) {
    std::printf(
        "%zu documents, context %d, last %d tokens decoded; ± is the 95%% interval over "
        "documents\n\n",
        documents.size(), context, tail);
    std::printf(
        "| policy | density | KL to dense | top-1 | perplexity | believed mass "
        "|\n|---|---|---|---|---|---|\n");
  }
  for (size_t p = 0; p < policies.size(); ++p) PrintRow(policies[p].label, by_policy[p], json);
  return absl::OkStatus();
}

}  // namespace
}  // namespace spotd::eval

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(spotd::eval::kUsage);
  const std::vector<char*> args = absl::ParseCommandLine(argc, argv);
  if (args.size() != 2 || std::string(args[1]) != "ppl") {
    std::fprintf(stderr, "spot-eval %s\n", spotd::eval::kUsage);
    return 2;
  }
  if (const absl::Status status = spotd::eval::Run(); !status.ok()) {
    std::fprintf(stderr, "spot-eval: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}
