// Reads the header of a GGUF file, front to back, distrusting every byte of it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/formats/byte_reader.h"
#include "runtime/formats/gguf_file.h"

namespace spotd::formats {

class GgufParser {
 public:
  // Fills an opened but unread file. `file` must outlive the parser.
  explicit GgufParser(GgufFile* file);
  absl::Status Parse();

 private:
  // A tensor as the header lists it, before its place in the file is checked.
  struct Entry {
    std::string name;
    GgufTensor tensor;
    uint64_t offset = 0;  // within the data section
  };

  absl::Status ParsePreamble();
  absl::Status ParseMetadata();
  absl::Status ParseTensorList();
  absl::Status PlaceTensors();

  absl::StatusOr<GgufValue> ParseValue(std::string_view key);
  absl::Status ParseArray(std::string_view key, GgufValue* value);
  absl::StatusOr<Entry> ParseTensorEntry();
  absl::Status ParseShape(Entry* entry, uint32_t dimensions);
  absl::Status ComputeBytes(Entry* entry, uint32_t type_id);
  absl::Status FindAlignment();
  absl::Status Truncated(std::string_view where) const;

  GgufFile* file_;
  ByteReader reader_;
  uint64_t tensor_count_ = 0;
  uint64_t value_count_ = 0;
  uint64_t alignment_ = 32;
  std::vector<Entry> entries_;
};

}  // namespace spotd::formats
