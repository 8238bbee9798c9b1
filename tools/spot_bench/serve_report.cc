#include "tools/spot_bench/serve_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <sstream>
#include <utility>

namespace spotd::bench {
namespace {

constexpr std::pair<const char*, double> kPercentiles[] = {
    {"p50", 0.50}, {"p90", 0.90}, {"p99", 0.99}, {"max", 1.0}};

nlohmann::json Summary(const std::vector<double>& sorted) {
  nlohmann::json summary = {{"count", sorted.size()}};
  for (const auto& [name, p] : kPercentiles) summary[name] = Percentile(sorted, p);
  return summary;
}

std::string Row(const char* name, const std::vector<double>& sorted) {
  char line[160];
  std::snprintf(line, sizeof(line), "  %-20s %9.2f %9.2f %9.2f %9.2f   (%zu)\n", name,
                1e3 * Percentile(sorted, 0.5), 1e3 * Percentile(sorted, 0.9),
                1e3 * Percentile(sorted, 0.99), 1e3 * Percentile(sorted, 1), sorted.size());
  return line;
}

// Geometry of one panel of the picture.
struct Panel {
  double left, top, width, height;
};

constexpr double kDecades = 6;  // 0.1 ms to 100 s
constexpr double kLowestMs = 0.1;
constexpr size_t kCurvePoints = 200;

double LogX(const Panel& panel, double seconds) {
  const double decade = std::log10(std::max(1e3 * seconds, kLowestMs) / kLowestMs);
  return panel.left + panel.width * std::min(decade / kDecades, 1.0);
}

void AppendCurve(const Panel& panel, const std::vector<double>& sorted, const char* color,
                 std::ostringstream* svg) {
  if (sorted.empty()) return;
  *svg << "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"" << color << "\" points=\"";
  for (size_t i = 0; i <= kCurvePoints; ++i) {
    const double p = std::max(static_cast<double>(i) / kCurvePoints, 1e-9);
    *svg << LogX(panel, Percentile(sorted, p)) << "," << panel.top + panel.height * (1 - p) << " ";
  }
  *svg << "\"/>\n";
}

void AppendLatencyAxes(const Panel& panel, std::ostringstream* svg) {
  static constexpr const char* kLabels[] = {"0.1 ms", "1 ms", "10 ms", "100 ms",
                                            "1 s",    "10 s", "100 s"};
  for (int i = 0; i <= static_cast<int>(kDecades); ++i) {
    const double x = panel.left + panel.width * i / kDecades;
    *svg << "<line class=\"grid\" x1=\"" << x << "\" x2=\"" << x << "\" y1=\"" << panel.top
         << "\" y2=\"" << panel.top + panel.height << "\"/><text x=\"" << x << "\" y=\""
         << panel.top + panel.height + 16 << "\" text-anchor=\"middle\">" << kLabels[i]
         << "</text>\n";
  }
  for (int percent : {0, 50, 90, 99}) {
    const double y = panel.top + panel.height * (1 - percent / 100.0);
    *svg << "<line class=\"grid\" x1=\"" << panel.left << "\" x2=\"" << panel.left + panel.width
         << "\" y1=\"" << y << "\" y2=\"" << y << "\"/>";
    if (percent == 99) continue;  // its label would lie on that of 90
    *svg << "<text x=\"" << panel.left - 6 << "\" y=\"" << y + 4 << "\" text-anchor=\"end\">"
         << percent << " %</text>\n";
  }
}

void AppendRate(const Panel& panel, const std::vector<double>& rate, std::ostringstream* svg) {
  if (rate.empty()) return;
  const double highest = std::max(1.0, *std::max_element(rate.begin(), rate.end()));
  const double step = panel.width / static_cast<double>(rate.size());
  for (size_t i = 0; i < rate.size(); ++i) {
    const double height = panel.height * rate[i] / highest;
    *svg << "<rect class=\"rate\" x=\"" << panel.left + step * static_cast<double>(i) << "\" y=\""
         << panel.top + panel.height - height << "\" width=\"" << std::max(0.5, step - 1)
         << "\" height=\"" << height << "\"/>\n";
  }
  *svg << "<text x=\"" << panel.left - 6 << "\" y=\"" << panel.top + 4 << "\" text-anchor=\"end\">"
       << std::llround(highest) << "</text><text x=\"" << panel.left - 6 << "\" y=\""
       << panel.top + panel.height << "\" text-anchor=\"end\">0</text><text x=\""
       << panel.left + panel.width << "\" y=\"" << panel.top + panel.height + 16
       << "\" text-anchor=\"end\">" << rate.size() << " s</text>\n";
}

}  // namespace

double Percentile(const std::vector<double>& sorted, double p) {
  if (sorted.empty()) return 0;
  const auto rank = static_cast<size_t>(std::ceil(p * static_cast<double>(sorted.size())));
  return sorted[std::clamp<size_t>(rank, 1, sorted.size()) - 1];
}

ServeReport::ServeReport(const LoadResult& load)
    : seconds(load.seconds),
      peak_streams(load.peak_streams),
      health(load.health_seconds),
      health_failures(load.health_failures) {
  double tokens = 0, prompt_tokens = 0, ended = 0;
  tokens_by_second.assign(static_cast<size_t>(std::ceil(seconds)), 0);
  for (const RequestRecord& request : load.requests) {
    ++outcomes[request.outcome];
    if (request.outcome != "OK") continue;
    first_token.push_back(request.first_token - request.due);
    total.push_back(request.end - request.due);
    double at = request.first_token;
    for (size_t i = 0; i <= request.gaps.size(); ++i) {
      const auto second = static_cast<size_t>(std::max(0.0, at));
      if (second < tokens_by_second.size()) tokens_by_second[second] += 1;
      if (i == request.gaps.size()) break;
      gaps.push_back(request.gaps[i]);
      at += request.gaps[i];
    }
    if (request.end > seconds) continue;  // ended in the grace time: latencies count, rates do not
    ++ended;
    tokens += request.tokens;
    prompt_tokens += request.prompt_tokens;
  }
  for (std::vector<double>* values : {&first_token, &gaps, &total, &health}) {
    std::sort(values->begin(), values->end());
  }
  if (seconds <= 0) return;
  requests_per_second = ended / seconds;
  tokens_per_second = tokens / seconds;
  prompt_tokens_per_second = prompt_tokens / seconds;
}

nlohmann::json ServeReport::ToJson() const {
  return {{"seconds", seconds},
          {"outcomes", outcomes},
          {"peak_streams", peak_streams},
          {"requests_per_second", requests_per_second},
          {"tokens_per_second", tokens_per_second},
          {"prompt_tokens_per_second", prompt_tokens_per_second},
          {"time_to_first_token_seconds", Summary(first_token)},
          {"inter_token_seconds", Summary(gaps)},
          {"end_to_end_seconds", Summary(total)},
          {"health_seconds", Summary(health)},
          {"health_failures", health_failures}};
}

std::string ServeReport::ToText() const {
  std::ostringstream text;
  text.precision(4);
  text << "in " << seconds << " s, at most " << peak_streams << " streams:";
  for (const auto& [outcome, count] : outcomes) text << " " << count << " " << outcome << ",";
  text << "\n  " << requests_per_second << " requests/s, " << tokens_per_second
       << " tokens/s generated, " << prompt_tokens_per_second << " tokens/s of prompts\n";
  text << "  milliseconds               p50       p90       p99       max   (values)\n";
  text << Row("time to first token", first_token) << Row("between tokens", gaps)
       << Row("end to end", total);
  if (!health.empty()) text << Row("health check", health);
  if (health_failures > 0) text << "  " << health_failures << " health checks failed\n";
  return text.str();
}

std::string ServeReport::ToSvg() const {
  constexpr Panel kLatency = {60, 40, 640, 240};
  constexpr Panel kRate = {60, 350, 640, 90};
  std::ostringstream svg;
  svg << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 740 480\" width=\"740\">\n"
         "<style>text{font:12px sans-serif;fill:#444}.grid{stroke:#ddd}.rate{fill:#4c78a8}"
         "svg{background:#fff}</style>\n";
  AppendLatencyAxes(kLatency, &svg);
  static constexpr std::pair<const char*, const char*> kNames[] = {
      {"between tokens", "#54a24b"}, {"time to first token", "#4c78a8"}, {"end to end", "#e45756"}};
  const std::vector<double>* curves[] = {&gaps, &first_token, &total};
  for (size_t i = 0; i < std::size(kNames); ++i) {
    AppendCurve(kLatency, *curves[i], kNames[i].second, &svg);
    svg << "<text x=\"" << 60 + 180 * i << "\" y=\"24\" style=\"fill:" << kNames[i].second
        << ";font-weight:bold\">" << kNames[i].first << "</text>\n";
  }
  svg << "<text x=\"60\" y=\"336\">tokens generated each second</text>\n";
  AppendRate(kRate, tokens_by_second, &svg);
  svg << "</svg>\n";
  return svg.str();
}

}  // namespace spotd::bench
