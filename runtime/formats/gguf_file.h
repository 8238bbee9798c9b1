// A GGUF checkpoint (versions 2 and 3, little-endian): typed metadata and tensors, read in place
// from a mapped file.
//
// The file is untrusted: Open checks every count, length, offset and size before it is used, so
// that what it returns can be read without further checks. Format:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
// Thread-safety: immutable after Open. Pointers and views live as long as the object.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/dtype.h"
#include "runtime/formats/mapped_file.h"

namespace spotd::formats {

// Numbering of the format.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

struct GgufValue {
  GgufType type = GgufType::kUint8;
  GgufType element = GgufType::kUint8;  // of an array
  uint64_t count = 1;                   // elements of an array
  std::string_view bytes;  // the scalar, the string's text, or the array's elements as stored
};

struct GgufTensor {
  DType type = DType::kF32;
  std::vector<int64_t> shape;  // outermost first (the file stores it innermost first)
  const void* data = nullptr;
  size_t bytes = 0;
};

class GgufFile {
 public:
  // Errors of MappedFile::Open; INVALID_ARGUMENT for a file of another kind; UNIMPLEMENTED for a
  // version or tensor type that is not supported; DATA_LOSS for a truncated or corrupt file.
  // Messages name file and key or tensor.
  static absl::StatusOr<GgufFile> Open(const std::string& path);
  // The same of a file that is open.
  static absl::StatusOr<GgufFile> Parse(MappedFile mapped);

  const std::string& path() const { return file_.path(); }
  bool Has(std::string_view key) const { return values_.find(key) != values_.end(); }

  // Metadata. NOT_FOUND without the key, INVALID_ARGUMENT when its value is of another type.
  absl::StatusOr<int64_t> Int(std::string_view key) const;   // any integer type that fits
  absl::StatusOr<double> Float(std::string_view key) const;  // any number, finite
  absl::StatusOr<bool> Bool(std::string_view key) const;
  absl::StatusOr<std::string> String(std::string_view key) const;
  absl::StatusOr<std::vector<std::string>> Strings(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Ints(std::string_view key) const;

  // As above, with a value for an absent key; a value of the wrong type is still an error.
  absl::StatusOr<int64_t> IntOr(std::string_view key, int64_t absent) const;
  absl::StatusOr<double> FloatOr(std::string_view key, double absent) const;
  absl::StatusOr<bool> BoolOr(std::string_view key, bool absent) const;
  absl::StatusOr<std::string> StringOr(std::string_view key, std::string_view absent) const;

  const std::map<std::string, GgufTensor, std::less<>>& tensors() const { return tensors_; }

 private:
  friend class GgufParser;
  explicit GgufFile(MappedFile file) : file_(std::move(file)) {}
  absl::StatusOr<const GgufValue*> Find(std::string_view key) const;
  absl::Status WrongType(std::string_view key, const GgufValue& value,
                         std::string_view wanted) const;

  MappedFile file_;
  std::map<std::string, GgufValue, std::less<>> values_;
  std::map<std::string, GgufTensor, std::less<>> tensors_;
};

}  // namespace spotd::formats
