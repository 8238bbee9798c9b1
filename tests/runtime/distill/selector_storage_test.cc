// Selector files that keep their matrices in 8 bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>

#include "runtime/distill/checkpoint.h"
#include "runtime/formats/safetensors_writer.h"
#include "runtime/model/selector.h"
#include "runtime/model/selector_int8.h"
#include "runtime/model/tensor_convert.h"
#include "tests/runtime/formats/temp_file.h"

namespace spotd::distill {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kHidden = 96;
constexpr int64_t kHeads = 2;
constexpr int64_t kDim = 32;
const std::vector<std::string> kMatrices = {"q", "k", "w"};

class SelectorStorageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    config_.name = "tiny";
    config_.architecture = "llama";
    config_.layers = 1;
    config_.hidden = kHidden;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto add = [&](const std::string& part, std::vector<int64_t> shape) {
      int64_t count = 1;
      for (const int64_t size : shape) count *= size;
      std::vector<float>& values = tensors_.emplace_back(static_cast<size_t>(count));
      for (float& value : values) value = normal(random);
      outputs_.push_back({"layers.0.selector." + part + ".weight", "F32", std::move(shape),
                          values.data(), values.size() * sizeof(float)});
    };
    tensors_.reserve(4);
    add("q", {kHeads * kDim, kHidden});
    add("k", {kDim, kHidden});
    add("w", {kHeads, kHidden});
    add("k_norm", {kDim});
    std::fill_n(tensors_[0].begin(), kHidden, 0.0f);  // a row that never trained
    Save();
  }

  void Save() { ASSERT_TRUE(formats::WriteSafetensors(path_, outputs_, metadata_).ok()); }

  std::vector<float> Read(const std::string& path, const std::string& part) const {
    const auto selector = model::OpenSelector(path, config_);
    EXPECT_TRUE(selector.ok()) << selector.status();
    const auto tensor = (*selector)->Tensor(0, part);
    EXPECT_TRUE(tensor.ok()) << tensor.status();
    return model::ToFloats(*tensor);
  }

  formats::TempDir dir_;
  model::ModelConfig config_;
  std::vector<std::vector<float>> tensors_;
  std::vector<formats::SafetensorsOutput> outputs_;
  std::map<std::string, std::string> metadata_ = {{"format_version", "1"},
                                                  {"base_model", "tiny"},
                                                  {"config_hash", TinyHash()},
                                                  {"heads", "2"},
                                                  {"dim", "32"},
                                                  {"rope_theta", "10000"},
                                                  {"block_size", "16"},
                                                  {"training_tokens", "1"},
                                                  {"training_length", "1"}};
  const std::string path_ = dir_.path() + "/selector.safetensors";
  const std::string small_ = dir_.path() + "/small.safetensors";

 private:
  static std::string TinyHash() {
    model::ModelConfig config;
    config.name = "tiny";
    config.architecture = "llama";
    config.layers = 1;
    config.hidden = kHidden;
    return config.Fingerprint();
  }
};

TEST_F(SelectorStorageTest, EightBitsKeepEachRowToHalfAStep) {
  ASSERT_TRUE(RewriteSelector(path_, small_, {}, SelectorStorage::kInt8).ok());
  EXPECT_LT(std::filesystem::file_size(small_), std::filesystem::file_size(path_) / 3);
  for (const std::string& part : kMatrices) {
    const std::vector<float> exact = Read(path_, part);
    const std::vector<float> stored = Read(small_, part);
    ASSERT_EQ(stored.size(), exact.size());
    for (size_t row = 0; row < exact.size(); row += kHidden) {
      float largest = 0;
      for (size_t i = row; i < row + kHidden; ++i) largest = std::max(largest, std::abs(exact[i]));
      for (size_t i = row; i < row + kHidden; ++i) {
        // Half a step of the scale, and bf16's rounding.
        EXPECT_NEAR(stored[i], exact[i], largest / 254 + std::abs(exact[i]) / 256) << part;
      }
    }
  }
  EXPECT_EQ(Read(small_, "k_norm"), Read(path_, "k_norm"));
}

