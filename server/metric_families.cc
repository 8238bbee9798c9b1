#include "server/metric_families.h"

#include <limits>

namespace spotd::server {

void MetricFamilies::Family(std::string name, std::string help, prometheus::MetricType type) {
  prometheus::MetricFamily family;
  family.name = std::move(name);
  family.help = std::move(help);
  family.type = type;
  families_.push_back(std::move(family));
}

void MetricFamilies::Gauge(std::string name, std::string help) {
  Family(std::move(name), std::move(help), prometheus::MetricType::Gauge);
}
void MetricFamilies::Counter(std::string name, std::string help) {
  Family(std::move(name), std::move(help), prometheus::MetricType::Counter);
}
void MetricFamilies::Histogram(std::string name, std::string help) {
  Family(std::move(name), std::move(help), prometheus::MetricType::Histogram);
}

prometheus::ClientMetric MetricFamilies::Series(const Labels& labels) const {
  prometheus::ClientMetric series;
  for (const Labels* group : {&common_, &labels}) {
    for (const auto& [name, value] : *group) series.label.push_back({name, value});
  }
  return series;
}

void MetricFamilies::Add(double value, const Labels& labels) {
  prometheus::ClientMetric series = Series(labels);
  if (families_.back().type == prometheus::MetricType::Counter) {
    series.counter.value = value;
  } else {
    series.gauge.value = value;
  }
  families_.back().metric.push_back(std::move(series));
}

void MetricFamilies::Add(const engine::Histogram& histogram, const Labels& labels) {
  prometheus::ClientMetric series = Series(labels);
  const auto bounds = histogram.upper_bounds();
  uint64_t count = 0;
  for (size_t i = 0; i <= bounds.size(); ++i) {
    count += histogram.bucket(i);
    const double bound = i < bounds.size() ? bounds[i] : std::numeric_limits<double>::infinity();
    series.histogram.bucket.push_back({count, bound});
  }
  series.histogram.sample_count = count;
  series.histogram.sample_sum = histogram.sum();
  families_.back().metric.push_back(std::move(series));
}

}  // namespace spotd::server
