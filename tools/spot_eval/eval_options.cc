#include "tools/spot_eval/eval_options.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/flags/flag.h"
#include "kernels/args.h"
#include "kernels/backend.h"
#include "kernels/core/status.h"

ABSL_FLAG(std::string, model, "", "checkpoint: a .gguf file or a Hugging Face directory");
ABSL_FLAG(std::string, selector, "", "selector.safetensors of that checkpoint");
ABSL_FLAG(std::vector<std::string>, selector_keys, std::vector<std::string>({"int4"}),
          "how selector keys are kept: bf16, int4, fp4, or several of them to compare");
ABSL_FLAG(std::string, backend, "auto", "auto, cpu, cuda or ref");
ABSL_FLAG(int, threads, 0, "host threads; 0 = one per core");
ABSL_FLAG(std::vector<std::string>, text, {},
          "text files or directories of them, separated by commas; needle, track and qa make up "
          "their text without");
ABSL_FLAG(std::vector<std::string>, context, std::vector<std::string>({"8192"}),
          "context lengths in tokens");
ABSL_FLAG(std::vector<std::string>, policies, std::vector<std::string>({"quest@0.10", "window"}),
          "policies to compare with dense; see policy_spec.h");
ABSL_FLAG(int, batch, 64, "most sequences decoded side by side");
ABSL_FLAG(std::string, out, "", "also write the results to this JSON file");
ABSL_FLAG(int, seed, 1, "needle, track, qa: fixes the prompts");
ABSL_FLAG(int, tail, 128, "ppl, mass: the last tokens of the context, decoded under each policy");
ABSL_FLAG(int, documents, 8,
          "ppl, mass: documents used, the first in order of name that are long enough for the "
          "largest context; 0 = all");
ABSL_FLAG(bool, windows, false,
          "ppl, mass: use every part of a document as long as the largest context, not only its "
          "start");
ABSL_FLAG(std::vector<std::string>, tasks, {}, "needle: single, multi-key, multi-value");
ABSL_FLAG(std::vector<std::string>, depths,
          std::vector<std::string>({"0", "0.25", "0.5", "0.75", "1"}),
          "needle: where the asked line stands, 0 = at the start");
ABSL_FLAG(int, prompts, 4, "needle: prompts for each depth and length; track, qa: for each length");
ABSL_FLAG(int, max_new_tokens, 24, "needle, track, qa: longest reply");
ABSL_FLAG(bool, dense_question, false,
          "needle, track, qa: prefill the question densely, as serving does, instead of decoding "
          "it under the policy");

