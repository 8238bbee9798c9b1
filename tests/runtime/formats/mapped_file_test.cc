#include "runtime/formats/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <utility>

#include "tests/runtime/formats/temp_file.h"

namespace spotd::formats {
namespace {

TEST(MappedFileTest, ReadsAFile) {
  const TempDir dir;
  const std::string path = dir.Write("a", "hello");
  auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->bytes(), "hello");
  EXPECT_EQ(file->path(), path);
}

TEST(MappedFileTest, SurvivesMoves) {
  const TempDir dir;
  auto a = MappedFile::Open(dir.Write("a", "first"));
  auto b = MappedFile::Open(dir.Write("b", "second"));
  ASSERT_TRUE(a.ok() && b.ok());
  MappedFile moved = *std::move(a);
  EXPECT_EQ(moved.bytes(), "first");
  moved = *std::move(b);
  EXPECT_EQ(moved.bytes(), "second");
}

TEST(MappedFileTest, MayBeInMemory) {
  const std::string bytes = "in memory";
  MappedFile file = MappedFile::InMemory("name", bytes);
  EXPECT_EQ(file.bytes().data(), bytes.data());
  EXPECT_EQ(file.path(), "name");
  const TempDir dir;
  auto mapped = MappedFile::Open(dir.Write("a", "mapped"));
  ASSERT_TRUE(mapped.ok());
  file = *std::move(mapped);
  EXPECT_EQ(file.bytes(), "mapped");
}

TEST(MappedFileTest, RefusesWhatIsNotAFile) {
  const TempDir dir;
  const auto code = [&](const std::string& path) { return MappedFile::Open(path).status().code(); };
  EXPECT_EQ(code(dir.path() + "/missing"), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(dir.Write("file", "x") + "/below"), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(dir.path()), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("/dev/null"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(dir.Write("empty", "")), absl::StatusCode::kDataLoss);
  ASSERT_EQ(mkfifo((dir.path() + "/pipe").c_str(), 0600), 0);
  EXPECT_EQ(code(dir.path() + "/pipe"), absl::StatusCode::kInvalidArgument);
}

TEST(MappedFileTest, ErrorsNameThePath) {
  const TempDir dir;
  const auto file = MappedFile::Open(dir.path());
  EXPECT_EQ(file.status().message(), dir.path() + ": is a directory, not a file");
}

TEST(ReadTextFileTest, LimitsTheSize) {
  const TempDir dir;
  const std::string path = dir.Write("text", "12345");
  EXPECT_EQ(ReadTextFile(path, 5).value(), "12345");
  EXPECT_EQ(ReadTextFile(path, 4).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace spotd::formats
