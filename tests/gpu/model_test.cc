// Whole models on the GPU: the logits that `transformers` gives for tiny models of every family,
// and the CPU's answers on the real ones that SPOTD_TEST_MODEL and SPOTD_TEST_MODEL_QWEN name.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

// A copied build finds its data through the environment (model_harness.h uses this name).
inline const char* GpuTestSourceDir() {
  const char* copied = std::getenv("SPOTD_SOURCE_DIR");
  return copied != nullptr ? copied : SPOTD_BUILT_FROM;
}
#define SPOTD_SOURCE_DIR GpuTestSourceDir()

#include "kernels/cuda/cuda_backend.h"
#include "nlohmann/json.hpp"
#include "runtime/model/transformer.h"
#include "tests/runtime/model/model_harness.h"
#include "tests/runtime/model/unpacked_source.h"

namespace spotd::model {
namespace {

struct TinyModel {
  const char* model;
  const char* golden;
};

// bf16 activations and weights: the error of any bf16 implementation on random weights.
constexpr double kTinyError = 2e-2;

TEST(GpuModelTest, TinyGoldens) {
  for (const TinyModel& tiny :
       {TinyModel{"llama3", "llama3/golden.safetensors"},
        TinyModel{"llama_linear", "llama_linear/golden.safetensors"},
        TinyModel{"llama_yarn", "llama_yarn/golden.safetensors"},
        TinyModel{"qwen2", "qwen2/golden.safetensors"},
        TinyModel{"qwen3", "qwen3/golden.safetensors"},
        TinyModel{"llama_linear.Q8_0.gguf", "llama_linear.Q8_0.golden.safetensors"},
        TinyModel{"qwen3.BF16.gguf", "qwen3/golden.safetensors"}}) {
    HarnessOptions options;
    options.backend = "cuda";
    options.limits.max_batch = 4;
    options.limits.max_prefill_chunk = 64;
    ModelHarness harness(ModelPath(tiny.model), options);
    ASSERT_TRUE(harness.ok()) << harness.status();
    const Golden golden = ReadGolden(ModelPath(tiny.golden));
    for (const std::vector<size_t>& chunks : {std::vector<size_t>{64}, {1, 3, 17, 7}}) {
      kvstore::BlockTable table = harness.store().NewTable();
      EXPECT_LT(RelativeError(harness.Prefill(&table, golden.tokens, chunks), golden.logits),
                kTinyError)
          << tiny.model;
    }
    kvstore::BlockTable table = harness.store().NewTable();
    const double error =
        RelativeError(harness.Decode(&table, golden.tokens, Policy{}), golden.logits);
    std::printf("%s: relative error %.4f in decode\n", tiny.model, error);
    EXPECT_LT(error, kTinyError) << tiny.model;
  }
}

// The CPU's margin, in logits, under which two tokens are a near-tie: bf16 activations alone move
// a logit difference by as much (docs/performance-gpu.md).
constexpr float kNearTie = 0.1f;

struct Agreement {
  int64_t positions = 0;
  int64_t same_top = 0;
  int64_t near_ties = 0;  // the tops differ, by less than kNearTie on the CPU
  int texts = 0;
  int same_texts = 0;
};

// Logits of every position of prompt and continuation: prompt by prefill, continuation by decode.
std::vector<float> TeacherForced(ModelHarness& harness, const std::vector<int32_t>& prompt,
                                 const std::vector<int32_t>& continuation) {
  kvstore::BlockTable table = harness.store().NewTable();
  std::vector<float> logits = harness.Prefill(&table, prompt, {512});
  const std::vector<float> rest =
      harness.Decode(&table, std::span(continuation).first(continuation.size() - 1), Policy{});
  logits.insert(logits.end(), rest.begin(), rest.end());
  return logits;
}

void CountAgreement(const std::vector<float>& a, const std::vector<float>& b, size_t vocab,
                    size_t prompt, Agreement* agreement) {
  ASSERT_EQ(a.size(), b.size());
  bool same_text = true;
  for (size_t row = 0; row < a.size() / vocab; ++row) {
    const auto top = [&](const std::vector<float>& x) {
      const auto begin = x.begin() + static_cast<int64_t>(row * vocab);
      return std::max_element(begin, begin + static_cast<int64_t>(vocab)) - begin;
    };
    const bool same = top(a) == top(b);
    const float* cpu = &b[row * vocab];
    const bool near_tie = !same && cpu[top(b)] - cpu[top(a)] < kNearTie;
    ++agreement->positions;
    agreement->same_top += same ? 1 : 0;
    agreement->near_ties += near_tie ? 1 : 0;
    same_text &= same || row + 1 < prompt;
  }
  ++agreement->texts;
  agreement->same_texts += same_text ? 1 : 0;
}

// The GPU against the CPU in full precision, on ten prompts and their greedy continuations of 64
// tokens.
void CompareReal(const char* variable, const char* golden_name) {
  const char* path = std::getenv(variable);
  if (path == nullptr) GTEST_SKIP() << variable << " does not name a model file";
  HarnessOptions options;
  options.limits.max_batch = 4;
  options.limits.max_prefill_chunk = 512;
  options.limits.max_context = 2048;
  options.backend = "cuda";
  ModelHarness gpu(path, options);
  ASSERT_TRUE(gpu.ok()) << gpu.status();
  options.backend = "cpu";
  options.wrap_source = [](auto inner) {
    return std::make_unique<UnpackedSource>(std::move(inner));
  };
  ModelHarness cpu(path, options);
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  std::ifstream file(std::string(SPOTD_SOURCE_DIR) + "/tests/data/llamacpp/" + golden_name);
  const nlohmann::json goldens = nlohmann::json::parse(file, nullptr, false);
  ASSERT_TRUE(goldens.is_object());
  Agreement agreement;
  for (const nlohmann::json& golden : goldens["cases"]) {
    const auto prompt = golden["tokens"].get<std::vector<int32_t>>();
    const auto continuation = golden["continuation"].get<std::vector<int32_t>>();
    CountAgreement(TeacherForced(gpu, prompt, continuation),
                   TeacherForced(cpu, prompt, continuation), gpu.vocab(), prompt.size(),
                   &agreement);
  }
  const auto positions = static_cast<double>(agreement.positions);
  const double share = static_cast<double>(agreement.same_top) / positions;
  const double aside = static_cast<double>(agreement.near_ties) / positions;
  std::cout << agreement.same_texts << " of " << agreement.texts
            << " greedy texts are the CPU's; top-1 agrees at " << share << " of "
            << agreement.positions << " positions, at " << share + aside << " near-ties aside\n";
  EXPECT_GE(agreement.texts, 10);
  EXPECT_GE(share, 0.99);
  EXPECT_GE(share + aside, 0.995);
}

TEST(GpuModelTest, SmolLm2AnswersAsOnTheCpu) {
  CompareReal("SPOTD_TEST_MODEL", "smollm2.json");
}
TEST(GpuModelTest, QwenAnswersAsOnTheCpu) {
  CompareReal("SPOTD_TEST_MODEL_QWEN", "qwen2.5-coder.json");
}

}  // namespace
}  // namespace spotd::model

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const auto backend = spotd::kernels::CreateCudaBackend();
  if (!backend.ok()) {
    std::printf("skipped: %s\n", std::string(backend.status().message()).c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
