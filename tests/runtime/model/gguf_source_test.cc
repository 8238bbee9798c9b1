// Checkpoints in GGUF: what they say, and what happens when they are not what they claim.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "kernels/backend.h"
#include "runtime/model/model_source.h"
#include "runtime/model/transformer.h"
#include "tests/runtime/formats/temp_file.h"
#include "tests/runtime/model/model_harness.h"

namespace spotd::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GgufSourceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    original_ = formats::ReadAll(ModelPath("qwen2.F16.gguf"));
    ASSERT_GT(original_.size(), 10000u);
    bytes_ = original_;
  }

  // Overwrites the 32-bit value of a metadata key.
  template <typename T>
  void SetNumber(const std::string& key, T value) {
    static_assert(sizeof(T) == 4);
    const size_t at = bytes_.find(key);
    ASSERT_NE(at, std::string::npos) << key;
    std::memcpy(&bytes_[at + key.size() + 4], &value, sizeof value);
  }
  // Replaces text by other text of the same length, once or everywhere.
  void Replace(const std::string& from, const std::string& to, bool all = false) {
    ASSERT_EQ(from.size(), to.size());
    size_t at = bytes_.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    for (; at != std::string::npos; at = all ? bytes_.find(from, at + 1) : std::string::npos) {
      bytes_.replace(at, from.size(), to);
    }
  }
  // Opens and packs the changed file; returns the first error's message and goes back to the
  // original.
  std::string Refused(absl::StatusCode code) {
    const absl::Status status = Load(bytes_);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("changed.gguf"));
    bytes_ = original_;
    return std::string(status.message());
  }
  absl::Status Load(const std::string& bytes) {
    const auto source = OpenModel(dir_.Write("changed.gguf", bytes));
    if (!source.ok()) return source.status();
    auto backend = kernels::CreateBackend({"ref", 1});
    Limits limits;
    limits.max_batch = 1;
    limits.max_prefill_chunk = 1;
    limits.max_context = 1;
    return Transformer::Load(backend->get(), **source, nullptr, limits).status();
  }

  formats::TempDir dir_;
  std::string original_;
  std::string bytes_;
};

TEST_F(GgufSourceTest, ReadsConfig) {
  const auto source = OpenModel(ModelPath("qwen2.F16.gguf"));
  ASSERT_TRUE(source.ok()) << source.status();
  const ModelConfig& config = (*source)->config();
  EXPECT_EQ(config.name, "qwen2");
  EXPECT_EQ(config.architecture, "qwen2");
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.q_heads, 4);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.vocab, 300);
  EXPECT_EQ(config.context_length, 128);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.qk_norm);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_THAT(config.eos_tokens, ElementsAre(2, 0));
  EXPECT_FALSE((*source)->interleaved_qk_rows());
  EXPECT_TRUE((*source)->HasTensor("model.layers.1.self_attn.q_proj.bias"));
  EXPECT_EQ((*source)->Tensor("lm_head.weight").status().code(), absl::StatusCode::kNotFound);
}

// What a file leaves out about scaled positions means what it means to llama.cpp.
TEST_F(GgufSourceTest, AFactorAloneIsLinearScaling) {
  bytes_ = formats::ReadAll(ModelPath("llama_linear.Q8_0.gguf"));
  const auto stated = OpenModel(dir_.Write("stated.gguf", bytes_));
  ASSERT_TRUE(stated.ok()) << stated.status();
  ASSERT_NO_FATAL_FAILURE(Replace("rope.scaling.type", "rope.scaling.tipe"));
  const auto source = OpenModel(dir_.Write("changed.gguf", bytes_));
  ASSERT_TRUE(source.ok()) << source.status();
  const RopeConfig& rope = (*source)->config().rope;
  EXPECT_EQ(rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(rope.factor, (*stated)->config().rope.factor);
  ASSERT_NO_FATAL_FAILURE(SetNumber("rope.scaling.factor", 0.0f));
  const auto unscaled = OpenModel(dir_.Write("changed.gguf", bytes_));
  ASSERT_TRUE(unscaled.ok()) << unscaled.status();
  EXPECT_EQ((*unscaled)->config().rope.scaling, RopeScaling::kNone);
}

TEST_F(GgufSourceTest, YarnWithoutItsContextExtendsTheModels) {
  bytes_ = formats::ReadAll(ModelPath("llama_yarn.F16.gguf"));
  ASSERT_NO_FATAL_FAILURE(
      Replace("rope.scaling.original_context_length", "rope.scaling.original_context_lenght"));
  ASSERT_NO_FATAL_FAILURE(SetNumber("llama.context_length", int32_t{48}));
  const auto source = OpenModel(dir_.Write("changed.gguf", bytes_));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->config().rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ((*source)->config().rope.original_context, 48);
}

TEST_F(GgufSourceTest, ANameThatIsNotUtf8IsShownWithoutTheBrokenBytes) {
  const auto source = OpenModel(dir_.Write("mod\xe9l.Q4_1.gguf", original_));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->config().name, "mod\xEF\xBF\xBDl");
}

TEST_F(GgufSourceTest, ReadsTokenizer) {
  const auto source = OpenModel(ModelPath("qwen2.F16.gguf"));
  ASSERT_TRUE(source.ok()) << source.status();
  const text::TokenizerData& data = (*source)->tokenizer_data();
  EXPECT_EQ(data.vocab.size(), 300u);
  EXPECT_EQ(data.merges.size(), 300u - 256 - 3);
  ASSERT_EQ(data.added_tokens.size(), 3u);
  EXPECT_EQ(data.added_tokens[2].content, "<|im_end|>");
  EXPECT_TRUE(data.added_tokens[2].special);
  EXPECT_EQ(data.vocab[2], "");
  EXPECT_EQ(data.eos, 2);
  EXPECT_THAT(data.chat_template, HasSubstr("add_generation_prompt"));
}

