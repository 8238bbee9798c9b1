#include "runtime/formats/safetensors_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>

#include "tests/runtime/formats/gguf_builder.h"
#include "tests/runtime/formats/temp_file.h"

namespace spotd::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string FileBytes(std::string_view header, std::string_view data) {
  Bytes bytes;
  bytes.String(header).Raw(data);
  return bytes.str();
}

constexpr std::string_view kHeader = R"({"__metadata__":{"heads":"4"},)"
                                     R"("a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                                     R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}})";

class SafetensorsFileTest : public ::testing::Test {
 protected:
  absl::StatusOr<SafetensorsFile> Open(const std::string& bytes) {
    return SafetensorsFile::Open(dir_.Write("x.safetensors", bytes));
  }
  std::string Refused(std::string_view header, std::string_view data) {
    const auto file = Open(FileBytes(header, data));
    EXPECT_FALSE(file.ok()) << header;
    return std::string(file.status().message());
  }
  TempDir dir_;
};

TEST_F(SafetensorsFileTest, ReadsTensorsAndMetadata) {
  const auto file = Open(FileBytes(kHeader, std::string(22, 'x')));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().at("heads"), "4");
  const SafetensorsTensor& a = file->tensors().at("a");
  EXPECT_EQ(a.type, DType::kF32);
  EXPECT_THAT(a.shape, ElementsAre(2, 2));
  EXPECT_EQ(a.bytes, 16u);
  const SafetensorsTensor& b = file->tensors().at("b");
  EXPECT_EQ(b.type, DType::kBf16);
  EXPECT_EQ(static_cast<const char*>(b.data) - static_cast<const char*>(a.data), 16);
}

TEST_F(SafetensorsFileTest, KeepsTheNameOfOtherTypes) {
  const auto file =
      Open(FileBytes(R"({"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", "12345678"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_FALSE(file->tensors().at("i").type.has_value());
  EXPECT_EQ(file->tensors().at("i").type_name, "I64");
}

TEST_F(SafetensorsFileTest, RefusesOtherKindsOfFiles) {
  EXPECT_FALSE(Open("short").ok());
  EXPECT_FALSE(Open("This is a text file that has nothing to do with models.").ok());
  Bytes huge;
  huge.Number<uint64_t>(std::numeric_limits<uint64_t>::max()).Raw("{}");
  EXPECT_FALSE(Open(huge.str()).ok());
  EXPECT_THAT(Refused("[]", ""), HasSubstr("not a JSON object"));
  EXPECT_THAT(Refused("{\"a\":", ""), HasSubstr("not valid JSON"));
  EXPECT_THAT(Refused(std::string(100000, '['), ""), HasSubstr("not valid JSON"));
}

TEST_F(SafetensorsFileTest, RefusesBadEntries) {
  const auto entry = [&](std::string_view body) {
    return Refused(R"({"t":)" + std::string(body) + "}", std::string(16, 'x'));
  };
  EXPECT_THAT(entry("3"), HasSubstr("tensor t is not described by an object"));
  EXPECT_THAT(entry(R"({"shape":[4],"data_offsets":[0,16]})"), HasSubstr("no dtype"));
  EXPECT_THAT(entry(R"({"dtype":"F32","data_offsets":[0,16]})"), HasSubstr("no valid shape"));
  EXPECT_THAT(entry(R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})"), HasSubstr("shape"));
  EXPECT_THAT(entry(R"({"dtype":"F32","shape":[4.5],"data_offsets":[0,16]})"), HasSubstr("shape"));
  EXPECT_THAT(entry(R"({"dtype":"F32","shape":[4],"data_offsets":[0]})"), HasSubstr("offsets"));
  EXPECT_THAT(entry(R"({"dtype":"F32","shape":[4],"data_offsets":[16,0]})"),
              HasSubstr("backwards"));
  EXPECT_THAT(entry(R"({"dtype":"F32","shape":[8],"data_offsets":[0,32]})"),
              HasSubstr("truncated"));
  EXPECT_THAT(entry(R"({"dtype":"F32","shape":[3],"data_offsets":[0,16]})"), HasSubstr("16 bytes"));
  EXPECT_THAT(entry(R"({"dtype":"F32","shape":[4294967296,4294967296,4294967296],)"
                    R"("data_offsets":[0,16]})"),
              HasSubstr("out of range"));
}

TEST_F(SafetensorsFileTest, RefusesDuplicatesAndOverlaps) {
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const std::string b = R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]})";
  EXPECT_THAT(Refused("{" + a + "," + a + "}", std::string(16, 'x')), HasSubstr("appears twice"));
  EXPECT_THAT(Refused("{" + a + "," + b + "}", std::string(16, 'x')),
              HasSubstr("tensors a and b overlap"));
}

