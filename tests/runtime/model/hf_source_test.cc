// Checkpoints in Hugging Face directories: what they say, and what happens when they are not what
// they claim.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "nlohmann/json.hpp"
#include "runtime/model/model_source.h"
#include "tests/runtime/formats/temp_file.h"
#include "tests/runtime/model/model_harness.h"

namespace spotd::model {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A copy of a tiny checkpoint whose files can be changed.
class HfSourceTest : public ::testing::Test {
 protected:
  void SetUp() override { Copy("qwen2"); }

  void Copy(const std::string& name) {
    std::filesystem::copy(ModelPath(name), dir_.path(),
                          std::filesystem::copy_options::recursive |
                              std::filesystem::copy_options::overwrite_existing);
    config_ = json::parse(formats::ReadAll(dir_.path() + "/config.json"));
  }
  // Opens with `change` applied to config.json.
  template <typename Change>
  absl::StatusOr<std::unique_ptr<ModelSource>> OpenWith(Change change) {
    json config = config_;
    change(config);
    dir_.Write("config.json", config.dump());
    return OpenModel(dir_.path());
  }
  template <typename Change>
  std::string Refused(absl::StatusCode code, Change change) {
    const auto source = OpenWith(change);
    EXPECT_EQ(source.status().code(), code) << source.status();
    EXPECT_THAT(std::string(source.status().message()), HasSubstr(dir_.path()));
    return std::string(source.status().message());
  }

  formats::TempDir dir_;
  json config_;
};

TEST_F(HfSourceTest, ReadsConfig) {
  const auto source = OpenModel(ModelPath("qwen3"));
  ASSERT_TRUE(source.ok()) << source.status();
  const ModelConfig& config = (*source)->config();
  EXPECT_EQ(config.name, "qwen3");
  EXPECT_EQ(config.head_dim, 32);
  EXPECT_TRUE(config.qk_norm);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.rope.theta, 1e6);
  EXPECT_THAT(config.eos_tokens, ElementsAre(2, 0));
  EXPECT_FALSE((*source)->interleaved_qk_rows());
  EXPECT_EQ((*source)->Tensor("model.norm.weight")->type, DType::kF16);
  EXPECT_EQ((*source)->tokenizer_data().eos, 2);
  EXPECT_THAT((*source)->tokenizer_data().chat_template, HasSubstr("add_generation_prompt"));
}

TEST_F(HfSourceTest, ReadsTheOlderFormOfRopeScaling) {
  const auto yarn = OpenWith([](json& c) {
    c.erase("rope_parameters");
    c["rope_theta"] = 5e5;
    c["rope_scaling"] = {{"type", "yarn"},
                         {"factor", 4.0},
                         {"original_max_position_embeddings", 64},
                         {"attention_factor", nullptr}};
  });
  ASSERT_TRUE(yarn.ok()) << yarn.status();
  EXPECT_EQ((*yarn)->config().rope.theta, 5e5);
  EXPECT_EQ((*yarn)->config().rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ((*yarn)->config().context_length, 256);
  const auto plain = OpenWith([](json& c) {
    c.erase("rope_parameters");
    c["rope_scaling"] = nullptr;
  });
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ((*plain)->config().rope.theta, 10000.0);
}

// A name goes to clients in protobuf messages and into selector files, which hold UTF-8 only.
TEST_F(HfSourceTest, ANameThatIsNotUtf8IsShownWithoutTheBrokenBytes) {
  const std::string moved = dir_.path() + "/mod\xe9l";
  std::filesystem::copy(ModelPath("qwen2"), moved);
  const auto source = OpenModel(moved);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->config().name, "mod\xEF\xBF\xBDl");
}

TEST_F(HfSourceTest, SeparateChatTemplateWins) {
  dir_.Write("chat_template.jinja", "{{ 'hello' }}");
  const auto source = OpenModel(dir_.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->tokenizer_data().chat_template, "{{ 'hello' }}");
}

TEST_F(HfSourceTest, EndTokensFallBack) {
  std::filesystem::remove(dir_.path() + "/generation_config.json");
  EXPECT_THAT((*OpenModel(dir_.path()))->config().eos_tokens, ElementsAre(2));
  const auto source = OpenWith([](json& c) {
    c["eos_token_id"] = json::array({0, 2, 999, -1, "x"});
  });
  EXPECT_THAT((*source)->config().eos_tokens, ElementsAre(0, 2));
}

