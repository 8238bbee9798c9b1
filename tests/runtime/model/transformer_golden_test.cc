// The forward pass against the logits that `transformers` gives: every family, both file formats,
// every host backend, and the CPU backend in fp32.

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <string>
#include <tuple>

#include "runtime/model/transformer.h"
#include "tests/runtime/model/model_harness.h"
#include "tests/runtime/model/unpacked_source.h"

namespace spotd::model {
namespace {

struct Case {
  std::string model;   // below tests/data/models
  std::string golden;  // likewise
};

class TransformerGoldenTest : public ::testing::TestWithParam<std::tuple<const char*, Case>> {
 protected:
  void SetUp() override {
    HarnessOptions options;
    options.backend = in_fp32() ? "cpu" : std::get<0>(GetParam());
    if (in_fp32()) {
      options.wrap_source = [](auto inner) {
        return std::make_unique<UnpackedSource>(std::move(inner));
      };
    }
    options.limits.max_batch = 4;
    options.limits.max_prefill_chunk = 64;
    harness_ = std::make_unique<ModelHarness>(ModelPath(std::get<1>(GetParam()).model), options);
    ASSERT_TRUE(harness_->ok()) << harness_->status();
    golden_ = ReadGolden(ModelPath(std::get<1>(GetParam()).golden));
  }

  void Compare(const std::vector<float>& logits, const char* how) {
    const double exact = RelativeError(logits, golden_.logits);
    const double rounded = RelativeError(logits, golden_.logits_bf16kv);
    std::cout << how << ": relative error " << exact << " against fp32, " << rounded
              << " against fp32 with keys and values in bf16\n";
    EXPECT_LT(exact, ExactBound());
    // Now and then fp32 rounding tips a key over to the neighbouring bf16.
    EXPECT_LT(rounded, std::max(5e-5, ExactBound() - 1e-3));
  }

  // The file's weights unpacked to fp32: arithmetic in fp32 throughout.
  static bool in_fp32() { return std::get<0>(GetParam()) == std::string("cpu_fp32"); }

  // What the CPU backend trades for speed where the file's weights are not fp32: activations
  // rounded to 8 bits where they meet quantised weights; queries and attention weights in bf16 in
  // prefill.
  static double ExactBound() {
    if (std::get<0>(GetParam()) != std::string("cpu")) return 1e-3;
    return std::get<1>(GetParam()).model.find("Q8_0") != std::string::npos ? 1.5e-2 : 2e-3;
  }

  std::unique_ptr<ModelHarness> harness_;
  Golden golden_;
};

TEST_P(TransformerGoldenTest, PrefillAtOnce) {
  kvstore::BlockTable table = harness_->store().NewTable();
  Compare(harness_->Prefill(&table, golden_.tokens, {64}), "one chunk");
}

TEST_P(TransformerGoldenTest, PrefillInOddChunks) {
  kvstore::BlockTable table = harness_->store().NewTable();
  Compare(harness_->Prefill(&table, golden_.tokens, {1, 3, 17, 7}), "odd chunks");
}

TEST_P(TransformerGoldenTest, PrefillForTheLastLogitsOnly) {
  // What a server does: earlier chunks ask for nothing, the last one for one row.
  kvstore::BlockTable table = harness_->store().NewTable();
  const std::span<const int32_t> tokens = golden_.tokens;
  std::vector<float> logits(harness_->vocab());
  ASSERT_TRUE(harness_->store().Reserve(&table, 25).ok());
  ASSERT_TRUE(harness_->transformer().Prefill({tokens.first(25), &table}, {}).ok());
  harness_->store().Commit(&table, 25);
  ASSERT_TRUE(harness_->store().Reserve(&table, 15).ok());
  ASSERT_TRUE(harness_->transformer().Prefill({tokens.subspan(25), &table}, logits).ok());
  for (auto* golden : {&golden_.logits, &golden_.logits_bf16kv}) {
    golden->erase(golden->begin(), golden->end() - std::ssize(logits));
  }
  Compare(logits, "last logits");
}

TEST_P(TransformerGoldenTest, DecodeOneByOne) {
  kvstore::BlockTable table = harness_->store().NewTable();
  Compare(harness_->Decode(&table, golden_.tokens, Policy{}), "decode");
}

TEST_P(TransformerGoldenTest, DecodeAfterPrefill) {
  kvstore::BlockTable table = harness_->store().NewTable();
  const std::span<const int32_t> tokens = golden_.tokens;
  std::vector<float> logits = harness_->Prefill(&table, tokens.first(21), {64});
  const std::vector<float> rest = harness_->Decode(&table, tokens.subspan(21), Policy{});
  logits.insert(logits.end(), rest.begin(), rest.end());
  Compare(logits, "prefill, then decode");
}

INSTANTIATE_TEST_SUITE_P(
    Models, TransformerGoldenTest,
    ::testing::Combine(
        ::testing::Values("ref", "cpu", "cpu_fp32"),
        ::testing::Values(Case{"llama3", "llama3/golden.safetensors"},
                          Case{"llama_linear", "llama_linear/golden.safetensors"},
                          Case{"llama_yarn", "llama_yarn/golden.safetensors"},
                          Case{"qwen2", "qwen2/golden.safetensors"},
                          Case{"qwen3", "qwen3/golden.safetensors"},
                          Case{"llama3.F32.gguf", "llama3/golden.safetensors"},
                          Case{"llama_linear.Q8_0.gguf", "llama_linear.Q8_0.golden.safetensors"},
                          Case{"llama_yarn.F16.gguf", "llama_yarn/golden.safetensors"},
                          Case{"qwen2.F16.gguf", "qwen2/golden.safetensors"},
                          Case{"qwen3.BF16.gguf", "qwen3/golden.safetensors"})),
    [](const auto& test) {
      std::string name = std::string(std::get<0>(test.param)) + "_" + std::get<1>(test.param).model;
      for (char& c : name) {
        if (!isalnum(static_cast<unsigned char>(c))) c = '_';
      }
      return name;
    });

}  // namespace
}  // namespace spotd::model
