#include "tools/spotctl/generate_options.h"

#include <iostream>
#include <iterator>
#include <utility>

#include "kernels/core/read_file.h"
#include "kernels/core/status.h"

namespace spotd::spotctl {
namespace {

absl::StatusOr<v1::PolicyKind> ParsePolicy(const std::string& name) {
  static const std::map<std::string, v1::PolicyKind> kKinds = {
      {"full", v1::POLICY_KIND_FULL},     {"distilled", v1::POLICY_KIND_DISTILLED},
      {"quest", v1::POLICY_KIND_QUEST},   {"topk", v1::POLICY_KIND_TOP_K},
      {"window", v1::POLICY_KIND_WINDOW}, {"oracle", v1::POLICY_KIND_ORACLE}};
  const auto found = kKinds.find(name);
  if (found == kKinds.end()) {
    return InvalidArgument("--policy: \"", name,
                           "\" is none of full, distilled, quest, topk, window, oracle");
  }
  return found->second;
}

absl::StatusOr<std::string> ReadFileOrInput(const std::string& path) {
  if (path == "-") return std::string(std::istreambuf_iterator<char>(std::cin), {});
  return ReadFile(path);
}

template <typename Message, typename T>
absl::Status SetFloat(const CommandLine& line, const char* option, Message* message,
                      void (Message::*set)(T)) {
  SPOTD_ASSIGN_OR_RETURN(const std::optional<float> value, line.GetFloat(option));
  if (value.has_value()) (message->*set)(*value);
  return absl::OkStatus();
}

template <typename Message, typename T>
absl::Status SetInt(const CommandLine& line, const char* option, Message* message,
                    void (Message::*set)(T)) {
  SPOTD_ASSIGN_OR_RETURN(const std::optional<T> value, line.GetInt<T>(option));
  if (value.has_value()) (message->*set)(*value);
  return absl::OkStatus();
}

}  // namespace

std::vector<OptionSpec> SamplingOptions() {
  return {{"max-tokens", "N", "stop after N tokens"},
          {"temperature", "X", "0 = greedy (default)"},
          {"top-k", "N", "draw from the N likeliest tokens"},
          {"top-p", "X", "draw from the likeliest tokens with this probability"},
          {"min-p", "X", "leave out tokens below this share of the likeliest"},
          {"repetition-penalty", "X", "1 = off"},
          {"presence-penalty", "X", "0 = off"},
          {"frequency-penalty", "X", "0 = off"},
          {"seed", "N", "draw the same text again"},
          {"stop", "TEXT", "stop before this text; may be repeated"},
          {"ignore-eos", nullptr, "go on past the end-of-text token"}};
}

std::vector<OptionSpec> PolicyOptions() {
  return {{"policy", "NAME", "full, distilled, quest, topk, window or oracle"},
          {"p-residual", "X", "distilled: mass to cover outside sinks and recency"},
          {"p-total", "X", "distilled: mass that is enough"},
          {"fraction", "X", "quest: share of blocks to read"},
          {"k-tokens", "N", "topk: tokens to read"},
          {"dense-below", "N", "read contexts up to N tokens densely"}};
}

std::vector<OptionSpec> InputOptions() {
  return {{"text", "TEXT", "plain text"},
          {"message", "TEXT", "a chat message, through the model's template"},
          {"role", "ROLE", "of --message, or of the file as a message (default user)"},
          {"file", "FILE", "text from a file; - is standard input"}};
}

absl::Status FillSampling(const CommandLine& line, v1::Sampling* sampling) {
  using S = v1::Sampling;
  SPOTD_RETURN_IF_ERROR(SetInt(line, "max-tokens", sampling, &S::set_max_tokens));
  SPOTD_RETURN_IF_ERROR(SetFloat(line, "temperature", sampling, &S::set_temperature));
  SPOTD_RETURN_IF_ERROR(SetInt(line, "top-k", sampling, &S::set_top_k));
  SPOTD_RETURN_IF_ERROR(SetFloat(line, "top-p", sampling, &S::set_top_p));
  SPOTD_RETURN_IF_ERROR(SetFloat(line, "min-p", sampling, &S::set_min_p));
  SPOTD_RETURN_IF_ERROR(SetFloat(line, "repetition-penalty", sampling, &S::set_repetition_penalty));
  SPOTD_RETURN_IF_ERROR(SetFloat(line, "presence-penalty", sampling, &S::set_presence_penalty));
  SPOTD_RETURN_IF_ERROR(SetFloat(line, "frequency-penalty", sampling, &S::set_frequency_penalty));
  SPOTD_RETURN_IF_ERROR(SetInt(line, "seed", sampling, &S::set_seed));
  for (const std::string& text : line.GetAll("stop")) sampling->add_stop(text);
  if (line.Has("ignore-eos")) sampling->set_ignore_eos(true);
  return absl::OkStatus();
}

absl::Status FillPolicy(const CommandLine& line, const std::function<v1::Policy*()>& policy) {
  using P = v1::Policy;
  bool any = false;
  for (const OptionSpec& option : PolicyOptions()) any = any || line.Has(option.name);
  if (!any) return absl::OkStatus();
  P* out = policy();
  if (const auto name = line.Get("policy"); name.has_value()) {
    SPOTD_ASSIGN_OR_RETURN(const v1::PolicyKind kind, ParsePolicy(*name));
    out->set_kind(kind);
  }
  SPOTD_RETURN_IF_ERROR(SetFloat(line, "p-residual", out, &P::set_p_residual));
  SPOTD_RETURN_IF_ERROR(SetFloat(line, "p-total", out, &P::set_p_total));
  SPOTD_RETURN_IF_ERROR(SetFloat(line, "fraction", out, &P::set_fraction));
  SPOTD_RETURN_IF_ERROR(SetInt(line, "k-tokens", out, &P::set_k_tokens));
  return SetInt(line, "dense-below", out, &P::set_dense_below_tokens);
}

absl::StatusOr<v1::Input> ReadInput(const CommandLine& line) {
  if (line.Has("text") + line.Has("message") + line.Has("file") != 1) {
    return InvalidArgument("give one of --text, --message, --file");
  }
  std::string content = line.Get("text").value_or(line.Get("message").value_or(""));
  if (line.Has("file")) {
    SPOTD_ASSIGN_OR_RETURN(content, ReadFileOrInput(*line.Get("file")));
  }
  v1::Input input;
  if (line.Has("message") || line.Has("role")) {
    v1::ChatMessage* message = input.mutable_messages()->add_messages();
    message->set_role(line.Get("role").value_or("user"));
    message->set_content(std::move(content));
  } else if (line.Has("file")) {
    input.set_text_chunk(std::move(content));
  } else {
    input.set_text(std::move(content));
  }
  return input;
}

}  // namespace spotd::spotctl
