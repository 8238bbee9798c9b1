#include "tools/spot_bench/operation_timer.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "kernels/core/float16.h"

namespace spotd::bench {
namespace {

constexpr int kRuns = 9;
constexpr double kRunSeconds = 5e-3;
constexpr int kCopies = 10;

}  // namespace

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "spot-bench: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

kernels::Buffer OperationTimer::PutActs(size_t count, float deviation) {
  if (backend_.activation_bytes() == sizeof(Bf16)) return PutHalves(count, deviation);
  std::vector<float> values(count);
  std::normal_distribution<float> normal(0, deviation);
  for (float& value : values) value = normal(random_);
  return Put(values);
}

kernels::Buffer OperationTimer::PutHalves(size_t count, float deviation) {
  std::vector<Bf16> values(count);
  std::normal_distribution<float> normal(0, deviation);
  for (Bf16& value : values) value = ToBf16(normal(random_));
  return Put(values);
}

void OperationTimer::Replicate(const kernels::Buffer& buffer, size_t seeded) {
  for (size_t done = seeded; done < buffer.bytes(); done *= 2) {
    backend_.Copy(buffer.as<char>() + done, buffer.data(), std::min(done, buffer.bytes() - done));
  }
}

double OperationTimer::Time(const std::function<void()>& issue) {
  const uint64_t key = ++key_;
  for (int warm = 0; warm < 3; ++warm) backend_.RunStep(key, issue);
  Require(backend_.Synchronize());
  const double once = Run(key, issue, 1);
  const int batch = std::max(1, static_cast<int>(kRunSeconds / once));
  std::vector<double> seconds;
  for (int i = 0; i < kRuns; ++i) seconds.push_back(Run(key, issue, batch) / batch);
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return seconds[kRuns / 2];
}

double OperationTimer::Run(uint64_t key, const std::function<void()>& issue, int times) {
  const auto start = Clock::now();
  for (int i = 0; i < times; ++i) backend_.RunStep(key, issue);
  Require(backend_.Synchronize());
  return SecondsSince(start);
}

double OperationTimer::CopyRate() {
  const size_t bytes = (on_device() ? size_t{1024} : size_t{256}) << 20;
  const kernels::Buffer from = Make(bytes);
  const kernels::Buffer to = Make(bytes);
  const kernels::Buffer seed = PutHalves(size_t{4} << 20, 1);
  backend_.Copy(from.data(), seed.data(), seed.bytes());
  Replicate(from, seed.bytes());
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    Require(backend_.Synchronize());
    const auto start = Clock::now();
    for (int j = 0; j < kCopies; ++j) backend_.Copy(to.data(), from.data(), bytes);
    Require(backend_.Synchronize());
    best = std::min(best, SecondsSince(start) / kCopies);
  }
  return 2.0 * static_cast<double>(bytes) / best;
}

}  // namespace spotd::bench
