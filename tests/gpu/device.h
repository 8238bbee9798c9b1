// A backend under test, with transfers in floats whatever its activation type. Tests run the same
// code on the reference and on the GPU and compare what comes back.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/core/float16.h"

namespace spotd::kernels {

class Device {
 public:
  explicit Device(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}
  Backend& operator*() { return *backend_; }
  Backend* operator->() { return backend_.get(); }

  Buffer Make(size_t bytes) {
    auto buffer = backend_->Allocate(bytes);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    return *std::move(buffer);
  }
  // Memory full of NaN: what an operation must write, or must not read.
  Buffer MakePoisoned(size_t bytes) { return Put(std::vector<uint8_t>(bytes, 0xff)); }
  Buffer MakePoisonedActs(size_t count) {
    return MakePoisoned(count * backend_->activation_bytes());
  }

  template <typename T>
  Buffer Put(const std::vector<T>& values) {
    Buffer buffer = Make(values.size() * sizeof(T));
    backend_->Upload(buffer.data(), values.data(), values.size() * sizeof(T));
    return buffer;
  }
  Buffer PutActs(const std::vector<float>& values) {
    if (backend_->activation_bytes() == sizeof(float)) return Put(values);
    std::vector<Bf16> rounded;
    for (const float value : values) rounded.push_back(ToBf16(value));
    return Put(rounded);
  }

  template <typename T>
  std::vector<T> Get(const Buffer& buffer) {
    std::vector<T> values(buffer.bytes() / sizeof(T));
    backend_->Download(values.data(), buffer.data(), values.size() * sizeof(T));
    const absl::Status status = backend_->Synchronize();
    EXPECT_TRUE(status.ok()) << status;
    return values;
  }
  std::vector<float> GetActs(const Buffer& buffer) {
    if (backend_->activation_bytes() == sizeof(float)) return Get<float>(buffer);
    std::vector<float> values;
    for (const Bf16 value : Get<Bf16>(buffer)) values.push_back(ToFloat(value));
    return values;
  }

 private:
  std::unique_ptr<Backend> backend_;
};

// The two sides of a comparison, made once per process.
Device& Reference();
Device& Gpu();

// Normal values that bf16 holds exactly, so that both sides start from the same numbers.
inline std::vector<float> RandomActs(size_t count, uint32_t seed, float deviation = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = ToFloat(ToBf16(normal(random)));
  return values;
}

inline std::vector<float> RandomFloats(size_t count, uint32_t seed, float mean = 0.0f,
                                       float deviation = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// ||actual - expected|| / ||expected||; infinite when anything is not finite or the sizes differ.
inline double RelativeError(const std::vector<float>& actual, const std::vector<float>& expected) {
  if (actual.size() != expected.size()) return INFINITY;
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (!std::isfinite(actual[i])) return INFINITY;
    error += std::pow(double{actual[i]} - expected[i], 2);
    norm += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(error / std::max(norm, 1e-30));
}

inline double LargestError(const std::vector<float>& actual, const std::vector<float>& expected) {
  if (actual.size() != expected.size()) return INFINITY;
  double largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] == expected[i]) continue;  // equal infinities too
    const double error = std::abs(double{actual[i]} - expected[i]);
    if (!(error <= largest)) largest = std::isnan(error) ? INFINITY : error;
  }
  return largest;
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline constexpr double kBf16Error = 4e-3;  // of one product rounded to bf16

}  // namespace spotd::kernels
