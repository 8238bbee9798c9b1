#include "server/small_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/server/test_model.h"

namespace spotd::server {
namespace {

std::string FileOf(const std::string& bytes) {
  std::string path = spotd::testing::TemporaryDirectory() + "/file";
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

TEST(SmallFileTest, IsReadWhole) {
  std::string bytes = std::string(10000, 'a') + std::string("\0\r\n\xff", 4);
  EXPECT_EQ(*ReadSmallFile(FileOf(bytes)), bytes);
  bytes.assign(kLargestSmallFile, 'b');
  EXPECT_EQ(*ReadSmallFile(FileOf(bytes)), bytes);
}

TEST(SmallFileTest, WhatCannotBeAnOperatorsFileIsRefusedByName) {
  const auto expect_refused = [](const std::string& path, const char* why) {
    const auto text = ReadSmallFile(path);
    ASSERT_FALSE(text.ok()) << path;
    EXPECT_THAT(std::string(text.status().message()), ::testing::HasSubstr(path));
    EXPECT_THAT(std::string(text.status().message()), ::testing::HasSubstr(why));
  };
  expect_refused("/no/such/file", "cannot read");
  expect_refused(::testing::TempDir(), "cannot read");
  expect_refused(FileOf(""), "cannot read");
  expect_refused("/dev/zero", "larger than");
  expect_refused(FileOf(std::string(kLargestSmallFile + 1, 'c')), "larger than");
}

}  // namespace
}  // namespace spotd::server
