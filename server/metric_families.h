// Builds prometheus::MetricFamily values with the labels that all series share. Prometheus' headers
// end here.
#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <utility>
#include <vector>

#include "runtime/engine/metrics.h"

namespace spotd::server {

using Labels = std::vector<std::pair<std::string, std::string>>;

class MetricFamilies {
 public:
  // `common` is put on every series.
  explicit MetricFamilies(Labels common) : common_(std::move(common)) {}

  // One family; Add* calls that follow put series into it.
  void Gauge(std::string name, std::string help);
  void Counter(std::string name, std::string help);
  void Histogram(std::string name, std::string help);

  void Add(double value, const Labels& labels = {});
  void Add(const engine::Histogram& histogram, const Labels& labels = {});

  const std::vector<prometheus::MetricFamily>& families() const { return families_; }

 private:
  void Family(std::string name, std::string help, prometheus::MetricType type);
  prometheus::ClientMetric Series(const Labels& labels) const;

  Labels common_;
  std::vector<prometheus::MetricFamily> families_;
};

}  // namespace spotd::server
