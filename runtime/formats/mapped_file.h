// A file mapped read-only into memory: checkpoint tensors are read in place, through the page
// cache.
//
// Move-only; the bytes are valid as long as the object lives. Const methods are thread-safe.
// Another process must not shorten the file meanwhile: the operating system answers that with
// SIGBUS.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace spotd::formats {

class MappedFile {
 public:
  // NOT_FOUND when there is no such file, INVALID_ARGUMENT for a directory or other special file,
  // DATA_LOSS for an empty file. Messages begin with the path.
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  // A file whose bytes are in memory already and outlive this object. `path` is for messages.
  static MappedFile InMemory(std::string path, std::string_view bytes);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::string_view bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  MappedFile(std::string path, const char* data, size_t size, bool mapped)
      : path_(std::move(path)), data_(data), size_(size), mapped_(mapped) {}

  std::string path_;
  const char* data_ = nullptr;
  size_t size_ = 0;
  bool mapped_ = false;  // this object's to unmap
};

// The whole of a small text file (configuration); refuses files above `max_bytes`. Errors as Open,
// INVALID_ARGUMENT for one that is too large.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

}  // namespace spotd::formats
