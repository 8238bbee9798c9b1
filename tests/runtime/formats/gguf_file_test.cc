#include "runtime/formats/gguf_file.h"

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

class GgufFileTest : public ::testing::Test {
 protected:
  absl::StatusOr<GgufFile> Open(const std::string& bytes) {
    return GgufFile::Open(dir_.Write("model.gguf", bytes));
  }
  // Opens bytes that must be refused; returns the message.
  std::string Refused(const Bytes& bytes, absl::StatusCode code) {
    const auto file = Open(bytes.str());
    EXPECT_EQ(file.status().code(), code) << file.status();
    return std::string(file.status().message());
  }
  TempDir dir_;
};

// One F32 matrix [2, 4] and one value of every kind of metadata.
Bytes SmallFile() {
  Bytes bytes = GgufPreamble(1, 6);
  bytes.String("an.int").Number<uint32_t>(4).Number<uint32_t>(77);
  bytes.String("a.float").Number<uint32_t>(6).Number<float>(1.5f);
  bytes.String("a.bool").Number<uint32_t>(7).Number<uint8_t>(1);
  bytes.String("a.string").Number<uint32_t>(8).String("text");
  bytes.String("ints").Number<uint32_t>(9).Number<uint32_t>(1).Number<uint64_t>(2);
  bytes.Number<int8_t>(-3).Number<int8_t>(4);
  bytes.String("strings").Number<uint32_t>(9).Number<uint32_t>(8).Number<uint64_t>(2);
  bytes.String("a").String("");
  AddTensorEntry(&bytes, "matrix", 4, 2, 0, 0);
  bytes.PadTo(32);
  for (int i = 0; i < 8; ++i) bytes.Number<float>(static_cast<float>(i));
  return bytes;
}

TEST_F(GgufFileTest, ReadsMetadataAndTensors) {
  const auto file = Open(SmallFile().str());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Int("an.int").value(), 77);
  EXPECT_EQ(file->Float("a.float").value(), 1.5);
  EXPECT_EQ(file->Float("an.int").value(), 77.0);
  EXPECT_TRUE(file->Bool("a.bool").value());
  EXPECT_EQ(file->String("a.string").value(), "text");
  EXPECT_THAT(file->Ints("ints").value(), ElementsAre(-3, 4));
  EXPECT_THAT(file->Strings("strings").value(), ElementsAre("a", ""));
  ASSERT_EQ(file->tensors().size(), 1u);
  const GgufTensor& tensor = file->tensors().at("matrix");
  EXPECT_THAT(tensor.shape, ElementsAre(2, 4));
  EXPECT_EQ(tensor.bytes, 32u);
  float last;
  std::memcpy(&last, static_cast<const char*>(tensor.data) + 28, sizeof last);
  EXPECT_EQ(last, 7.0f);
}

