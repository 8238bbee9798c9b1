// Sines and cosines of a step's positions, computed once and used by every layer.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/args.h"

namespace spotd::kernels::cpu {

// Not thread-safe while Prepare runs; lookups may be concurrent.
class RopeTable {
 public:
  // Makes row r of the table that of positions[r]. Free when neither the embedding nor the
  // positions changed since the last call.
  void Prepare(const Rope& rope, const int32_t* positions, int32_t rows);

  // [rotary_dim / 2] each, the embedding's magnitude included.
  const float* cosines(int32_t row) const { return values_.data() + int64_t{2} * row * half_; }
  const float* sines(int32_t row) const { return cosines(row) + half_; }
  int32_t half() const { return half_; }

 private:
  bool Holds(const Rope& rope, const int32_t* positions, int32_t rows) const;

  int32_t half_ = 0;
  float magnitude_ = 0;
  std::vector<float> inv_freq_;
  std::vector<int32_t> positions_;
  std::vector<float> values_;  // [rows, 2, half]
};

}  // namespace spotd::kernels::cpu
