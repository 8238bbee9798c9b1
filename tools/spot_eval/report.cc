#include "tools/spot_eval/report.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "kernels/core/status.h"

namespace spotd::eval {

double Rounded(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", value);
  return std::strtod(text, nullptr);
}

nlohmann::json NewReport(const std::string& command, const EvalOptions& options, EvalModel& model) {
  const kvstore::KvLayout& layout = model.loaded().store().layout();
  nlohmann::json report = {
      {"schema", "spot-eval/1"},
      {"task", command},
      {"model", {{"name", model.config().name}, {"fingerprint", model.config().Fingerprint()}}},
      {"backend", std::string(model.loaded().backend().name())},
      {"device", model.loaded().backend().description()},
      {"block_tokens", layout.block_tokens},
      {"seed", options.seed},
      {"rows", nlohmann::json::array()}};
  if (!options.model.selector.empty()) {
    report["selector"] = std::filesystem::path(options.model.selector).filename().string();
    report["selector_dim"] = layout.selector_dim;
  }
  return report;
}

namespace {

// A reply may end in half a character.
std::string Line(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// One field a line, and of the long lists one element a line: files that a person can compare.
std::string Text(const nlohmann::json& report) {
  std::string text = "{";
  const char* separator = "\n";
  for (const auto& [key, value] : report.items()) {
    text += separator + Line(key) + ": ";
    separator = ",\n";
    if (!value.is_array()) {
      text += Line(value);
      continue;
    }
    const char* begin = "[\n ";
    for (const nlohmann::json& element : value) {
      text += begin + Line(element);
      begin = ",\n ";
    }
    text += value.empty() ? "[]" : "]";
  }
  return text + "\n}\n";
}

}  // namespace

absl::Status WriteReport(const EvalOptions& options, const nlohmann::json& report) {
  if (options.out.empty()) return absl::OkStatus();
  std::ofstream file(options.out);
  file << Text(report);
  file.close();
  if (!file) return absl::UnknownError(Concat("--out: cannot write ", options.out));
  return absl::OkStatus();
}

}  // namespace spotd::eval
