// A safetensors file: named tensors and string metadata, read in place from a mapped file.
//
// The file is untrusted: Open checks header, shapes and offsets before they are used. Format:
// https://github.com/huggingface/safetensors#format
//
// Thread-safety: immutable after Open. Pointers live as long as the object.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/dtype.h"
#include "runtime/formats/mapped_file.h"

namespace spotd::formats {

struct SafetensorsTensor {
  std::optional<DType> type;  // empty: of a type that is not supported, named by type_name
  std::string type_name;      // as written in the file
  std::vector<int64_t> shape;
  const void* data = nullptr;
  size_t bytes = 0;
};

class SafetensorsFile {
 public:
  // Errors of MappedFile::Open; INVALID_ARGUMENT for a file of another kind; DATA_LOSS for a
  // truncated or corrupt one. Messages name file and tensor.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  // The same of a file that is open.
  static absl::StatusOr<SafetensorsFile> Parse(MappedFile mapped);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, SafetensorsTensor>& tensors() const { return tensors_; }
  // The header's "__metadata__".
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  friend class SafetensorsParser;
  explicit SafetensorsFile(MappedFile file) : file_(std::move(file)) {}

  MappedFile file_;
  std::map<std::string, SafetensorsTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// The tensors of a Hugging Face directory: model.safetensors, or the shards that
// model.safetensors.index.json lists.
class SafetensorsCheckpoint {
 public:
  // NOT_FOUND when the directory has neither; DATA_LOSS when the index does not match the shards.
  static absl::StatusOr<SafetensorsCheckpoint> Open(const std::string& directory);

  // Null when absent.
  const SafetensorsTensor* Find(const std::string& name) const;
  // The file that holds the tensor, for error messages.
  const std::string& FileOf(const std::string& name) const;
  std::vector<std::string> names() const;

 private:
  absl::Status OpenShards(const std::string& directory, const std::string& index_path);
  absl::Status AddFile(SafetensorsFile file);

  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> file_of_;  // tensor -> index into files_
};

}  // namespace spotd::formats
