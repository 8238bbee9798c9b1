#include "runtime/formats/gguf_file.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/formats/byte_reader.h"
#include "runtime/formats/gguf_parser.h"
#include "runtime/formats/gguf_types.h"

namespace spotd::formats {
namespace {

template <typename T>
T Load(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

std::optional<int64_t> LoadInt(GgufType type, std::string_view bytes) {
  switch (type) {
    case GgufType::kUint8:
      return Load<uint8_t>(bytes);
    case GgufType::kInt8:
      return Load<int8_t>(bytes);
    case GgufType::kUint16:
      return Load<uint16_t>(bytes);
    case GgufType::kInt16:
      return Load<int16_t>(bytes);
    case GgufType::kUint32:
      return Load<uint32_t>(bytes);
    case GgufType::kInt32:
      return Load<int32_t>(bytes);
    case GgufType::kInt64:
      return Load<int64_t>(bytes);
    case GgufType::kUint64:
      if (Load<uint64_t>(bytes) > std::numeric_limits<int64_t>::max()) return std::nullopt;
      return Load<int64_t>(bytes);
    default:
      return std::nullopt;
  }
}

}  // namespace

absl::StatusOr<GgufFile> GgufFile::Open(const std::string& path) {
  SPOTD_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  return Parse(std::move(mapped));
}

absl::StatusOr<GgufFile> GgufFile::Parse(MappedFile mapped) {
  GgufFile file(std::move(mapped));
  SPOTD_RETURN_IF_ERROR(GgufParser(&file).Parse());
  return file;
}

absl::StatusOr<const GgufValue*> GgufFile::Find(std::string_view key) const {
  const auto it = values_.find(key);
  if (it == values_.end()) return NotFound(path(), ": has no metadata value \"", key, "\"");
  return &it->second;
}

absl::Status GgufFile::WrongType(std::string_view key, const GgufValue& value,
                                 std::string_view wanted) const {
  std::string type = GgufTypeName(value.type);
  if (value.type == GgufType::kArray) type += " of " + GgufTypeName(value.element);
  return InvalidArgument(path(), ": metadata value \"", key, "\" is of type ", type, ", not ",
                         wanted);
}

absl::StatusOr<int64_t> GgufFile::Int(std::string_view key) const {
  SPOTD_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  const std::optional<int64_t> number = LoadInt(value->type, value->bytes);
  if (!number) return WrongType(key, *value, "an integer");
  return *number;
}

absl::StatusOr<double> GgufFile::Float(std::string_view key) const {
  SPOTD_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  double number = 0;
  if (value->type == GgufType::kFloat32) {
    number = static_cast<double>(Load<float>(value->bytes));
  } else if (value->type == GgufType::kFloat64) {
    number = Load<double>(value->bytes);
  } else if (const auto integer = LoadInt(value->type, value->bytes)) {
    number = static_cast<double>(*integer);
  } else {
    return WrongType(key, *value, "a number");
  }
  if (!std::isfinite(number)) return WrongType(key, *value, "a finite number");
  return number;
}

absl::StatusOr<bool> GgufFile::Bool(std::string_view key) const {
  SPOTD_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  if (value->type != GgufType::kBool) return WrongType(key, *value, "bool");
  return Load<uint8_t>(value->bytes) != 0;
}

absl::StatusOr<std::string> GgufFile::String(std::string_view key) const {
  SPOTD_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  if (value->type != GgufType::kString) return WrongType(key, *value, "string");
  return std::string(value->bytes);
}

absl::StatusOr<std::vector<std::string>> GgufFile::Strings(std::string_view key) const {
  SPOTD_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  if (value->type != GgufType::kArray || value->element != GgufType::kString) {
    return WrongType(key, *value, "array of string");
  }
  std::vector<std::string> out;
  out.reserve(value->count);
  ByteReader reader(value->bytes);
  for (uint64_t i = 0; i < value->count; ++i) out.emplace_back(reader.ReadString64());
  return out;
}

absl::StatusOr<std::vector<int64_t>> GgufFile::Ints(std::string_view key) const {
  SPOTD_ASSIGN_OR_RETURN(const GgufValue* value, Find(key));
  if (value->type != GgufType::kArray) return WrongType(key, *value, "array of integers");
  const size_t element_bytes = GgufScalarBytes(value->element);
  std::vector<int64_t> out;
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto number = element_bytes == 0
                            ? std::nullopt
                            : LoadInt(value->element, value->bytes.substr(i * element_bytes));
    if (!number) return WrongType(key, *value, "array of integers");
    out.push_back(*number);
  }
  return out;
}

absl::StatusOr<int64_t> GgufFile::IntOr(std::string_view key, int64_t absent) const {
  return Has(key) ? Int(key) : absent;
}

absl::StatusOr<double> GgufFile::FloatOr(std::string_view key, double absent) const {
  return Has(key) ? Float(key) : absent;
}

absl::StatusOr<bool> GgufFile::BoolOr(std::string_view key, bool absent) const {
  return Has(key) ? Bool(key) : absent;
}

absl::StatusOr<std::string> GgufFile::StringOr(std::string_view key,
                                               std::string_view absent) const {
  return Has(key) ? String(key) : std::string(absent);
}

}  // namespace spotd::formats
