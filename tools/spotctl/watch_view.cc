#include "tools/spotctl/watch_view.h"

#include <algorithm>
#include <cstdio>

#include "nlohmann/json.hpp"
#include "tools/spotctl/terminal.h"

namespace spotd::spotctl {
namespace {

constexpr size_t kHistory = 48;
constexpr int kBarWidth = 32;

double Grown(const MetricsPage& before, const MetricsPage& after, const std::string& name,
             const MetricsPage::Labels& labels = {}) {
  // A server that was started again counts from zero.
  return std::max(0.0, after.Sum(name, labels) - before.Sum(name, labels));
}

std::string Bar(double share) {
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * kBarWidth + 0.5);
  std::string bar;
  for (int i = 0; i < kBarWidth; ++i) bar += i < full ? "█" : "░";
  return bar;
}

std::string Format(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

// Rows of "label value" with the label dimmed.
class Lines {
 public:
  explicit Lines(bool color) : color_(color) {}

  Lines& Label(const std::string& text) {
    out_ += (color_ ? "\033[2m" : "") + text + (color_ ? "\033[0m" : "");
    return *this;
  }
  Lines& Value(const std::string& text, const char* code = "1") {
    out_ += (color_ ? std::string("\033[") + code + "m" : "") + text + (color_ ? "\033[0m" : "");
    return *this;
  }
  Lines& Text(const std::string& text) {
    out_ += text;
    return *this;
  }
  Lines& End() {
    out_ += color_ ? "\033[K\n" : "\n";
    return *this;
  }
  std::string Take() { return std::move(out_); }

 private:
  bool color_;
  std::string out_;
};

const char* StateColor(const std::string& state) {
  if (state == "ready") return "32";
  return state == "draining" ? "33" : "31";
}

}  // namespace

WatchFigures::WatchFigures(const MetricsPage& before, const MetricsPage& after,
                           double elapsed_seconds)
    : version(after.Label("spotd_build_info", "version")),
      model(after.Label("spotd_build_info", "model_name")),
      policy(after.Label("spotd_model_info", "default_policy")),
      backend(after.Label("spotd_model_info", "backend")),
      state(after.Label("spotd_engine_state", "state")),
      seconds(elapsed_seconds),
      running(after.Sum("spotd_requests_running")),
      waiting(after.Sum("spotd_requests_waiting")),
      sessions(after.Sum("spotd_sessions")),
      calls(after.Sum("spotd_calls_in_progress")),
      kv_usage(after.Sum("spotd_kv_usage_ratio")),
      kv_blocks(after.Sum("spotd_kv_blocks")),
      first_token_p50(QuantileBetween(before, after, "spotd_time_to_first_token_seconds", 0.5)),
      first_token_p99(QuantileBetween(before, after, "spotd_time_to_first_token_seconds", 0.99)),
      inter_token_p50(QuantileBetween(before, after, "spotd_inter_token_latency_seconds", 0.5)),
      inter_token_p99(QuantileBetween(before, after, "spotd_inter_token_latency_seconds", 0.99)),
      resident_bytes(after.Sum("process_resident_memory_bytes")) {
  const double time = std::max(1e-9, elapsed_seconds);
  refused_per_second = Grown(before, after, "spotd_requests_rejected_total") / time;
  requests_per_second = Grown(before, after, "spotd_requests_total") / time;
  prefill_rate = Grown(before, after, "spotd_prompt_tokens_total", {{"source", "computed"}}) / time;
  decode_rate = Grown(before, after, "spotd_generation_tokens_total") / time;
  kv_read_rate = Grown(before, after, "spotd_kv_bytes_read_total") / time;
  kv_dense_rate = Grown(before, after, "spotd_kv_bytes_dense_equivalent_total") / time;
  density = kv_dense_rate > 0 ? kv_read_rate / kv_dense_rate : 0;
}

std::string WatchFigures::ToJson() const {
  return nlohmann::json{{"model", model},
                        {"state", state},
                        {"seconds", seconds},
                        {"requests_running", running},
                        {"requests_waiting", waiting},
                        {"sessions", sessions},
                        {"calls_in_progress", calls},
                        {"requests_per_second", requests_per_second},
                        {"refused_per_second", refused_per_second},
                        {"kv_usage", kv_usage},
                        {"prefill_tokens_per_second", prefill_rate},
                        {"decode_tokens_per_second", decode_rate},
                        {"time_to_first_token_p50", first_token_p50},
                        {"time_to_first_token_p99", first_token_p99},
                        {"inter_token_p50", inter_token_p50},
                        {"inter_token_p99", inter_token_p99},
                        {"density", density},
                        {"kv_bytes_read_per_second", kv_read_rate},
                        {"kv_bytes_dense_per_second", kv_dense_rate},
                        {"resident_bytes", resident_bytes}}
      .dump();
}

void WatchHistory::Add(const WatchFigures& figures) {
  for (const auto& [values, value] : {std::pair{&prefill, figures.prefill_rate},
                                      {&decode, figures.decode_rate},
                                      {&density, figures.density}}) {
    values->push_back(value);
    if (values->size() > kHistory) values->pop_front();
  }
}

std::string Sparkline(const std::deque<double>& values) {
  static constexpr const char* kLevels[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const double highest = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  std::string line;
  for (const double value : values) {
    line += kLevels[highest > 0 ? static_cast<int>(value / highest * 8 + 0.5) : 0];
  }
  return line;
}

std::string RenderWatch(const WatchFigures& f, const WatchHistory& history, bool color) {
  Lines lines(color);
  lines.Value("spotd " + f.version).Text("  " + f.model + "  ").Value(f.state, StateColor(f.state));
  lines.Text("  default policy " + f.policy).End().Label(f.backend).End().End();

  lines.Label("  running ").Value(Format("%5.0f", f.running));
  lines.Label("   waiting ").Value(Format("%5.0f", f.waiting), f.waiting > 0 ? "33" : "1");
  lines.Label("   sessions ").Value(Format("%5.0f", f.sessions));
  lines.Label("   calls/s ").Value(Format("%7.1f", f.requests_per_second));
  lines.Label("   refused/s ")
      .Value(Format("%6.1f", f.refused_per_second), f.refused_per_second > 0 ? "31" : "1")
      .End();
  lines.Label("  KV      ").Value(Bar(f.kv_usage), f.kv_usage > 0.9 ? "31" : "36");
  lines.Value(Format(" %5.1f %%", 100 * f.kv_usage)).Label("   resident ");
  lines.Value(FormatBytes(f.resident_bytes)).End().End();

  lines.Label("  prefill ").Value(Format("%9.1f", f.prefill_rate)).Label(" tokens/s  ");
  lines.Value(Sparkline(history.prefill), "36").End();
  lines.Label("  decode  ").Value(Format("%9.1f", f.decode_rate)).Label(" tokens/s  ");
  lines.Value(Sparkline(history.decode), "36").End();
  lines.Label("  density ").Value(Format("%9.1f", 100 * f.density)).Label(" %         ");
  lines.Value(Sparkline(history.density), "36").End();
  lines.Label("  KV read ").Value(FormatBytes(f.kv_read_rate) + "/s");
  lines.Label("  dense would read ").Value(FormatBytes(f.kv_dense_rate) + "/s").End().End();

  lines.Label("  first token     p50 ").Value(FormatSeconds(f.first_token_p50));
  lines.Label("   p99 ").Value(FormatSeconds(f.first_token_p99)).End();
  lines.Label("  between tokens  p50 ").Value(FormatSeconds(f.inter_token_p50));
  lines.Label("   p99 ").Value(FormatSeconds(f.inter_token_p99)).End();
  return lines.Take();
}

}  // namespace spotd::spotctl
