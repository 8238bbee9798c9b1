// What one training step is made of besides text: learning rate, positions, and which rows ask.
#pragma once

#include <cstdint>
#include <vector>

namespace spotd::distill {

// Linear warm-up, then a cosine from `peak` to `final_share` * peak at `steps`. `step` counts from
// 0.
struct LearningRate {
  double peak = 5e-3;
  int64_t warmup_steps = 50;
  int64_t steps = 0;
  double final_share = 0.05;
  double At(int64_t step) const;
};

// Position skipping (after arXiv 2309.10400): the sequence is cut at 1 to `most_cuts` random places
// and what follows a cut gets a random gap, up to `max_position` in all, so that short sequences
// show the selector long distances. The gaps' sum is the room for them times a uniform number to
// the power `gap_power`: below 1 favours long ones. Contiguous positions with probability 1 -
// `probability`. A pure function of (seed, index).
struct PositionSkip {
  double probability = 0.75;
  int32_t max_position = 8192;
  uint64_t seed = 1;
  int32_t most_cuts = 64;
  double gap_power = 0.5;
  std::vector<int32_t> Positions(int32_t length, int64_t index) const;
};

// `count` distinct rows of [first, length), ascending: the queries of sequence `index`.
std::vector<int32_t> SampleQueries(int32_t first, int32_t length, int32_t count, uint64_t seed,
                                   int64_t index);

}  // namespace spotd::distill
