// Dense operations, memory and sampling: every backend against `ref`.
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/conformance.h"

namespace spotd::kernels {
namespace {

class DenseConformance : public ::testing::TestWithParam<std::string> {
 protected:
  float tolerance() const { return rig_.bf16() ? 1e-2f : 1e-5f; }
  Rig rig_{GetParam()};
  Rig ref_{"ref"};
  std::mt19937 random_{41};
};

TEST_P(DenseConformance, MemoryHoldsWhatWasUploaded) {
  for (const size_t bytes : {1ul, 63ul, 4096ul, 5ul << 20}) {
    std::vector<uint8_t> data(bytes);
    for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<uint8_t>(i * 37);
    auto a = rig_->Allocate(bytes);
    auto b = rig_->Allocate(bytes);
    ASSERT_TRUE(a.ok() && b.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a->data()) % 64, 0u);
    rig_->Upload(a->data(), data.data(), bytes);
    rig_->Copy(b->data(), a->data(), bytes);
    EXPECT_EQ(rig_.Get(b->as<uint8_t>(), bytes), data);
    Buffer moved = *std::move(a);
    EXPECT_EQ(moved.bytes(), bytes);
    *b = std::move(moved);
    EXPECT_EQ(rig_.Get(b->as<uint8_t>(), bytes), data);
  }
}

TEST_P(DenseConformance, TooMuchMemoryIsRefused) {
  const auto buffer = rig_->Allocate(size_t{1} << 60);
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_P(DenseConformance, SaysWhatItIs) {
  EXPECT_EQ(rig_->name(), GetParam().substr(0, GetParam().find(':')));
  EXPECT_FALSE(rig_->description().empty());
}

TEST_P(DenseConformance, RmsNorm) {
  for (const int dim : {16, 30, 576, 1027}) {
    for (const int rows : {1, 5}) {
      const auto n = static_cast<size_t>(rows * dim);
      const std::vector<float> x = RandomFloats(n, 3, random_);
      const std::vector<float> w = RandomFloats(static_cast<size_t>(dim), 1, random_);
      std::vector<std::vector<float>> results;
      for (Rig* rig : {&rig_, &ref_}) {
        const RmsNormArgs args = {rig->Put(x), rig->Put(w), rows, dim, 1e-5f, rig->PoisonAct(n)};
        (*rig)->RmsNorm(args);
        results.push_back(rig->GetAct(args.out, n));
      }
      ExpectClose(results[0], results[1], tolerance(), "norm");
    }
  }
}

TEST_P(DenseConformance, RmsNormOfZerosIsZero) {
  const RmsNormArgs args = {rig_.Put(std::vector<float>(64, 0.0f)),
                            rig_.Put(std::vector<float>(64, 2.0f)),
                            1,
                            64,
                            1e-6f,
                            rig_.PoisonAct(64)};
  rig_->RmsNorm(args);
  EXPECT_EQ(rig_.GetAct(args.out, 64), std::vector<float>(64, 0.0f));
}

TEST_P(DenseConformance, SwiGlu) {
  for (const int dim : {16, 30, 1536}) {
    const auto n = static_cast<size_t>(3 * dim);
    std::vector<float> gate = RandomFloats(n, 5, random_);
    const std::vector<float> up = RandomFloats(n, 2, random_);
    gate[0] = 200.0f;  // where e^x and e^-x leave the range of float
    gate[1] = -200.0f;
    std::vector<std::vector<float>> results;
    for (Rig* rig : {&rig_, &ref_}) {
      void* const in_place = rig->PutAct(gate);
      rig->operator->()->SwiGlu({in_place, rig->PutAct(up), 3, dim, in_place});
      results.push_back(rig->GetAct(in_place, n));
    }
    ExpectClose(results[0], results[1], tolerance(), "swiglu");
  }
}

std::vector<float> RunLinear(Rig& rig, const std::vector<float>& w, const std::vector<float>& x,
                             int rows, int out_dim, int in_dim, const std::vector<float>& bias,
                             bool logits) {
  auto weight = rig->CreateWeight({"w", out_dim, in_dim, DType::kF32, w.data(), nullptr});
  EXPECT_TRUE(weight.ok()) << weight.status().ToString();
  const auto n = static_cast<size_t>(rows * out_dim);
  void* const y = logits ? rig.PoisonFloats(n) : rig.PoisonAct(n);
  LinearArgs args = {rig.PutAct(x), rows, in_dim, 1, {}};
  args.outputs[0] = {weight->get(), bias.empty() ? nullptr : rig.Put(bias), y, false};
  logits ? rig->Logits(args) : rig->Linear(args);
  return logits ? rig.Get(static_cast<float*>(y), n) : rig.GetAct(y, n);
}

TEST_P(DenseConformance, LinearAndLogits) {
  for (const int rows : {1, 3, 40}) {
    constexpr int kOut = 96, kIn = 64;
    const std::vector<float> w = RandomFloats(kOut * kIn, 0.1f, random_);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(rows * kIn), 1, random_);
    for (const bool with_bias : {false, true}) {
      const std::vector<float> bias =
          with_bias ? RandomFloats(kOut, 1, random_) : std::vector<float>();
      for (const bool logits : {false, true}) {
        ExpectClose(RunLinear(rig_, w, x, rows, kOut, kIn, bias, logits),
                    RunLinear(ref_, w, x, rows, kOut, kIn, bias, logits),
                    logits ? 1e-3f : tolerance(), "y");
      }
    }
  }
}

TEST_P(DenseConformance, LinearAccumulatesIntoTheResidualStream) {
  const std::vector<float> w = RandomFloats(64 * 64, 0.1f, random_);
  const std::vector<float> x = RandomFloats(64, 1, random_);
  const std::vector<float> residual = RandomFloats(64, 1, random_);
  std::vector<std::vector<float>> results;
  for (Rig* rig : {&rig_, &ref_}) {
    auto weight = (*rig)->CreateWeight({"w", 64, 64, DType::kF32, w.data(), nullptr});
    ASSERT_TRUE(weight.ok());
    float* const y = rig->Put(residual);
    LinearArgs args = {rig->PutAct(x), 1, 64, 1, {}};
    args.outputs[0] = {weight->get(), nullptr, y, true};
    (*rig)->Linear(args);
    results.push_back(rig->Get(y, 64));
  }
  ExpectClose(results[0], results[1], 1e-3f, "y");
}

TEST_P(DenseConformance, Embed) {
  const std::vector<float> table = RandomFloats(10 * 64, 1, random_);
  auto weight = rig_->CreateWeight({"t", 10, 64, DType::kF32, table.data(), nullptr});
  ASSERT_TRUE(weight.ok());
  float* const out = rig_.PoisonFloats(3 * 64);
  rig_->Embed({weight->get(), rig_.Put(std::vector<int32_t>{9, 0, 4}), 3, out});
  const std::vector<float> rows = rig_.Get(out, 3 * 64);
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_EQ(rows[i], table[9 * 64 + i]);
    EXPECT_EQ(rows[64 + i], table[i]);
    EXPECT_EQ(rows[128 + i], table[4 * 64 + i]);
  }
}

