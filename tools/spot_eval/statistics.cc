#include "tools/spot_eval/statistics.h"

#include <array>
#include <cmath>

namespace spotd::eval {

double StudentT975(size_t degrees) {
  constexpr std::array<double, 4> kSmall = {12.706, 4.303, 3.182, 2.776};
  if (degrees >= 1 && degrees <= kSmall.size()) return kSmall[degrees - 1];
  // Cornish-Fisher expansion around the normal quantile (Abramowitz and Stegun 26.7.5).
  constexpr double kZ = 1.959964;
  constexpr double kZ3 = kZ * kZ * kZ;
  constexpr double kZ5 = kZ3 * kZ * kZ;
  constexpr double kZ7 = kZ5 * kZ * kZ;
  const auto n = static_cast<double>(degrees);
  return kZ + (kZ3 + kZ) / (4 * n) + (5 * kZ5 + 16 * kZ3 + 3 * kZ) / (96 * n * n) +
         (3 * kZ7 + 19 * kZ5 + 17 * kZ3 - 15 * kZ) / (384 * n * n * n);
}

Interval MeanInterval(std::span<const double> values) {
  Interval interval;
  interval.count = values.size();
  if (values.empty()) return interval;
  const auto n = static_cast<double>(values.size());
  for (const double v : values) interval.mean += v / n;
  if (values.size() < 2) return interval;
  double squares = 0;
  for (const double v : values) squares += (v - interval.mean) * (v - interval.mean);
  interval.half_width = StudentT975(values.size() - 1) * std::sqrt(squares / (n - 1) / n);
  return interval;
}

}  // namespace spotd::eval