TEST_F(GgufSourceTest, UnchangedFileLoads) {
  EXPECT_TRUE(Load(bytes_).ok());
}

TEST_F(GgufSourceTest, RefusesOtherArchitectures) {
  Replace("qwen2", "gemma");
  EXPECT_THAT(Refused(absl::StatusCode::kUnimplemented), HasSubstr("\"gemma\""));
}

TEST_F(GgufSourceTest, RefusesImpossibleGeometry) {
  const auto loss = absl::StatusCode::kDataLoss;
  const auto with = [&](const std::string& key, int32_t value) {
    SetNumber("qwen2." + key, value);
    return Refused(loss);
  };
  for (const int32_t bad : {0, 1 << 30}) {
    EXPECT_THAT(with("block_count", bad), HasSubstr("layer count"));
    EXPECT_THAT(with("embedding_length", bad), HasSubstr("hidden size"));
    EXPECT_THAT(with("feed_forward_length", bad), HasSubstr("feed-forward size"));
    EXPECT_THAT(with("attention.head_count", bad), HasSubstr("query head count"));
    EXPECT_THAT(with("attention.head_count_kv", bad), HasSubstr("key/value head count"));
    EXPECT_THAT(with("context_length", bad), HasSubstr("context length"));
    EXPECT_THAT(with("rope.dimension_count", bad), HasSubstr("rotary"));
  }
  EXPECT_THAT(with("block_count", -1), HasSubstr("qwen2.block_count is 4294967295"));
  EXPECT_THAT(with("attention.head_count_kv", 3), HasSubstr("cannot be shared"));
  SetNumber("qwen2.attention.layer_norm_rms_epsilon", -1.0f);
  EXPECT_THAT(Refused(loss), HasSubstr("epsilon"));
  SetNumber("qwen2.rope.freq_base", 0.0f);
  EXPECT_THAT(Refused(loss), HasSubstr("theta"));
}

TEST_F(GgufSourceTest, RefusesTensorsThatDoNotFit) {
  SetNumber("qwen2.feed_forward_length", 128);
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss), HasSubstr("has shape [96, 64], not [128, 64]"));
  SetNumber("qwen2.block_count", 3);
  EXPECT_THAT(Refused(absl::StatusCode::kNotFound), HasSubstr("blk.2.attn_norm.weight"));
  SetNumber("qwen2.block_count", 1);
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss), HasSubstr("beyond the model's 1 layers"));
  Replace("blk.1.ffn_up.weight", "blk.1.ffn_xx.weight");
  EXPECT_THAT(Refused(absl::StatusCode::kUnimplemented), HasSubstr("blk.1.ffn_xx.weight"));
  Replace("token_embd.weight", "tokenxembd.weight");
  EXPECT_THAT(Refused(absl::StatusCode::kNotFound), HasSubstr("token_embd.weight"));
  Replace("blk.0.attn_q.bias", "blk.1.attn_q.bixs");
  Refused(absl::StatusCode::kUnimplemented);
}

TEST_F(GgufSourceTest, RefusesPartsOfModels) {
  // The key of the name, of equal length, becomes that of the type.
  Replace("general.name", "general.type");
  EXPECT_THAT(Refused(absl::StatusCode::kUnimplemented), HasSubstr("general.type is \"qwen2"));
}

TEST_F(GgufSourceTest, RefusesArithmeticItDoesNotDo) {
  // Keys of equal length take the place of one the loader can do without.
  Replace("qwen2.rope.freq_base", "qwen2.residual_scale");
  EXPECT_THAT(Refused(absl::StatusCode::kUnimplemented), HasSubstr("scaled residuals"));
}

TEST_F(GgufSourceTest, RefusesTokenizersItDoesNotKnow) {
  Replace("gpt2", "llam");
  EXPECT_THAT(Refused(absl::StatusCode::kUnimplemented), HasSubstr("byte-level BPE"));
  Replace("gpt-2", "gpt-x");
  EXPECT_THAT(Refused(absl::StatusCode::kUnimplemented), HasSubstr("gpt-x"));
  SetNumber("tokenizer.ggml.eos_token_id", 300);
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss), HasSubstr("outside the vocabulary"));
}

TEST_F(GgufSourceTest, RefusesWhatIsNoModel) {
  EXPECT_EQ(OpenModel(dir_.path() + "/none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenModel(dir_.path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenModel(dir_.Write("empty", "")).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(OpenModel(dir_.Write("text", "not a model at all, just text")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(GgufSourceTest, RefusesEveryTruncation) {
  for (size_t size = 1; size < original_.size(); size += size < 12000 ? 61 : 2311) {
    EXPECT_FALSE(Load(original_.substr(0, size)).ok()) << size;
  }
}

TEST_F(GgufSourceTest, SurvivesBitFlipsInTheHeader) {
  const size_t header = original_.find("blk.1.ffn_up.weight") + 100;
  std::mt19937 random(13);
  int refused = 0;
  for (int i = 0; i < 400; ++i) {
    std::string bytes = original_;
    bytes[random() % header] ^= static_cast<char>(1u << (random() % 8));
    if (!Load(bytes).ok()) ++refused;
  }
  EXPECT_GT(refused, 50);
}

}  // namespace
}  // namespace spotd::model