TEST_P(DenseConformance, WeightsOfTheWrongShapeAreRefusedByName) {
  const std::vector<float> data(64, 0.0f);
  for (const WeightSource& bad :
       {WeightSource{"layers.3.wq", 2, 31, DType::kQ8_0, data.data(), nullptr},
        WeightSource{"layers.3.wq", 0, 32, DType::kF32, data.data(), nullptr}}) {
    const auto weight = rig_->CreateWeight(bad);
    ASSERT_EQ(weight.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(weight.status().message().find("layers.3.wq"), std::string::npos);
  }
}

TEST_P(DenseConformance, StepsRunTheirOperations) {
  float* const out = rig_.PoisonFloats(64);
  const float* const x = rig_.Put(RandomFloats(64, 1, random_));
  const float* const w = rig_.Put(std::vector<float>(64, 1.0f));
  void* const act = rig_.PoisonAct(64);
  for (int repeat = 0; repeat < 3; ++repeat) {
    rig_->RunStep(7, [&] { rig_->RmsNorm({x, w, 1, 64, 1e-5f, act}); });
    ASSERT_TRUE(rig_->Synchronize().ok());
  }
  EXPECT_FALSE(std::isnan(rig_.GetAct(act, 64)[0]));
  EXPECT_TRUE(std::isnan(rig_.Get(out, 64)[0]));
}

INSTANTIATE_TEST_SUITE_P(, DenseConformance, ::testing::ValuesIn(BackendsUnderTest()));

// --- sampling ---

constexpr SamplingParams kPlain = {1.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, 0, 1, 0};

struct Sampled {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
};

Sampled RunSample(Rig& rig, const std::vector<float>& logits, int vocab,
                  const std::vector<SamplingParams>& params,
                  const std::vector<std::vector<TokenAdjustment>>& adjustments = {}) {
  const auto rows = params.size();
  std::vector<TokenAdjustment> flat;
  std::vector<int32_t> start = {0};
  for (size_t r = 0; r < rows; ++r) {
    if (!adjustments.empty()) {
      flat.insert(flat.end(), adjustments[r].begin(), adjustments[r].end());
    }
    start.push_back(static_cast<int32_t>(flat.size()));
  }
  SampleArgs args = {};
  args.logits = rig.Put(logits);
  args.rows = static_cast<int32_t>(rows);
  args.vocab = vocab;
  args.params = rig.Put(params);
  args.adjustments = flat.empty() ? nullptr : rig.Put(flat);
  args.adjustment_start = rig.Put(start);
  args.tokens = rig.Put(std::vector<int32_t>(rows, -1));
  args.logprobs = rig.PoisonFloats(rows);
  rig->Sample(args);
  return {rig.Get(args.tokens, rows), rig.Get(args.logprobs, rows)};
}

class SampleConformance : public DenseConformance {
 protected:
  void ExpectSame(const std::vector<float>& logits, int vocab,
                  const std::vector<SamplingParams>& params,
                  const std::vector<std::vector<TokenAdjustment>>& adjustments = {}) {
    const Sampled actual = RunSample(rig_, logits, vocab, params, adjustments);
    const Sampled expected = RunSample(ref_, logits, vocab, params, adjustments);
    EXPECT_EQ(actual.tokens, expected.tokens);
    ExpectClose(actual.logprobs, expected.logprobs, 1e-4f, "logprob");
  }
};

TEST_P(SampleConformance, EveryCombinationOfFilters) {
  constexpr int kVocab = 5003;
  for (const float temperature : {0.0f, 0.4f, 1.0f, 3.0f}) {
    std::vector<SamplingParams> params;
    for (const int top_k : {0, 1, 40, 6000}) {
      for (const float top_p : {1.0f, 0.9f, 0.01f, 0.9999f}) {
        for (const float min_p : {0.0f, 0.05f}) {
          SamplingParams p = kPlain;
          p.temperature = temperature;
          p.top_k = top_k;
          p.top_p = top_p;
          p.min_p = min_p;
          p.seed = params.size() * 77;
          p.draw = 3;
          params.push_back(p);
        }
      }
    }
    ExpectSame(RandomFloats(params.size() * kVocab, 3, random_), kVocab, params);
  }
}

TEST_P(SampleConformance, BiasAndPenalties) {
  constexpr int kVocab = 301;
  std::vector<SamplingParams> params;
  std::vector<std::vector<TokenAdjustment>> adjustments;
  for (int r = 0; r < 40; ++r) {
    SamplingParams p = kPlain;
    p.temperature = r % 2 == 0 ? 0.0f : 0.7f;
    p.repetition_penalty = 1.3f;
    p.presence_penalty = 0.5f;
    p.frequency_penalty = 0.25f;
    p.seed = static_cast<uint64_t>(r);
    params.push_back(p);
    adjustments.emplace_back();
    for (int t = r % 3; t < kVocab; t += 1 + r) {
      adjustments.back().push_back({t, t % 3, t % 5, t % 7 == 0 ? 4.0f : -1.0f});
    }
  }
  ExpectSame(RandomFloats(params.size() * kVocab, 3, random_), kVocab, params, adjustments);
}

TEST_P(SampleConformance, GreedyTakesTheLowestOfEqualLogits) {
  std::vector<float> logits(1000, 1.0f);
  logits[700] = logits[300] = 5.0f;
  SamplingParams greedy = kPlain;
  greedy.temperature = 0;
  EXPECT_EQ(RunSample(rig_, logits, 1000, {greedy}).tokens[0], 300);
}

TEST_P(SampleConformance, TiesAtTheEdgeOfTopKGoToTheLowerId) {
  std::vector<float> logits(64, -5.0f);
  logits[60] = 3.0f;
  for (const size_t t : {10u, 20u, 30u}) logits[t] = 2.0f;
  std::map<int32_t, int> seen;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SamplingParams p = kPlain;
    p.top_k = 3;
    p.temperature = 5;
    p.seed = seed;
    ++seen[RunSample(rig_, logits, 64, {p}).tokens[0]];
  }
  EXPECT_EQ(seen.size(), 3u);
  EXPECT_TRUE(seen.count(60) == 1 && seen.count(10) == 1 && seen.count(20) == 1);
}