namespace spotd::eval {
namespace {

template <typename T>
absl::StatusOr<std::vector<T>> ParseNumbers(const char* flag, const std::vector<std::string>& texts,
                                            T least, T most) {
  std::vector<T> numbers;
  for (const std::string& text : texts) {
    T number = {};
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, number);
    if (error != std::errc() || stop != end || !(number >= least && number <= most)) {
      return InvalidArgument("--", flag, ": '", text, "' is not a number between ", least, " and ",
                             most);
    }
    numbers.push_back(number);
  }
  if (numbers.empty()) return InvalidArgument("--", flag, " is empty");
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

absl::Status CheckRange(const char* flag, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return InvalidArgument("--", flag, " is ", value, "; it must be between ", least, " and ", most);
}

// Before hours of work whose result goes there.
absl::Status CheckOut(const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  std::error_code ignored;
  const bool existed = std::filesystem::exists(path, ignored);
  const bool writable = std::ofstream(path, std::ios::app).is_open();
  if (writable && !existed) std::filesystem::remove(path, ignored);
  return writable ? absl::OkStatus() : InvalidArgument("--out: cannot write ", path);
}

absl::Status ReadTasks(const std::string& command, EvalOptions* options) {
  std::vector<std::string> names = absl::GetFlag(FLAGS_tasks);
  if (command != "needle") {
    if (!names.empty()) return InvalidArgument("--tasks belongs to the needle command");
    names = {command};
  } else if (names.empty()) {
    names = {"single", "multi-key", "multi-value"};
  }
  for (const std::string& name : names) {
    SPOTD_ASSIGN_OR_RETURN(const TaskKind kind, ParseTaskKind(name));
    options->tasks.push_back(kind);
  }
  SPOTD_ASSIGN_OR_RETURN(options->depths,
                         ParseNumbers<double>("depths", absl::GetFlag(FLAGS_depths), 0, 1));
  if (command != "needle") options->depths = {0};
  options->prompts = absl::GetFlag(FLAGS_prompts);
  options->max_new_tokens = absl::GetFlag(FLAGS_max_new_tokens);
  options->dense_question = absl::GetFlag(FLAGS_dense_question);
  SPOTD_RETURN_IF_ERROR(CheckRange("prompts", options->prompts, 1, 1000));
  return CheckRange("max_new_tokens", options->max_new_tokens, 1, 512);
}

absl::Status ReadDocuments(EvalOptions* options) {
  options->tail = absl::GetFlag(FLAGS_tail);
  options->documents = absl::GetFlag(FLAGS_documents);
  options->windows = absl::GetFlag(FLAGS_windows);
  SPOTD_RETURN_IF_ERROR(CheckRange("tail", options->tail, 2, options->contexts.front() - 1));
  SPOTD_RETURN_IF_ERROR(CheckRange("documents", options->documents, 0, 100000));
  if (options->text.empty()) return InvalidArgument("--text is required");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<kernels::SelectorKeyFormat> ParseKeyFormat(const std::string& name) {
  if (name == "bf16") return kernels::SelectorKeyFormat::kBf16;
  if (name == "int4") return kernels::SelectorKeyFormat::kInt4;
  if (name == "fp4") return kernels::SelectorKeyFormat::kFp4;
  return InvalidArgument("--selector_keys: '", name, "' is not bf16, int4 or fp4");
}

absl::StatusOr<EvalOptions> ReadOptions(const std::string& command) {
  EvalOptions options;
  options.model.model = absl::GetFlag(FLAGS_model);
  options.model.selector = absl::GetFlag(FLAGS_selector);
  options.model.backend = absl::GetFlag(FLAGS_backend);
  options.model.threads = absl::GetFlag(FLAGS_threads);
  SPOTD_RETURN_IF_ERROR(CheckRange("threads", options.model.threads, 0, kernels::kMaxThreads));
  options.key_formats = absl::GetFlag(FLAGS_selector_keys);
  if (options.key_formats.empty()) return InvalidArgument("--selector_keys is empty");
  for (const std::string& name : options.key_formats) {
    SPOTD_RETURN_IF_ERROR(ParseKeyFormat(name).status());
  }
  SPOTD_ASSIGN_OR_RETURN(
      options.contexts,
      ParseNumbers<int32_t>("context", absl::GetFlag(FLAGS_context), 64, 1 << 24));
  options.policies = absl::GetFlag(FLAGS_policies);
  if (options.policies.empty()) return InvalidArgument("--policies is empty");
  options.text = absl::GetFlag(FLAGS_text);
  options.batch = absl::GetFlag(FLAGS_batch);
  SPOTD_RETURN_IF_ERROR(CheckRange("batch", options.batch, 2, kernels::kMaxInvariantRows));
  // A row for each and the dense one run side by side.
  SPOTD_RETURN_IF_ERROR(CheckRange("policies' number", std::ssize(options.policies), 1,
                                   kernels::kMaxInvariantRows - 1));
  options.out = absl::GetFlag(FLAGS_out);
  SPOTD_RETURN_IF_ERROR(CheckOut(options.out));
  options.seed = static_cast<uint64_t>(absl::GetFlag(FLAGS_seed));
  if (command == "ppl" || command == "mass") {
    SPOTD_RETURN_IF_ERROR(ReadDocuments(&options));
  } else {
    SPOTD_RETURN_IF_ERROR(ReadTasks(command, &options));
  }
  SPOTD_RETURN_IF_ERROR(PoliciesFor(options, true, options.contexts.back()).status());
  return options;
}

absl::StatusOr<std::vector<PolicySpec>> PoliciesFor(const EvalOptions& options, bool first_format,
                                                    int32_t context) {
  std::vector<PolicySpec> policies;
  for (const std::string& text : options.policies) {
    SPOTD_ASSIGN_OR_RETURN(PolicySpec spec, ParsePolicySpec(text, context));
    if (spec.needs_selector() && options.model.selector.empty()) {
      return InvalidArgument("--policies: ", text, " needs --selector");
    }
    if (first_format || spec.needs_selector()) policies.push_back(std::move(spec));
  }
  return policies;
}

int32_t SequencesAtOnce(const EvalOptions& options) {
  const auto rows_each = static_cast<int32_t>(options.policies.size()) + 1;
  const int32_t fitting = std::max(1, options.batch / rows_each);
  const auto prompts =
      static_cast<int32_t>(options.tasks.size() * options.depths.size()) * options.prompts;
  const int32_t wanted = prompts > 0 ? prompts : options.windows ? 0 : options.documents;
  return wanted > 0 ? std::min(fitting, wanted) : fitting;
}

tools::ModelOptions SizedModel(const EvalOptions& options, int32_t growth) {
  constexpr int32_t kSlack = 64;  // blocks begun and not filled
  tools::ModelOptions model = options.model;
  const int32_t rows_each = static_cast<int32_t>(options.policies.size()) + 1;
  model.max_context = options.contexts.back();
  model.max_batch = SequencesAtOnce(options) * rows_each;
  // Twilight reads a quantised copy of each prefix.
  const bool copies = std::any_of(options.policies.begin(), options.policies.end(),
                                  [](const std::string& p) { return p.starts_with("twilight"); });
  model.kv_tokens =
      int64_t{SequencesAtOnce(options)} *
      ((copies ? 2 : 1) * (int64_t{model.max_context} + kSlack) + rows_each * (growth + kSlack));
  return model;
}

}  // namespace spotd::eval
