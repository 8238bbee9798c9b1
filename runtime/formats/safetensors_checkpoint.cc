#include <filesystem>
#include <set>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/formats/json.h"
#include "runtime/formats/safetensors_file.h"

namespace spotd::formats {
namespace {

constexpr size_t kMaxIndexBytes = 64u << 20;

// A shard must be a plain file name: an index must not reach outside its directory.
bool IsPlainName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos;
}

}  // namespace

absl::StatusOr<SafetensorsCheckpoint> SafetensorsCheckpoint::Open(const std::string& directory) {
  const std::string single = directory + "/model.safetensors";
  const std::string index = single + ".index.json";
  SafetensorsCheckpoint checkpoint;
  std::error_code ignored;
  if (std::filesystem::exists(index, ignored)) {
    SPOTD_RETURN_IF_ERROR(checkpoint.OpenShards(directory, index));
    return checkpoint;
  }
  if (!std::filesystem::exists(single, ignored)) {
    return NotFound(directory, ": has neither model.safetensors nor model.safetensors.index.json");
  }
  SPOTD_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(single));
  SPOTD_RETURN_IF_ERROR(checkpoint.AddFile(std::move(file)));
  return checkpoint;
}

absl::Status SafetensorsCheckpoint::OpenShards(const std::string& directory,
                                               const std::string& index_path) {
  SPOTD_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(index_path, kMaxIndexBytes));
  SPOTD_ASSIGN_OR_RETURN(const nlohmann::json index, ParseJsonObject(text, index_path));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    return DataLoss(index_path, ": has no weight_map");
  }
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !IsPlainName(shard.get<std::string>())) {
      return DataLoss(index_path, ": tensor ", tensor, " is not in a file of this directory");
    }
    shards.insert(shard.get<std::string>());
  }
  for (const std::string& shard : shards) {
    SPOTD_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(directory + "/" + shard));
    SPOTD_RETURN_IF_ERROR(AddFile(std::move(file)));
  }
  for (const auto& [tensor, shard] : map->items()) {
    const auto it = file_of_.find(tensor);
    if (it == file_of_.end()) {
      return DataLoss(index_path, ": tensor ", tensor, " is not in ", shard.get<std::string>());
    }
  }
  return absl::OkStatus();
}

absl::Status SafetensorsCheckpoint::AddFile(SafetensorsFile file) {
  for (const auto& [name, tensor] : file.tensors()) {
    const auto [it, added] = file_of_.emplace(name, files_.size());
    if (!added) {
      return DataLoss(file.path(), ": tensor ", name, " is also in ", files_[it->second].path());
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

const SafetensorsTensor* SafetensorsCheckpoint::Find(const std::string& name) const {
  const auto it = file_of_.find(name);
  return it == file_of_.end() ? nullptr : &files_[it->second].tensors().at(name);
}

const std::string& SafetensorsCheckpoint::FileOf(const std::string& name) const {
  return files_[file_of_.at(name)].path();
}

std::vector<std::string> SafetensorsCheckpoint::names() const {
  std::vector<std::string> out;
  for (const auto& [name, file] : file_of_) out.push_back(name);
  return out;
}

}  // namespace spotd::formats
