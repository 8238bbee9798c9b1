// Whole models on the GPU: the logits that `transformers` gives for tiny models of every family,
// and the CPU's answers on the real ones that SPOTD_TEST_MODEL and SPOTD_TEST_MODEL_QWEN name.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <span>
#include <string>
#include <vector>

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
constexpr size_t kAnswerTokens = 64;

struct Agreement {
  int64_t positions = 0;
  int64_t same_top = 0;
  int64_t near_ties = 0;  // the tops differ, by less than kNearTie on the CPU
  int texts = 0;
  int same_texts = 0;
  int texts_parted_at_near_ties = 0;  // not among the same
};

size_t Top(std::span<const float> logits) {
  return static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// What a model makes of a prompt: its logits at every position of it, and a greedy answer.
struct Answer {
  std::vector<float> logits;  // [prompt + answer - 1, vocab]
  std::vector<int32_t> tokens;
};

Answer Ask(ModelHarness& harness, const std::vector<int32_t>& prompt) {
  kvstore::BlockTable table = harness.store().NewTable();
  Answer answer{harness.Prefill(&table, prompt, {512}), {}};
  std::span<const float> last = std::span<const float>(answer.logits).last(harness.vocab());
  for (;;) {
    answer.tokens.push_back(static_cast<int32_t>(Top(last)));
    if (answer.tokens.size() == kAnswerTokens) return answer;
    const auto logits = harness.Decode(&table, {{answer.tokens.back()}}, Policy{});
    answer.logits.insert(answer.logits.end(), logits.begin(), logits.end());
    last = std::span<const float>(answer.logits).last(harness.vocab());
  }
}

// Logits of every position of prompt and answer: prompt by prefill, answer by decode.
std::vector<float> TeacherForced(ModelHarness& harness, const std::vector<int32_t>& prompt,
                                 const std::vector<int32_t>& answer) {
  kvstore::BlockTable table = harness.store().NewTable();
  std::vector<float> logits = harness.Prefill(&table, prompt, {512});
  const std::vector<float> rest =
      harness.Decode(&table, std::span(answer).first(answer.size() - 1), Policy{});
  logits.insert(logits.end(), rest.begin(), rest.end());
  return logits;
}

void CountTops(const std::vector<float>& gpu, const std::vector<float>& cpu, size_t vocab,
               Agreement* agreement) {
  ASSERT_EQ(gpu.size(), cpu.size());
  for (size_t row = 0; row < gpu.size() / vocab; ++row) {
    const auto exact = std::span<const float>(cpu).subspan(row * vocab, vocab);
    const size_t top = Top(std::span<const float>(gpu).subspan(row * vocab, vocab));
    const float margin = exact[Top(exact)] - exact[top];
    ++agreement->positions;
    agreement->same_top += margin == 0 ? 1 : 0;
    agreement->near_ties += margin > 0 && margin < kNearTie ? 1 : 0;
  }
}

void CountTexts(const std::vector<int32_t>& gpu, const Answer& cpu, size_t prompt, size_t vocab,
                Agreement* agreement) {
  ++agreement->texts;
  const size_t parted = static_cast<size_t>(
      std::mismatch(gpu.begin(), gpu.end(), cpu.tokens.begin()).first - gpu.begin());
  if (parted == gpu.size()) {
    ++agreement->same_texts;
    return;
  }
  const auto exact =
      std::span<const float>(cpu.logits).subspan((prompt - 1 + parted) * vocab, vocab);
  const float margin = exact[Top(exact)] - exact[static_cast<size_t>(gpu[parted])];
  agreement->texts_parted_at_near_ties += margin < kNearTie ? 1 : 0;
  std::printf("text %d parts from the CPU's at token %zu, where the CPU's margin is %.3f\n",
              agreement->texts, parted, margin);
}

// The GPU against the CPU in full precision, on the golden's prompts and the CPU's own greedy
// answers of 64 tokens.
void CompareReal(const char* variable, const char* golden_name) {
  const char* path = std::getenv(variable);
  if (path == nullptr) GTEST_SKIP() << variable << " does not name a model file";
  HarnessOptions options;
  options.threads = 0;
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
    const Answer exact = Ask(cpu, prompt);
    CountTexts(Ask(gpu, prompt).tokens, exact, prompt.size(), gpu.vocab(), &agreement);
    CountTops(TeacherForced(gpu, prompt, exact.tokens), exact.logits, gpu.vocab(), &agreement);
  }
  const auto positions = static_cast<double>(agreement.positions);
  const double share = static_cast<double>(agreement.same_top) / positions;
  const double aside = static_cast<double>(agreement.near_ties) / positions;
  std::cout << agreement.same_texts << " of " << agreement.texts << " greedy texts are the CPU's, "
            << agreement.texts_parted_at_near_ties
            << " more part from it at a near-tie; top-1 agrees at " << share << " of "
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
