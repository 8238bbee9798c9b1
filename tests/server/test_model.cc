#include "tests/server/test_model.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/core/check.h"

namespace spotd::testing {
namespace {

namespace fs = std::filesystem;

class Directories {
 public:
  ~Directories() {
    std::error_code ignored;
    for (const std::string& path : paths_) fs::remove_all(path, ignored);
  }
  std::string Make() {
    std::string path = (fs::temp_directory_path() / "spotd_test_XXXXXX").string();
    SPOTD_CHECK(mkdtemp(path.data()) != nullptr);
    paths_.push_back(path);
    return path;
  }

 private:
  std::vector<std::string> paths_;
};

}  // namespace

std::string TemporaryDirectory() {
  static Directories directories;
  return directories.Make();
}

std::string TinyModel(int32_t context_length) {
  const std::string directory = TemporaryDirectory() + "/qwen3";
  fs::copy(fs::path(SPOTD_SOURCE_DIR) / "tests/data/models/qwen3", directory,
           fs::copy_options::recursive);
  const fs::path config_path = fs::path(directory) / "config.json";
  nlohmann::json config;
  std::ifstream(config_path) >> config;
  config["max_position_embeddings"] = context_length;
  std::ofstream(config_path) << config.dump(1);
  return directory;
}

}  // namespace spotd::testing
