#include "runtime/model/selector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/model/model_source.h"
#include "runtime/model/tensor_convert.h"
#include "tests/runtime/formats/gguf_builder.h"
#include "tests/runtime/formats/temp_file.h"
#include "tests/runtime/model/model_harness.h"

namespace spotd::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Metadata = std::map<std::string, std::string>;

class SelectorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto source = OpenModel(ModelPath("qwen3"));
    ASSERT_TRUE(source.ok()) << source.status();
    config_ = (*source)->config();
    metadata_ = {{"format_version", "1"},
                 {"base_model", "qwen3"},
                 {"config_hash", config_.Fingerprint()},
                 {"heads", "2"},
                 {"dim", "32"},
                 {"rope_theta", "10000.0"},
                 {"block_size", "16"},
                 {"training_tokens", "1000"},
                 {"training_length", "128"},
                 {"calibration", "0.5"}};
    for (int layer = 0; layer < config_.layers; ++layer) {
      const std::string prefix = "layers." + std::to_string(layer) + ".selector.";
      shapes_[prefix + "q.weight"] = {64, 64};
      shapes_[prefix + "k.weight"] = {32, 64};
      shapes_[prefix + "w.weight"] = {2, 64};
      shapes_[prefix + "k_norm.weight"] = {32};
    }
  }

  std::string Write() {
    nlohmann::json header;
    header["__metadata__"] = metadata_;
    size_t end = 0;
    for (const auto& [name, shape] : shapes_) {
      size_t bytes = sizeof(float);
      for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
      header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {end, end + bytes}}};
      end += bytes;
    }
    formats::Bytes bytes;
    bytes.String(header.dump());
    for (size_t i = 0; i < end / sizeof(float); ++i) bytes.Number<float>(static_cast<float>(i));
    return dir_.Write("selector.safetensors", bytes.str());
  }

  std::string Refused(absl::StatusCode code) {
    const auto selector = OpenSelector(Write(), config_);
    EXPECT_EQ(selector.status().code(), code) << selector.status();
    return std::string(selector.status().message());
  }

  formats::TempDir dir_;
  ModelConfig config_;
  Metadata metadata_;
  std::map<std::string, std::vector<int64_t>> shapes_;
};

TEST_F(SelectorTest, ReadsConfigAndTensors) {
  const auto selector = OpenSelector(Write(), config_);
  ASSERT_TRUE(selector.ok()) << selector.status();
  EXPECT_EQ((*selector)->config().heads, 2);
  EXPECT_EQ((*selector)->config().dim, 32);
  EXPECT_EQ((*selector)->config().training_tokens, 1000);
  EXPECT_EQ((*selector)->config().score_scales, (std::vector<float>{0.5f, 0.5f}));
  EXPECT_TRUE((*selector)->config().budget.empty());
  const auto k_norm = (*selector)->Tensor(1, "k_norm");
  ASSERT_TRUE(k_norm.ok());
  EXPECT_EQ(k_norm->shape, std::vector<int64_t>{32});
  EXPECT_EQ((*selector)->Tensor(2, "q").status().code(), absl::StatusCode::kNotFound);
  metadata_.erase("calibration");
  EXPECT_TRUE((*OpenSelector(Write(), config_))->config().score_scales.empty());
}

TEST_F(SelectorTest, ReadsWhatCalibrationAddedToEachLayer) {
  metadata_["calibration"] = "0.5,1.25";
  metadata_["budget_p_residual"] = "0.6,1";
  metadata_["budget_p_total"] = "0.9,1";
  metadata_["budget_k_min_tokens"] = "0,512";
  const auto selector = OpenSelector(Write(), config_);
  ASSERT_TRUE(selector.ok()) << selector.status();
  const SelectorConfig& config = (*selector)->config();
  EXPECT_EQ(config.score_scales, (std::vector<float>{0.5f, 1.25f}));
  ASSERT_EQ(config.budget.size(), 2u);
  EXPECT_EQ(config.budget[0].p_residual, 0.6f);
  EXPECT_EQ(config.budget[0].p_total, 0.9f);
  EXPECT_EQ(config.budget[1].k_min_tokens, 512);
}

TEST_F(SelectorTest, RefusesCalibrationThatDoesNotFitTheLayers) {
  metadata_["budget_p_residual"] = "0.6,1";
  metadata_["budget_p_total"] = "0.9,1";
  metadata_["budget_k_min_tokens"] = "0,512";
  const Metadata good = metadata_;
  for (const char* key : {"calibration", "budget_p_residual", "budget_p_total"}) {
    for (const char* bad : {"0.5,0.5,0.5", "0.5,", "0.5,x", "0,0.5", "nan,0.5", "0.5;0.5"}) {
      metadata_ = good;
      metadata_[key] = bad;
      EXPECT_THAT(Refused(absl::StatusCode::kDataLoss), HasSubstr(key)) << bad;
    }
  }
  metadata_ = good;
  metadata_["budget_k_min_tokens"] = "-1,5";
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss), HasSubstr("budget_k_min_tokens"));
  metadata_ = good;
  metadata_.erase("budget_p_total");
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss), HasSubstr("\"budget_p_total\" is missing"));
}

