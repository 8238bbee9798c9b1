// Files that are written whole or not at all, whoever else writes them.
#include "runtime/formats/safetensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>
#include <vector>

#include "runtime/formats/safetensors_file.h"
#include "tests/runtime/formats/temp_file.h"

namespace spotd::formats {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class SafetensorsWriterTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return dir_.path() + "/" + name; }
  size_t Files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(dir_.path()), {}));
  }
  // A tensor of `count` bytes, all `value`.
  static absl::Status Write(const std::string& path, char value, size_t count) {
    const std::string bytes(count, value);
    return WriteSafetensors(
        path, {{"a", "U8", {static_cast<int64_t>(count)}, bytes.data(), bytes.size()}},
        {{"value", std::string(1, value)}});
  }

  TempDir dir_;
};

TEST_F(SafetensorsWriterTest, TwoWritersOfOneFileLeaveOneOfTheirFilesWhole) {
  const std::string path = Path("file");
  const auto write = [&](char value, size_t count) {
    for (int i = 0; i < 40; ++i) EXPECT_TRUE(Write(path, value, count).ok());
  };
  std::thread first(write, 'a', 3'000'000);
  std::thread second(write, 'b', 2'000'000);
  for (int i = 0; i < 20; ++i) {
    const auto file = SafetensorsFile::Open(path);
    if (!file.ok()) {
      EXPECT_EQ(file.status().code(), absl::StatusCode::kNotFound) << file.status();
      continue;
    }
    const SafetensorsTensor& tensor = file->tensors().at("a");
    EXPECT_EQ(std::string(static_cast<const char*>(tensor.data), tensor.bytes),
              std::string(tensor.bytes, file->metadata().at("value").front()));
  }
  first.join();
  second.join();
  EXPECT_TRUE(SafetensorsFile::Open(path).ok());
  EXPECT_EQ(Files(), 1u);
}

TEST_F(SafetensorsWriterTest, WhatIsNoFileIsRefusedBeforeWorkAndAfter) {
  fs::create_directory(Path("folder"));
  fs::create_symlink("/dev/null", Path("device"));
  for (const std::string& path :
       {std::string(), Path("folder"), Path("device"), Path("absent/file")}) {
    EXPECT_FALSE(CheckWritable(path).ok()) << path;
    EXPECT_FALSE(Write(path, 'a', 10).ok()) << path;
    EXPECT_THAT(std::string(CheckWritable(path).message()), HasSubstr(path));
  }
  EXPECT_EQ(Files(), 2u);
  EXPECT_TRUE(fs::is_symlink(Path("device")));
}

TEST_F(SafetensorsWriterTest, AskingWhetherAFileCanBeWrittenChangesNothing) {
  EXPECT_TRUE(CheckWritable(Path("file")).ok());
  EXPECT_EQ(Files(), 0u);
  ASSERT_TRUE(Write(Path("file"), 'a', 10).ok());
  EXPECT_TRUE(CheckWritable(Path("file")).ok());
  EXPECT_EQ(Files(), 1u);
  EXPECT_TRUE(SafetensorsFile::Open(Path("file")).ok());
}

TEST_F(SafetensorsWriterTest, MetadataThatIsNotUtf8IsReplaced) {
  ASSERT_TRUE(WriteSafetensors(Path("file"), {}, {{"name", "mod\xe9l"}}).ok());
  const auto file = SafetensorsFile::Open(Path("file"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().at("name"), "mod\xEF\xBF\xBDl");
}

}  // namespace
}  // namespace spotd::formats