TEST_F(SafetensorsFileTest, RefusesEveryTruncation) {
  const std::string whole = FileBytes(kHeader, std::string(22, 'x'));
  for (size_t size = 1; size < whole.size(); ++size) {
    EXPECT_FALSE(Open(whole.substr(0, size)).ok()) << "cut to " << size << " bytes";
  }
}

TEST_F(SafetensorsFileTest, SurvivesBitFlips) {
  const std::string whole = FileBytes(kHeader, std::string(22, 'x'));
  std::mt19937 random(11);
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = whole;
    bytes[random() % bytes.size()] ^= static_cast<char>(1u << (random() % 8));
    const auto file = Open(bytes);
    if (!file.ok()) {
      ++refused;
      continue;
    }
    for (const auto& [name, tensor] : file->tensors()) {
      const std::string copy(static_cast<const char*>(tensor.data), tensor.bytes);
      EXPECT_LE(copy.size(), 22u);
    }
  }
  EXPECT_GT(refused, 500);
}

class SafetensorsCheckpointTest : public ::testing::Test {
 protected:
  void WriteShard(std::string_view file, std::string_view tensor) {
    dir_.Write(file, FileBytes(R"({")" + std::string(tensor) +
                                   R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                               "1234"));
  }
  std::string OpenError(std::string_view index) {
    dir_.Write("model.safetensors.index.json", index);
    const auto checkpoint = SafetensorsCheckpoint::Open(dir_.path());
    EXPECT_FALSE(checkpoint.ok()) << index;
    return std::string(checkpoint.status().message());
  }
  TempDir dir_;
};

TEST_F(SafetensorsCheckpointTest, OpensShards) {
  WriteShard("1.safetensors", "a");
  WriteShard("2.safetensors", "b");
  dir_.Write("model.safetensors.index.json",
             R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})");
  const auto checkpoint = SafetensorsCheckpoint::Open(dir_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(checkpoint->names(), ElementsAre("a", "b"));
  EXPECT_THAT(checkpoint->FileOf("b"), HasSubstr("2.safetensors"));
  EXPECT_EQ(checkpoint->Find("c"), nullptr);
}

TEST_F(SafetensorsCheckpointTest, RefusesAnIndexThatDoesNotFit) {
  WriteShard("1.safetensors", "a");
  WriteShard("2.safetensors", "a");
  EXPECT_THAT(OpenError(R"({"weight_map":{"a":"3.safetensors"}})"), HasSubstr("3.safetensors"));
  EXPECT_THAT(OpenError(R"({"weight_map":{"b":"1.safetensors"}})"),
              HasSubstr("tensor b is not in 1.safetensors"));
  EXPECT_THAT(OpenError(R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})"),
              HasSubstr("tensor a is also in"));
  EXPECT_THAT(OpenError(R"({"weight_map":{"a":"../1.safetensors"}})"),
              HasSubstr("not in a file of this directory"));
  EXPECT_THAT(OpenError(R"({"weight_map":{"a":7}})"), HasSubstr("tensor a"));
  EXPECT_THAT(OpenError(R"({"weight_map":[]})"), HasSubstr("weight_map"));
  EXPECT_THAT(OpenError("{"), HasSubstr("not valid JSON"));
}

TEST_F(SafetensorsCheckpointTest, NeedsWeights) {
  const auto checkpoint = SafetensorsCheckpoint::Open(dir_.path());
  EXPECT_EQ(checkpoint.status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace spotd::formats
