#include "kernels/cpu/rope_table.h"

#include <algorithm>
#include <cmath>

namespace spotd::kernels::cpu {

// Compares contents, not addresses: a caller may reuse memory for other frequencies.
bool RopeTable::Holds(const Rope& rope, const int32_t* positions, int32_t rows) const {
  return rope.rotary_dim / 2 == half_ && rope.magnitude == magnitude_ &&
         std::equal(inv_freq_.begin(), inv_freq_.end(), rope.inv_freq) &&
         std::equal(positions_.begin(), positions_.end(), positions, positions + rows);
}

void RopeTable::Prepare(const Rope& rope, const int32_t* positions, int32_t rows) {
  if (Holds(rope, positions, rows)) return;
  half_ = rope.rotary_dim / 2;
  magnitude_ = rope.magnitude;
  inv_freq_.assign(rope.inv_freq, rope.inv_freq + half_);
  positions_.assign(positions, positions + rows);
  values_.resize(static_cast<size_t>(rows) * 2 * static_cast<size_t>(half_));
  float* out = values_.data();
  for (int32_t r = 0; r < rows; ++r, out += 2 * half_) {
    for (int32_t i = 0; i < half_; ++i) {
      // In double: at position 1e6 a float angle has lost its second decimal.
      const double angle = double{inv_freq_[static_cast<size_t>(i)]} * positions[r];
      out[i] = static_cast<float>(std::cos(angle) * magnitude_);
      out[half_ + i] = static_cast<float>(std::sin(angle) * magnitude_);
    }
  }
}

}  // namespace spotd::kernels::cpu