TEST_P(SampleConformance, LogitsWithoutAFiniteValueStillGiveAToken) {
  for (const float value : {-INFINITY, static_cast<float>(NAN)}) {
    for (const float temperature : {0.0f, 1.0f}) {
      SamplingParams p = kPlain;
      p.temperature = temperature;
      EXPECT_EQ(RunSample(rig_, std::vector<float>(100, value), 100, {p}).tokens[0], 0);
    }
  }
}

TEST_P(SampleConformance, NanIsNeverChosen) {
  std::vector<float> logits(100, NAN);
  logits[57] = -3.0f;
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams p = kPlain;
    p.temperature = temperature;
    EXPECT_EQ(RunSample(rig_, logits, 100, {p}).tokens[0], 57);
  }
}

// Frequencies of 4000 draws follow softmax(logit / temperature): chi-square with 3 degrees of
// freedom.
TEST_P(SampleConformance, DrawsFollowTheDistribution) {
  const std::vector<float> row = {0.0f, 1.0f, 2.0f, 0.5f};
  constexpr int kDraws = 4000;
  std::vector<float> logits;
  std::vector<SamplingParams> params;
  for (int i = 0; i < kDraws; ++i) {
    logits.insert(logits.end(), row.begin(), row.end());
    SamplingParams p = kPlain;
    p.temperature = 1.5f;
    p.seed = 12345;
    p.draw = static_cast<uint64_t>(i);
    params.push_back(p);
  }
  std::vector<double> seen(4);
  for (const int32_t token : RunSample(rig_, logits, 4, params).tokens) {
    ++seen[static_cast<size_t>(token)];
  }
  double sum = 0, chi = 0;
  for (const float l : row) sum += std::exp(l / 1.5);
  for (size_t i = 0; i < 4; ++i) {
    const double expected = kDraws * std::exp(row[i] / 1.5) / sum;
    chi += (seen[i] - expected) * (seen[i] - expected) / expected;
  }
  EXPECT_LT(chi, 16.3);  // one in a thousand
}

INSTANTIATE_TEST_SUITE_P(, SampleConformance, ::testing::ValuesIn(BackendsUnderTest()));

TEST(CreateBackend, NamesTheChoicesForAnUnknownOne) {
  const auto backend = CreateBackend({"tpu", 0});
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(backend.status().message().find("tpu"), std::string::npos);
  EXPECT_EQ(CreateBackend({"cpu", -1}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CreateBackend, AutoFindsOne) {
  EXPECT_TRUE(CreateBackend({"auto", 0}).ok());
}

}  // namespace
}  // namespace spotd::kernels