TEST_F(SelectorStorageTest, RewritingAgainChangesNothingElse) {
  ASSERT_TRUE(RewriteSelector(path_, small_, {}, SelectorStorage::kInt8).ok());
  const std::vector<float> before = Read(small_, "q");
  ASSERT_TRUE(
      RewriteSelector(small_, small_, {{"calibration", "0.5"}}, SelectorStorage::kInt8).ok());
  EXPECT_EQ(Read(small_, "q"), before);
  ASSERT_TRUE(RewriteSelector(small_, small_, {{"calibration", "0.25"}}).ok());
  EXPECT_EQ(Read(small_, "q"), before);
  const auto selector = model::OpenSelector(small_, config_);
  ASSERT_TRUE(selector.ok()) << selector.status();
  EXPECT_EQ((*selector)->config().score_scales, std::vector<float>{0.25f});
}

TEST_F(SelectorStorageTest, TheBytesInMemoryAreThoseOfTheFile) {
  const std::map<std::string, std::string> entries = {{"calibration", "0.5"}, {"base_model", ""}};
  for (const SelectorStorage storage : {SelectorStorage::kBf16, SelectorStorage::kInt8}) {
    ASSERT_TRUE(RewriteSelector(path_, small_, entries, storage).ok());
    const auto bytes = RewrittenSelector(*formats::MappedFile::Open(path_), entries, storage);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    EXPECT_EQ(*bytes, formats::ReadAll(small_));
  }
}

TEST_F(SelectorStorageTest, EightBitsRefuseWhatIsNotFinite) {
  outputs_.push_back({"empty", "F32", {0, 5}, nullptr, 0});
  Save();
  EXPECT_TRUE(RewriteSelector(path_, small_, {}, SelectorStorage::kInt8).ok());
  tensors_[1][7] = NAN;
  Save();
  const absl::Status status = RewriteSelector(path_, small_, {}, SelectorStorage::kInt8);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("selector.k.weight"));
}

TEST_F(SelectorStorageTest, RefusesScalesThatAreMissingOrNoNumbers) {
  const std::vector<int8_t> codes(kDim * kHidden, 1);
  std::vector<float> scales(kDim, 0.5f);
  outputs_[1] = {outputs_[1].name, "I8", outputs_[1].shape, codes.data(), codes.size()};
  metadata_["format_version"] = "2";
  const auto refused = [&] {
    Save();
    const auto selector = model::OpenSelector(path_, config_);
    EXPECT_EQ(selector.status().code(), absl::StatusCode::kDataLoss) << selector.status();
    return std::string(selector.status().message());
  };
  EXPECT_THAT(refused(), HasSubstr("has no scales"));
  outputs_.push_back({model::Int8ScaleName(outputs_[1].name),
                      "F32",
                      {kDim - 1},
                      scales.data(),
                      (kDim - 1) * sizeof(float)});
  EXPECT_THAT(refused(), HasSubstr("needs 32 scales of type F32"));
  outputs_.back() = {outputs_.back().name, "F32", {kDim}, scales.data(), kDim * sizeof(float)};
  Save();
  EXPECT_EQ(Read(path_, "k")[0], 0.5f);
  scales[3] = NAN;
  EXPECT_THAT(refused(), HasSubstr("no number from 0 up"));
  scales[3] = 0.5f;
  outputs_[1].shape = {kDim, kHidden - 1};
  EXPECT_THAT(refused(), HasSubstr("bytes of data for"));
}

// What a backend multiplies by holds the codes of the file, where their scale allows it.
TEST_F(SelectorStorageTest, EightBitsStayEightBits) {
  std::vector<int8_t> codes(kDim * kHidden);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<int8_t>(i % 255 - 127);
  std::vector<float> scales(kDim, 0.7f / 127);
  scales[4] = 0;
  outputs_[1] = {outputs_[1].name, "I8", outputs_[1].shape, codes.data(), codes.size()};
  outputs_.push_back(
      {model::Int8ScaleName(outputs_[1].name), "F32", {kDim}, scales.data(), kDim * sizeof(float)});
  metadata_["format_version"] = "2";
  const auto type = [&] {
    Save();
    const auto selector = model::OpenSelector(path_, config_);
    EXPECT_TRUE(selector.ok()) << selector.status();
    const std::vector<float> read = Read(path_, "k");
    for (size_t i = 0; i < read.size(); ++i) {
      const float exact = scales[i / kHidden] * static_cast<float>(codes[i]);
      EXPECT_NEAR(read[i], exact, std::abs(exact) / 256) << i;
    }
    return (*selector)->Tensor(0, "k")->type;
  };
  EXPECT_EQ(type(), DType::kQ8_0);
  scales[7] = 1e-6f;
  EXPECT_EQ(type(), DType::kBf16);
}

}  // namespace
}  // namespace spotd::distill
