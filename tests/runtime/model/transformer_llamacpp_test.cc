// Real models against llama.cpp: the continuations that tests/data/make_llamacpp_goldens.py
// recorded.
//
// Where both programs compute in floating point they still round differently (KV in bf16 here, f16
// there), so a near-tie may split a greedy text. What must hold: every text is the same, or the top
// token agrees at 99% of all positions under teacher forcing.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "nlohmann/json.hpp"
#include "runtime/model/transformer.h"
#include "tests/runtime/model/model_harness.h"

namespace spotd::model {
namespace {

struct RealModel {
  const char* name;
  const char* variable;  // environment variable that names the file
  const char* golden;    // below tests/data/llamacpp
};

int32_t Top(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

class TransformerLlamaCppTest : public ::testing::TestWithParam<RealModel> {
 protected:
  void SetUp() override {
    const char* path = std::getenv(GetParam().variable);
    if (path == nullptr) GTEST_SKIP() << GetParam().variable << " does not name a model file";
    HarnessOptions options;
    options.backend = "cpu";
    options.limits.max_batch = 128;
    options.limits.max_prefill_chunk = 128;
    options.limits.max_context = 4096;
    options.kv_tokens = 4096;
    harness_ = std::make_unique<ModelHarness>(path, options);
    ASSERT_TRUE(harness_->ok()) << harness_->status();
    std::ifstream file(std::string(SPOTD_SOURCE_DIR) + "/tests/data/llamacpp/" + GetParam().golden);
    goldens_ = nlohmann::json::parse(file, nullptr, false);
    ASSERT_TRUE(goldens_.is_object());
  }

  // Prefills the prompt; counts positions whose top token is llama.cpp's. The last position's
  // logits go to `last`.
  void RunPrompt(const nlohmann::json& golden, kvstore::BlockTable* table,
                 std::vector<float>* last) {
    const auto tokens = golden["tokens"].get<std::vector<int32_t>>();
    const auto expected = golden["prompt_top1"].get<std::vector<int32_t>>();
    const std::span<const int32_t> all = tokens;
    for (size_t done = 0; done < tokens.size();) {
      const size_t size = std::min<size_t>(128, tokens.size() - done);
      const std::vector<float> logits = harness_->Prefill(table, all.subspan(done, size), {size});
      for (size_t i = 0; i < size; ++i) {
        const auto row = std::span(logits).subspan(i * harness_->vocab(), harness_->vocab());
        if (done + i < expected.size()) Count(Top(row) == expected[done + i]);
        if (i + 1 == size) last->assign(row.begin(), row.end());
      }
      done += size;
    }
  }

  // Feeds llama.cpp's continuation; true when greedy decoding would have produced it.
  bool RunContinuation(const nlohmann::json& golden, kvstore::BlockTable* table,
                       std::vector<float> logits) {
    bool same = true;
    const auto continuation = golden["continuation"].get<std::vector<int32_t>>();
    for (size_t i = 0; i < continuation.size(); ++i) {
      const bool agrees = Top(logits) == continuation[i];
      if (!agrees && same) {
        std::cout << "  splits at token " << i << ", where llama.cpp's best two logits are "
                  << golden["margin"][i] << " apart\n";
      }
      same &= agrees;
      Count(agrees);
      logits = harness_->Decode(table, std::span(continuation).subspan(i, 1), Policy{});
    }
    return same;
  }

  void Count(bool agrees) {
    ++positions_;
    agreeing_ += agrees ? 1 : 0;
  }

  std::unique_ptr<ModelHarness> harness_;
  nlohmann::json goldens_;
  int64_t positions_ = 0;
  int64_t agreeing_ = 0;
};

TEST_P(TransformerLlamaCppTest, GreedyTextAndTopTokens) {
  int same_texts = 0;
  const nlohmann::json& cases = goldens_["cases"];
  ASSERT_GE(cases.size(), 10u);
  for (const nlohmann::json& golden : cases) {
    kvstore::BlockTable table = harness_->store().NewTable();
    std::vector<float> logits;
    RunPrompt(golden, &table, &logits);
    same_texts += RunContinuation(golden, &table, logits) ? 1 : 0;
  }
  const double agreement = static_cast<double>(agreeing_) / static_cast<double>(positions_);
  std::cout << same_texts << " of " << cases.size()
            << " greedy texts are the same; top-1 agreement " << agreement << " over " << positions_
            << " positions\n";
  EXPECT_TRUE(same_texts == static_cast<int>(cases.size()) || agreement >= 0.99);
}

INSTANTIATE_TEST_SUITE_P(Models, TransformerLlamaCppTest,
                         ::testing::Values(RealModel{"SmolLM2", "SPOTD_TEST_MODEL", "smollm2.json"},
                                           RealModel{"QwenCoder", "SPOTD_TEST_MODEL_QWEN",
                                                     "qwen2.5-coder.json"}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace spotd::model
