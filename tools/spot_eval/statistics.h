// Means of paired figures with their 95% intervals.
#pragma once

#include <cstddef>
#include <span>

namespace spotd::eval {

struct Interval {
  double mean = 0;
  double half_width = 0;  // of the 95% interval; 0 with fewer than two values
  size_t count = 0;
};

// Student's t interval of the mean of independent values: documents, or prompts. To compare two
// policies, hand it the differences on the same documents.
Interval MeanInterval(std::span<const double> values);

// The 0.975 quantile of Student's t distribution, to within 0.3%. degrees >= 1.
double StudentT975(size_t degrees);

}  // namespace spotd::eval