TEST_F(SelectorTest, AChoiceForEachKvHeadHasMixingWeightsOfItsOwn) {
  EXPECT_EQ((*OpenSelector(Write(), config_))->config().groups, 1);
  metadata_["groups"] = "2";
  config_.kv_heads = 2;
  metadata_["config_hash"] = config_.Fingerprint();
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss),
              HasSubstr("selector.w.weight has shape [2, 64], not [4, 64]"));
  for (int layer = 0; layer < config_.layers; ++layer) {
    shapes_["layers." + std::to_string(layer) + ".selector.w.weight"] = {4, 64};
  }
  const auto selector = OpenSelector(Write(), config_);
  ASSERT_TRUE(selector.ok()) << selector.status();
  EXPECT_EQ((*selector)->config().groups, 2);
}

TEST_F(SelectorTest, RefusesGroupsThatAreNotTheModelsKvHeads) {
  config_.kv_heads = 2;
  metadata_["config_hash"] = config_.Fingerprint();
  metadata_["groups"] = "3";
  EXPECT_THAT(Refused(absl::StatusCode::kFailedPrecondition),
              HasSubstr("\"groups\" is 3; 1 or the loaded model's number of KV heads, 2"));
  for (const char* bad : {"0", "-1", "x", "", "1.5", "2000"}) {
    metadata_["groups"] = bad;
    EXPECT_THAT(Refused(absl::StatusCode::kDataLoss), HasSubstr("\"groups\"")) << bad;
  }
}

TEST_F(SelectorTest, NamesTheFieldThatDiffers) {
  const auto precondition = absl::StatusCode::kFailedPrecondition;
  config_.layers = 3;
  EXPECT_THAT(Refused(precondition), HasSubstr("layers is 2, the loaded model's is 3"));
  config_.layers = 2;
  config_.hidden = 128;
  EXPECT_THAT(Refused(precondition), HasSubstr("hidden is 64, the loaded model's is 128"));
  config_.hidden = 64;
  config_.rope.theta = 5000;
  EXPECT_THAT(Refused(precondition),
              AllOf(HasSubstr("config_hash (base model \"qwen3\")"),
                    HasSubstr("the loaded model's is " + config_.Fingerprint())));
}

TEST_F(SelectorTest, RefusesBadMetadata) {
  const Metadata good = metadata_;
  const auto refused = [&](const std::string& key, const std::string& value) {
    metadata_ = good;
    metadata_[key] = value;
    return Refused(absl::StatusCode::kDataLoss);
  };
  for (const char* bad : {"", "x", "0", "-1", "65", "2x", "99999999999999999999"}) {
    EXPECT_THAT(refused("heads", bad), HasSubstr("\"heads\""));
  }
  for (const char* bad : {"33", "16", "512", "48"})
    EXPECT_THAT(refused("dim", bad), HasSubstr("dim"));
  for (const char* bad : {"nan", "inf", "0"})
    EXPECT_THAT(refused("rope_theta", bad), HasSubstr("rope"));
  for (const char* bad : {"nan", "0", "-1"})
    EXPECT_THAT(refused("calibration", bad), HasSubstr("cal"));
  metadata_ = good;
  metadata_["format_version"] = "3";
  Refused(absl::StatusCode::kUnimplemented);
  for (const auto& [key, value] : good) {
    if (key == "calibration" || key == "base_model") continue;
    metadata_ = good;
    metadata_.erase(key);
    EXPECT_THAT(Refused(absl::StatusCode::kDataLoss), HasSubstr("\"" + key + "\" is missing"));
  }
}

TEST_F(SelectorTest, RefusesTensorsOfAnotherShape) {
  const auto good = shapes_;
  shapes_["layers.1.selector.w.weight"] = {4, 64};
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss),
              HasSubstr("layers.1.selector.w.weight has shape [4, 64], not [2, 64]"));
  shapes_ = good;
  shapes_.erase("layers.1.selector.k.weight");
  EXPECT_THAT(Refused(absl::StatusCode::kNotFound), HasSubstr("layers.1.selector.k.weight"));
  shapes_.clear();
  Refused(absl::StatusCode::kFailedPrecondition);
}

TEST_F(SelectorTest, RefusesEveryTruncation) {
  const std::string whole = formats::ReadAll(Write());
  for (size_t size = 0; size < whole.size(); size += size < 2000 ? 37 : 1571) {
    const std::string path = dir_.Write("cut.safetensors", whole.substr(0, size));
    EXPECT_FALSE(OpenSelector(path, config_).ok()) << size;
  }
}

TEST_F(SelectorTest, RandomOnesAreReproducible) {
  const SelectorConfig config = {.heads = 3, .dim = 32};
  const auto a = RandomSelector(config_, config, 7);
  const auto b = RandomSelector(config_, config, 7);
  const auto c = RandomSelector(config_, config, 8);
  const auto q = [](const SelectorSource& s) { return ToFloats(*s.Tensor(1, "q")); };
  EXPECT_EQ(q(*a), q(*b));
  EXPECT_NE(q(*a), q(*c));
  EXPECT_EQ(q(*a).size(), 3u * 32 * 64);
}

}  // namespace
}  // namespace spotd::model
