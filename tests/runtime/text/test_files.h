// Golden data of the text tests.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

namespace spotd::text {

// The bytes of tests/data/text/NAME.
inline std::string ReadGolden(const std::string& name) {
  std::ifstream file(std::string(SPOTD_SOURCE_DIR "/tests/data/text/") + name, std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace spotd::text
