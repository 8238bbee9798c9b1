#include "tools/spotctl/trace_view.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "kernels/core/status.h"

namespace spotd::spotctl {
namespace {

constexpr int kLabelWidth = 16;
constexpr size_t kTopBlocks = 5;
constexpr int kSnippet = 64;  // characters of a block's text
constexpr float kAlways = 0.999f;

// Control characters and line breaks become visible or blanks.
std::string OneLine(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '\n' ? "⏎" : std::string(1, c >= 0 && c < ' ' ? ' ' : c);
  return out;
}

// Cut to `columns` characters and padded, where a character is taken to fill one column.
std::string Fit(const std::string& text, int columns) {
  std::string out;
  int used = 0;
  for (size_t i = 0; i < text.size() && used < columns; ++used) {
    size_t end = i + 1;
    while (end < text.size() && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) ++end;
    out += text.substr(i, end - i);
    i = end;
  }
  return out + std::string(static_cast<size_t>(columns - used), ' ');
}

// From near white to deep red, as the page's colours.
std::string ColorCell(float heat) {
  const float x = std::sqrt(std::clamp(heat, 0.0f, 1.0f));
  char text[48];
  std::snprintf(text, sizeof(text), "\033[48;2;%d;%d;%dm ", static_cast<int>(250 - 70 * x),
                static_cast<int>(245 - 215 * x), static_cast<int>(238 - 195 * x));
  return text;
}

const char* PlainCell(float heat) {
  if (heat < 0.02f) return "·";
  if (heat < 0.25f) return "░";
  if (heat < 0.5f) return "▒";
  return heat < 0.75f ? "▓" : "█";
}

std::string Strip(const std::vector<float>& heat, size_t cells, bool color) {
  std::string strip;
  for (size_t cell = 0; cell < cells; ++cell) {
    const size_t begin = cell * heat.size() / cells;
    const size_t end = std::max(begin + 1, (cell + 1) * heat.size() / cells);
    // The hottest block of the cell: a single block that was found must not fade in a long context.
    const float value = *std::max_element(heat.begin() + static_cast<std::ptrdiff_t>(begin),
                                          heat.begin() + static_cast<std::ptrdiff_t>(end));
    strip += color ? ColorCell(value) : PlainCell(value);
  }
  return color ? strip + "\033[0m" : strip;
}

std::string Axis(const TraceData& trace, size_t cells) {
  const std::string first = "0";
  const std::string last = Concat(trace.block_count() * trace.block_tokens, " tokens");
  const size_t gap = cells > first.size() + last.size() ? cells - first.size() - last.size() : 1;
  return std::string(kLabelWidth + 1, ' ') + first + std::string(gap, ' ') + last + "\n";
}

// The blocks that were read most, leaving out those that every token read.
std::string TopBlocks(const TraceData& trace, const std::vector<float>& mean) {
  std::vector<size_t> order(mean.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::erase_if(order, [&](size_t b) { return mean[b] >= kAlways || mean[b] <= 0; });
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return mean[a] > mean[b]; });
  std::string out;
  for (size_t i = 0; i < std::min(kTopBlocks, order.size()); ++i) {
    const size_t block = order[i];
    const size_t first = block * static_cast<size_t>(trace.block_tokens);
    char percent[16];
    std::snprintf(percent, sizeof(percent), "%3.0f %%", 100 * static_cast<double>(mean[block]));
    out += Concat("  ", percent, "  tokens ", first, "-",
                  first + static_cast<size_t>(trace.block_tokens) - 1);
    if (block < trace.block_texts.size()) {
      out += "  " + Fit(OneLine(trace.block_texts[block]), kSnippet);
    }
    out += "\n";
  }
  return out.empty() ? "" : "\nread most, besides what every token reads:\n" + out;
}

}  // namespace

std::string RenderTrace(const TraceData& trace, int width, int max_rows, bool color) {
  if (trace.steps.empty() || trace.block_count() == 0) return "the reply read nothing\n";
  const size_t blocks = static_cast<size_t>(trace.block_count());
  const size_t cells = std::min(blocks, static_cast<size_t>(std::max(8, width - kLabelWidth - 1)));
  const size_t count = trace.steps.size();
  const size_t group = (count + static_cast<size_t>(max_rows) - 1) / static_cast<size_t>(max_rows);
  std::string out = Axis(trace, cells);
  for (size_t begin = 0; begin < count; begin += group) {
    const size_t end = std::min(count, begin + group);
    std::vector<float> heat(blocks, 0);
    std::string label;
    for (size_t i = begin; i < end; ++i) {
      const std::vector<float> one = trace.Heat(trace.steps[i]);
      for (size_t b = 0; b < blocks; ++b) heat[b] += one[b] / static_cast<float>(end - begin);
      label += trace.steps[i].text;
    }
    out += Fit(OneLine(label), kLabelWidth) + " " + Strip(heat, cells, color) + "\n";
  }
  const std::vector<float> mean = trace.MeanHeat();
  out += Fit("all tokens", kLabelWidth) + " " + Strip(mean, cells, color) + "\n";
  return out + TopBlocks(trace, mean);
}

}  // namespace spotd::spotctl