TEST_F(GgufFileTest, AbsentAndMistypedValues) {
  const auto file = Open(SmallFile().str());
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->Int("none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(file->IntOr("none", 5).value(), 5);
  EXPECT_EQ(file->IntOr("a.string", 5).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->Int("a.float").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->Bool("an.int").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->Strings("ints").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->Ints("strings").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(file->String("ints").status().message()),
              HasSubstr("\"ints\" is of type array of int8, not string"));
}

TEST_F(GgufFileTest, NumbersThatDoNotFit) {
  Bytes bytes = GgufPreamble(0, 2);
  bytes.String("huge").Number<uint32_t>(10).Number<uint64_t>(1ull << 63);
  bytes.String("nan").Number<uint32_t>(6).Number<float>(std::numeric_limits<float>::quiet_NaN());
  const auto file = Open(bytes.str());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_FALSE(file->Int("huge").ok());
  EXPECT_FALSE(file->Float("nan").ok());
}

TEST_F(GgufFileTest, RefusesOtherKindsOfFiles) {
  Bytes text;
  text.Raw("This is a text file that has nothing to do with models.");
  EXPECT_THAT(Refused(text, absl::StatusCode::kInvalidArgument), HasSubstr("not a GGUF file"));
  EXPECT_THAT(Refused(GgufPreamble(0, 0, 1), absl::StatusCode::kUnimplemented),
              HasSubstr("version 1"));
  EXPECT_THAT(Refused(GgufPreamble(0, 0, 4), absl::StatusCode::kUnimplemented),
              HasSubstr("version 4"));
  EXPECT_THAT(Refused(GgufPreamble(0, 0, 3u << 24), absl::StatusCode::kUnimplemented),
              HasSubstr("big-endian"));
  EXPECT_TRUE(Open(GgufPreamble(0, 0, 2).str()).ok());
}

TEST_F(GgufFileTest, RefusesHugeCounts) {
  constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max() / 2;
  EXPECT_THAT(Refused(GgufPreamble(kHuge, 0), absl::StatusCode::kDataLoss), HasSubstr("tensors"));
  EXPECT_THAT(Refused(GgufPreamble(0, kHuge), absl::StatusCode::kDataLoss), HasSubstr("metadata"));
  Bytes key = GgufPreamble(0, 1);
  key.Number<uint64_t>(kHuge).Raw(std::string(64, 'x'));
  Refused(key, absl::StatusCode::kDataLoss);
  for (const uint32_t element : {0u, 5u, 8u, 10u}) {
    Bytes array = GgufPreamble(0, 1);
    array.String("list").Number<uint32_t>(9).Number(element).Number(kHuge);
    array.Raw(std::string(64, '\0'));
    EXPECT_THAT(Refused(array, absl::StatusCode::kDataLoss), HasSubstr("list"));
  }
}

TEST_F(GgufFileTest, RefusesUndefinedTypes) {
  Bytes scalar = GgufPreamble(0, 1);
  scalar.String("key").Number<uint32_t>(13).Number<uint64_t>(0);
  EXPECT_THAT(Refused(scalar, absl::StatusCode::kDataLoss), HasSubstr("type 13"));
  Bytes nested = GgufPreamble(0, 1);
  nested.String("key").Number<uint32_t>(9).Number<uint32_t>(9).Number<uint64_t>(1);
  nested.Raw(std::string(64, '\0'));
  EXPECT_THAT(Refused(nested, absl::StatusCode::kDataLoss),
              HasSubstr("array of unsupported array"));
}

TEST_F(GgufFileTest, RefusesDuplicates) {
  Bytes values = GgufPreamble(0, 2);
  for (int i = 0; i < 2; ++i) values.String("key").Number<uint32_t>(4).Number<uint32_t>(1);
  EXPECT_THAT(Refused(values, absl::StatusCode::kDataLoss), HasSubstr("\"key\" appears twice"));
  Bytes tensors = GgufPreamble(2, 0);
  AddTensorEntry(&tensors, "t", 8, 1, 0, 0);
  AddTensorEntry(&tensors, "t", 8, 1, 0, 32);
  tensors.PadTo(32).Raw(std::string(64, '\0'));
  EXPECT_THAT(Refused(tensors, absl::StatusCode::kDataLoss), HasSubstr("tensor t appears twice"));
}

TEST_F(GgufFileTest, RefusesBadPlacement) {
  const auto with_tensor = [](uint64_t cols, uint64_t rows, uint32_t type, uint64_t offset) {
    Bytes bytes = GgufPreamble(2, 0);
    AddTensorEntry(&bytes, "first", 8, 1, 0, 0);
    AddTensorEntry(&bytes, "second", cols, rows, type, offset);
    bytes.PadTo(32).Raw(std::string(96, '\0'));
    return bytes;
  };
  EXPECT_TRUE(Open(with_tensor(8, 2, 0, 32).str()).ok());
  const auto loss = absl::StatusCode::kDataLoss;
  EXPECT_THAT(Refused(with_tensor(8, 2, 0, 64), loss), HasSubstr("truncated: tensor second"));
  EXPECT_THAT(Refused(with_tensor(8, 2, 0, 1ull << 62), loss), HasSubstr("truncated"));
  EXPECT_THAT(Refused(with_tensor(8, 1, 0, 0), loss), HasSubstr("overlaps"));
  EXPECT_THAT(Refused(with_tensor(8, 1, 0, 33), loss), HasSubstr("multiple of the alignment"));
  EXPECT_THAT(Refused(with_tensor(0, 1, 0, 32), loss), HasSubstr("out of range"));
  EXPECT_THAT(Refused(with_tensor(1ull << 40, 1ull << 40, 0, 32), loss), HasSubstr("out of range"));
  EXPECT_THAT(Refused(with_tensor(33, 1, 8, 32), loss), HasSubstr("whole number of Q8_0 blocks"));
}

TEST_F(GgufFileTest, NamesUnsupportedTensorTypes) {
  Bytes bytes = GgufPreamble(1, 0);
  AddTensorEntry(&bytes, "blk.0.attn_q.weight", 256, 1, 10, 0);
  bytes.PadTo(32).Raw(std::string(128, '\0'));
  EXPECT_THAT(Refused(bytes, absl::StatusCode::kUnimplemented),
              HasSubstr("model.gguf: tensor blk.0.attn_q.weight is of type Q2_K"));
}

TEST_F(GgufFileTest, HonoursAlignment) {
  const auto with_alignment = [](uint32_t alignment) {
    Bytes bytes = GgufPreamble(1, 1);
    bytes.String("general.alignment").Number<uint32_t>(4).Number(alignment);
    AddTensorEntry(&bytes, "t", 1, 1, 0, 0);
    bytes.PadTo(256).Number<float>(3.0f);
    return bytes;
  };
  const auto file = Open(with_alignment(256).str());
  ASSERT_TRUE(file.ok()) << file.status();
  float value;
  std::memcpy(&value, file->tensors().at("t").data, sizeof value);
  EXPECT_EQ(value, 3.0f);
  for (const uint32_t bad : {0u, 24u, 1u << 30}) {
    EXPECT_THAT(Refused(with_alignment(bad), absl::StatusCode::kDataLoss), HasSubstr("alignment"));
  }
}

TEST_F(GgufFileTest, RefusesEveryTruncation) {
  const std::string whole = SmallFile().str();
  for (size_t size = 1; size < whole.size(); ++size) {
    const auto file = Open(whole.substr(0, size));
    ASSERT_FALSE(file.ok()) << "cut to " << size << " bytes";
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("model.gguf: "));
  }
}

TEST_F(GgufFileTest, SurvivesBitFlips) {
  const std::string whole = SmallFile().str();
  std::mt19937 random(7);
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = whole;
    const int flips = 1 + static_cast<int>(random() % 3);
    for (int j = 0; j < flips; ++j) {
      bytes[random() % bytes.size()] ^= static_cast<char>(1u << (random() % 8));
    }
    const auto file = Open(bytes);
    if (!file.ok()) {
      ++refused;
      continue;
    }
    // What is accepted must be readable to its last byte.
    for (const auto& [name, tensor] : file->tensors()) {
      unsigned sum = 0;
      for (size_t b = 0; b < tensor.bytes; ++b) sum += static_cast<const uint8_t*>(tensor.data)[b];
      EXPECT_LT(sum, 1u << 30);
    }
  }
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace spotd::formats
