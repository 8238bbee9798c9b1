// The /metrics page of a server: fetching it, and finding figures in it.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace spotd::spotctl {

// Body of an HTTP GET of http://HOST:PORT/metrics. UNAVAILABLE says why there is none.
absl::StatusOr<std::string> FetchMetrics(const std::string& address);

class MetricsPage {
 public:
  using Labels = std::map<std::string, std::string>;
  struct Sample {
    Labels labels;
    double value = 0;
  };

  // Lines that are no samples are skipped.
  static MetricsPage Parse(std::string_view text);

  // The sum of the samples of `name` that carry all of `labels`; 0 without any.
  double Sum(const std::string& name, const Labels& labels = {}) const;
  // A label of the first sample of `name` whose value is not 0; "" without one.
  std::string Label(const std::string& name, const std::string& label) const;
  const std::vector<Sample>& Samples(const std::string& name) const;

 private:
  std::map<std::string, std::vector<Sample>> samples_;
};

// The q-quantile of what a histogram counted between two pages, by linear interpolation inside its
// bucket; 0 when it counted nothing.
double QuantileBetween(const MetricsPage& before, const MetricsPage& after, const std::string& name,
                       double q);

}  // namespace spotd::spotctl