TEST_F(HfSourceTest, RefusesWhatItCannotCompute) {
  const auto code = absl::StatusCode::kUnimplemented;
  EXPECT_THAT(Refused(code, [](json& c) { c["model_type"] = "mixtral"; }), HasSubstr("mixtral"));
  EXPECT_THAT(Refused(code, [](json& c) { c["hidden_act"] = "gelu"; }), HasSubstr("gelu"));
  EXPECT_THAT(Refused(code, [](json& c) { c["mlp_bias"] = true; }), HasSubstr("mlp_bias"));
  EXPECT_THAT(Refused(code,
                      [](json& c) {
                        c["quantization_config"] = {{"bits", 4}};
                      }),
              HasSubstr("quantization_config"));
  EXPECT_THAT(Refused(code, [](json& c) { c["layer_types"][1] = "sliding_attention"; }),
              HasSubstr("sliding-window"));
  EXPECT_THAT(Refused(code,
                      [](json& c) {
                        c["use_sliding_window"] = true;
                        c["max_window_layers"] = 1;
                      }),
              HasSubstr("sliding-window"));
  EXPECT_THAT(Refused(code, [](json& c) { c["rope_parameters"]["rope_type"] = "longrope"; }),
              HasSubstr("longrope"));
  EXPECT_THAT(Refused(code, [](json& c) { c["partial_rotary_factor"] = 0.5; }),
              HasSubstr("part of a head"));
  EXPECT_TRUE(OpenWith([](json& c) {
                c["use_sliding_window"] = true;
                c["max_window_layers"] = 2;
              }).ok());
}

TEST_F(HfSourceTest, RefusesBadValues) {
  const auto missing = absl::StatusCode::kNotFound;
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                          "intermediate_size", "max_position_embeddings"}) {
    EXPECT_THAT(Refused(missing, [&](json& c) { c.erase(key); }), HasSubstr(key));
    Refused(absl::StatusCode::kInvalidArgument, [&](json& c) { c[key] = "many"; });
    Refused(absl::StatusCode::kDataLoss, [&](json& c) { c[key] = 0; });
    Refused(absl::StatusCode::kDataLoss, [&](json& c) { c[key] = -5; });
    Refused(absl::StatusCode::kDataLoss, [&](json& c) { c[key] = 1ll << 40; });
  }
  Refused(absl::StatusCode::kDataLoss, [](json& c) { c["rope_parameters"] = 3; });
  Refused(absl::StatusCode::kDataLoss, [](json& c) { c["rms_norm_eps"] = 0.0; });
  Refused(absl::StatusCode::kDataLoss, [](json& c) {
    c["rope_parameters"] = {{"rope_type", "linear"}, {"factor", -1e300}};
  });
  Refused(absl::StatusCode::kDataLoss, [](json& c) {
    c["rope_parameters"] = {{"rope_type", "yarn"}, {"factor", -1e300}};
  });
  // Numbers, but the angles or their magnitude would be none.
  for (const json& rope :
       {json{{"rope_type", "linear"}, {"factor", 1e-300}},
        json{{"rope_type", "yarn"}, {"factor", 1e300}},
        json{{"rope_type", "yarn"}, {"factor", 4}, {"attention_factor", 1e300}},
        json{{"rope_type", "yarn"}, {"factor", 4}, {"beta_fast", 1e300}},
        json{{"rope_type", "yarn"}, {"factor", 4}, {"mscale", 1}, {"mscale_all_dim", -7.213}},
        json{{"rope_type", "default"}, {"rope_theta", 1e300}}}) {
    EXPECT_THAT(Refused(absl::StatusCode::kDataLoss, [&](json& c) { c["rope_parameters"] = rope; }),
                HasSubstr("rotary"));
  }
  Refused(absl::StatusCode::kDataLoss, [](json& c) {
    c["rope_parameters"] = {
        {"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 1}};
  });
}

TEST_F(HfSourceTest, RefusesDamagedFiles) {
  const auto refused = [&] {
    const auto source = OpenModel(dir_.path());
    EXPECT_FALSE(source.ok());
    return std::string(source.status().message());
  };
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    const std::string whole = formats::ReadAll(dir_.path() + "/" + name);
    for (size_t size = 0; size < whole.size() - 1; size += whole.size() / 23 + 1) {
      dir_.Write(name, whole.substr(0, size));
      EXPECT_THAT(refused(), HasSubstr(name)) << size;
    }
    std::filesystem::remove(dir_.path() + "/" + name);
    EXPECT_THAT(refused(), HasSubstr(name));
    dir_.Write(name, whole);
  }
  EXPECT_TRUE(OpenModel(dir_.path()).ok());
}

TEST_F(HfSourceTest, RefusesTensorsItWouldIgnore) {
  Copy("qwen3");
  // Read as qwen2, the QK norms would be left out.
  EXPECT_THAT(Refused(absl::StatusCode::kUnimplemented, [](json& c) { c["model_type"] = "qwen2"; }),
              HasSubstr("k_norm.weight does not belong to the architecture qwen2"));
}

}  // namespace
}  // namespace spotd::model
