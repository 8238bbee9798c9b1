#include "tools/spotctl/trace_data.h"

#include <algorithm>

namespace spotd::spotctl {
namespace {

// Length of the character at the front, by its first two bytes; 0 when it is none.
size_t CharacterLength(std::string_view bytes) {
  const auto at = [&](size_t i) { return i < bytes.size() ? static_cast<uint8_t>(bytes[i]) : 0u; };
  const unsigned lead = at(0), second = at(1);
  if (lead < 0x80) return 1;
  size_t length = 0;
  unsigned low = 0x80, high = 0xbf;  // of the second byte: no overlong forms, no surrogates
  if (lead >= 0xc2 && lead <= 0xdf) length = 2;
  if (lead >= 0xe0 && lead <= 0xef) length = 3;
  if (lead >= 0xf0 && lead <= 0xf4) length = 4;
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  if (length == 0 || second < low || second > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if ((at(i) & 0xc0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

std::string ValidUtf8(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const size_t length = CharacterLength(bytes);
    out += length == 0 ? std::string_view("\xef\xbf\xbd") : bytes.substr(0, length);
    bytes.remove_prefix(std::max<size_t>(1, length));
  }
  return out;
}

void TraceData::Add(const v1::TraceHeader& header) {
  layer_count = header.layer_count();
  block_tokens = std::max(1, header.block_token_count());
  dropped_steps = header.dropped_steps();
}

void TraceData::Add(const v1::TraceStep& message) {
  Step step;
  step.position = message.position();
  step.token_id = message.token_id();
  step.dense = message.dense();
  for (const v1::LayerRead& layer : message.layers()) {
    Runs runs;
    const int count = std::min(layer.first_blocks_size(), layer.block_counts_size());
    for (int i = 0; i < count; ++i) runs.emplace_back(layer.first_blocks(i), layer.block_counts(i));
    step.layers.push_back(std::move(runs));
  }
  steps.push_back(std::move(step));
}

int32_t TraceData::block_count() const {
  int32_t last = 0;
  for (const Step& step : steps) last = std::max(last, step.position);
  return (last + block_tokens - 1) / block_tokens;
}

std::vector<float> TraceData::Heat(const Step& step) const {
  std::vector<float> heat(static_cast<size_t>(block_count()), 0);
  const auto visible = std::min<size_t>(
      heat.size(), static_cast<size_t>((step.position + block_tokens - 1) / block_tokens));
  if (step.dense || step.layers.empty()) {
    std::fill_n(heat.begin(), visible, 1.0f);
    return heat;
  }
  const float share = 1.0f / static_cast<float>(step.layers.size());
  for (const Runs& runs : step.layers) {
    for (const auto& [first, count] : runs) {
      const int64_t end = std::min<int64_t>(int64_t{first} + count, static_cast<int64_t>(visible));
      for (int64_t block = std::max(0, first); block < end; ++block) {
        heat[static_cast<size_t>(block)] += share;
      }
    }
  }
  return heat;
}

std::vector<float> TraceData::MeanHeat() const {
  std::vector<float> mean(static_cast<size_t>(block_count()), 0);
  for (const Step& step : steps) {
    const std::vector<float> heat = Heat(step);
    for (size_t i = 0; i < mean.size(); ++i) {
      mean[i] += heat[i] / static_cast<float>(steps.size());
    }
  }
  return mean;
}

}  // namespace spotd::spotctl
