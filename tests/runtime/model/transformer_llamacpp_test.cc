// Real models against llama.cpp: what tests/data/make_llamacpp_goldens.py recorded.
//
// Two comparisons, because both programs round activations to 8 bits where they meet quantised
// weights, each in its own way, and that noise alone moves the top token at 2-3% of all positions
// (llama.cpp against itself, see the goldens):
//  - Exact: all weights unpacked, so that neither side rounds. The top token agrees at 99% of all
//  positions.
//  - Quantised: the file as it is. Where llama.cpp's own answer does not hang on its rounding (a
//  margin of half a logit),
//    the top token agrees at 99%.
// Text is teacher-forced: prompt and llama.cpp's greedy continuation. A greedy text is the same
// when every position of the continuation agrees.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

#include "nlohmann/json.hpp"
#include "runtime/model/transformer.h"
#include "tests/runtime/model/model_harness.h"
#include "tests/runtime/model/unpacked_source.h"

namespace spotd::model {
namespace {

constexpr double kClearMargin = 0.5;  // logits

struct RealModel {
  const char* name;
  const char* variable;  // environment variable that names the file
  const char* golden;    // below tests/data/llamacpp
};

class Tally {
 public:
  void Count(bool agrees) {
    ++positions_;
    agreeing_ += agrees ? 1 : 0;
  }
  double share() const { return static_cast<double>(agreeing_) / static_cast<double>(positions_); }
  int64_t positions() const { return positions_; }

 private:
  int64_t positions_ = 0;
  int64_t agreeing_ = 0;
};

std::ostream& operator<<(std::ostream& out, const Tally& tally) {
  return out << tally.share() << " of " << tally.positions() << " positions";
}

class TransformerLlamaCppTest : public ::testing::TestWithParam<RealModel> {
 protected:
  // `prefix`: "" or "exact_", of the goldens' members.
  void Compare(bool unpack, const std::string& prefix) {
    const char* path = std::getenv(GetParam().variable);
    if (path == nullptr) GTEST_SKIP() << GetParam().variable << " does not name a model file";
    HarnessOptions options;
    options.backend = "cpu";
    options.limits.max_batch = 64;
    options.limits.max_prefill_chunk = 256;
    options.limits.max_context = 2048;
    if (unpack) {
      options.wrap_source = [](auto inner) {
        return std::make_unique<UnpackedSource>(std::move(inner));
      };
    }
    harness_ = std::make_unique<ModelHarness>(path, options);
    ASSERT_TRUE(harness_->ok()) << harness_->status();
    std::ifstream file(std::string(SPOTD_SOURCE_DIR) + "/tests/data/llamacpp/" + GetParam().golden);
    const nlohmann::json goldens = nlohmann::json::parse(file, nullptr, false);
    ASSERT_TRUE(goldens.is_object());
    ASSERT_GE(goldens["cases"].size(), 10u);
    for (const nlohmann::json& golden : goldens["cases"]) RunCase(golden, prefix);
    std::cout << same_texts_ << " of " << goldens["cases"].size()
              << " greedy texts are the same\ntop-1 agreement: " << all_ << "; " << clear_
              << " with a margin of " << kClearMargin << "; " << decoded_ << " in decode\n"
              << "against the exact answer: " << ours_exact_ << " here, " << theirs_exact_
              << " in llama.cpp\n";
  }

  void RunCase(const nlohmann::json& golden, const std::string& prefix) {
    const auto prompt = golden["tokens"].get<std::vector<int32_t>>();
    const auto continuation = golden["continuation"].get<std::vector<int32_t>>();
    const auto top = golden[prefix + "top1"].get<std::vector<int32_t>>();
    const auto margin = golden[prefix + "margin"].get<std::vector<double>>();
    const auto exact = golden["exact_top1"].get<std::vector<int32_t>>();
    kvstore::BlockTable table = harness_->store().NewTable();
    bool same = true;
    const auto count = [&](std::span<const float> logits, size_t position) {
      const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
      const bool agrees = best == top[position];
      all_.Count(agrees);
      if (margin[position] >= kClearMargin) clear_.Count(agrees);
      if (position >= prompt.size()) decoded_.Count(agrees);
      ours_exact_.Count(best == exact[position]);
      theirs_exact_.Count(top[position] == exact[position]);
      same &= agrees || position + 1 < prompt.size();
    };
    size_t position = 0;
    const auto count_rows = [&](const std::vector<float>& logits) {
      for (size_t row = 0; row < logits.size() / harness_->vocab(); ++row) {
        count(std::span(logits).subspan(row * harness_->vocab(), harness_->vocab()), position++);
      }
    };
    for (size_t done = 0; done < prompt.size(); done += 256) {
      const size_t size = std::min<size_t>(256, prompt.size() - done);
      count_rows(harness_->Prefill(&table, std::span(prompt).subspan(done, size), {size}));
    }
    for (size_t i = 0; i + 1 < continuation.size(); ++i) {
      count_rows(harness_->Decode(&table, std::span(continuation).subspan(i, 1), Policy{}));
    }
    ASSERT_EQ(position, top.size());
    same_texts_ += same ? 1 : 0;
  }

  std::unique_ptr<ModelHarness> harness_;
  Tally all_;
  Tally clear_;
  Tally decoded_;       // positions of decode steps
  Tally ours_exact_;    // spotd against llama.cpp's exact answer
  Tally theirs_exact_;  // the llama.cpp that is compared with, against the same
  int same_texts_ = 0;
};

TEST_P(TransformerLlamaCppTest, Exact) {
  Compare(/*unpack=*/true, "exact_");
  if (all_.positions() == 0) return;
  EXPECT_GE(all_.share(), 0.99);
}

TEST_P(TransformerLlamaCppTest, Quantised) {
  Compare(/*unpack=*/false, "");
  if (all_.positions() == 0) return;
  EXPECT_GE(clear_.share(), 0.99);
  EXPECT_GE(all_.share(), 0.95);
  EXPECT_GE(ours_exact_.share(), theirs_exact_.share() - 0.005);
}

INSTANTIATE_TEST_SUITE_P(Models, TransformerLlamaCppTest,
                         ::testing::Values(RealModel{"SmolLM2", "SPOTD_TEST_MODEL", "smollm2.json"},
                                           RealModel{"QwenCoder", "SPOTD_TEST_MODEL_QWEN",
                                                     "qwen2.5-coder.json"}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace spotd::model
