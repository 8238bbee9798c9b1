#include "tests/gpu/device.h"

namespace spotd::kernels {
namespace {

struct Sampled {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
};

struct SampleCase {
  int32_t vocab = 0;
  std::vector<float> logits;
  std::vector<SamplingParams> params;
  std::vector<TokenAdjustment> adjustments;
  std::vector<int32_t> adjustment_start;
};

Sampled RunSample(Device& device, const SampleCase& c) {
  Buffer logits = device.Put(c.logits);
  Buffer params = device.Put(c.params);
  Buffer adjustments = device.Put(c.adjustments);
  Buffer starts = device.Put(c.adjustment_start);
  Buffer tokens = device.MakePoisoned(c.params.size() * 4);
  Buffer logprobs = device.MakePoisoned(c.params.size() * 4);
  SampleArgs args = {};
  args.logits = logits.as<float>();
  args.rows = static_cast<int32_t>(c.params.size());
  args.vocab = c.vocab;
  args.params = params.as<SamplingParams>();
  args.adjustments = c.adjustments.empty() ? nullptr : adjustments.as<TokenAdjustment>();
  args.adjustment_start = starts.as<int32_t>();
  args.tokens = tokens.as<int32_t>();
  args.logprobs = logprobs.as<float>();
  device->Sample(args);
  return {device.Get<int32_t>(tokens), device.Get<float>(logprobs)};
}

SamplingParams Params(float temperature, float top_p, float min_p, int32_t top_k, uint64_t draw) {
  SamplingParams params = {};
  params.temperature = temperature;
  params.top_p = top_p;
  params.min_p = min_p;
  params.repetition_penalty = 1.3f;
  params.presence_penalty = 0.4f;
  params.frequency_penalty = 0.2f;
  params.top_k = top_k;
  params.seed = 1234567;
  params.draw = draw;
  return params;
}

SampleCase MakeCase(int32_t vocab, bool adjusted, uint32_t seed) {
  SampleCase c;
  c.vocab = vocab;
  c.adjustment_start = {0};
  std::mt19937 random(seed);
  for (const float temperature : {0.0f, 0.7f, 1.5f}) {
    for (const float top_p : {0.5f, 0.95f, 1.0f}) {
      for (const float min_p : {0.0f, 0.05f}) {
        for (const int32_t top_k : {0, 1, 40}) {
          c.params.push_back(Params(temperature, top_p, min_p, top_k, c.params.size()));
          const int32_t first = static_cast<int32_t>(random() % 3);
          for (int32_t i = 0; adjusted && i < 20 && first + i * 3 < vocab; ++i) {
            c.adjustments.push_back({first + i * 3, i % 3, i % 2, i == 7 ? 5.0f : 0.0f});
          }
          c.adjustment_start.push_back(static_cast<int32_t>(c.adjustments.size()));
        }
      }
    }
  }
  c.logits = RandomFloats(c.params.size() * static_cast<size_t>(vocab), seed + 1, 0.0f, 3.0f);
  return c;
}

TEST(SampleTest, TheReferencesTokens) {
  for (const int32_t vocab : {1, 5, 1000, 49152, 151936}) {
    for (const bool adjusted : {false, true}) {
      const SampleCase c = MakeCase(vocab, adjusted, 90);
      const Sampled expected = RunSample(Reference(), c);
      const Sampled actual = RunSample(Gpu(), c);
      int different = 0;
      for (size_t i = 0; i < c.params.size(); ++i) {
        if (actual.tokens[i] != expected.tokens[i]) {
          // Probabilities are rounded: a draw may fall on the other side of an edge.
          EXPECT_GT(c.params[i].temperature, 0.0f);
          ++different;
          continue;
        }
        EXPECT_NEAR(actual.logprobs[i], expected.logprobs[i], 2e-3);
      }
      EXPECT_LE(different, 1) << vocab;
    }
  }
}

TEST(SampleTest, TiesAndHoles) {
  SampleCase c;
  c.vocab = 3000;
  c.logits.assign(4 * 3000, 1.5f);                                         // row 0: all equal
  std::fill(c.logits.begin() + 3000, c.logits.begin() + 6000, -INFINITY);  // row 1: nothing finite
  for (size_t i = 6000; i < 9000; ++i)
    c.logits[i] = i % 5 == 0 ? NAN : float(i % 100);                 // row 2: NaN counts as -inf
  for (size_t i = 9000; i < 12000; ++i) c.logits[i] = float(i % 2);  // row 3: ties at the boundary
  c.params = {Params(1.0f, 0.3f, 0, 0, 1), Params(1.0f, 0.9f, 0, 10, 2),
              Params(0.5f, 0.8f, 0, 100, 3), Params(1.0f, 0.9f, 0, 700, 4)};
  c.adjustment_start = {0, 0, 0, 0, 0};
  EXPECT_EQ(RunSample(Gpu(), c).tokens, RunSample(Reference(), c).tokens);
}

// 4000 draws of one distribution against its probabilities.
TEST(SampleTest, DrawsFollowTheDistribution) {
  SampleCase c;
  c.vocab = 8;
  const std::vector<float> logits = {0, 1, 2, 0.5f, -1, 1.5f, -3, 0};
  std::vector<double> expected;
  double total = 0;
  for (const float logit : logits) total += std::exp(logit);
  for (const float logit : logits) expected.push_back(4000 * std::exp(logit) / total);
  c.adjustment_start = {0};
  for (uint64_t i = 0; i < 4000; ++i) {
    c.params.push_back(Params(1.0f, 1.0f, 0, 0, i));
    c.logits.insert(c.logits.end(), logits.begin(), logits.end());
    c.adjustment_start.push_back(0);
  }
  std::vector<double> seen(8);
  for (const int32_t token : RunSample(Gpu(), c).tokens) seen.at(static_cast<size_t>(token)) += 1;
  double chi_square = 0;
  for (size_t i = 0; i < 8; ++i) chi_square += std::pow(seen[i] - expected[i], 2) / expected[i];
  EXPECT_LT(chi_square, 24.3);  // 7 degrees of freedom, p = 0.001
}

}  // namespace
}  // namespace spotd::kernels
