// Comparing next-token distributions, given as logits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace spotd::eval {

// A reference distribution that others are compared with.
class Reference {
 public:
  // `logits` must outlive the reference.
  explicit Reference(std::span<const float> logits);

  struct Comparison {
    double kl = 0;          // KL(reference || other), nats
    bool same_top = false;  // the same most likely token; ties go to the lower id
    double nll = 0;         // -log of the other's probability of `token`
  };
  Comparison Compare(std::span<const float> other, int32_t token) const;
  double Nll(int32_t token) const;

 private:
  std::span<const float> logits_;
  double log_sum_;
  size_t top_;
  std::vector<float> probabilities_;
};

}  // namespace spotd::eval
