// Which blocks of the context each generated token read: the record of one reply, with text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "spotd/v1/inference.pb.h"

namespace spotd::spotctl {

struct TraceData {
  // Blocks [first, first + count) of one layer.
  using Runs = std::vector<std::pair<int32_t, int32_t>>;

  struct Step {
    int32_t position = 0;  // of the drawn token in the session
    int32_t token_id = 0;
    std::string text;
    bool dense = false;        // every block of every layer
    std::vector<Runs> layers;  // empty when dense
  };

  int32_t layer_count = 0;
  int32_t block_tokens = 1;
  int32_t dropped_steps = 0;
  std::vector<Step> steps;
  // Text of the context's first blocks, where the user gave the document; else empty.
  std::vector<std::string> block_texts;

  void Add(const v1::TraceHeader& header);
  void Add(const v1::TraceStep& step);

  // Blocks that the last token could read.
  int32_t block_count() const;
  // For each block, the share of layers in which this step read it, in [0, 1].
  std::vector<float> Heat(const Step& step) const;
  // The mean of that over all steps.
  std::vector<float> MeanHeat() const;
};

// `bytes` with what is no UTF-8 replaced by U+FFFD: tokens may be any bytes.
std::string ValidUtf8(std::string_view bytes);

}  // namespace spotd::spotctl
