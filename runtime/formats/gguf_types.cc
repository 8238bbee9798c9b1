#include "runtime/formats/gguf_types.h"

#include <array>

#include "kernels/core/status.h"

namespace spotd::formats {
namespace {

struct MetadataType {
  std::string_view name;
  size_t bytes;
};
constexpr std::array<MetadataType, 13> kMetadataTypes = {{{"uint8", 1},
                                                          {"int8", 1},
                                                          {"uint16", 2},
                                                          {"int16", 2},
                                                          {"uint32", 4},
                                                          {"int32", 4},
                                                          {"float32", 4},
                                                          {"bool", 1},
                                                          {"string", 0},
                                                          {"array", 0},
                                                          {"uint64", 8},
                                                          {"int64", 8},
                                                          {"float64", 8}}};

struct TensorType {
  uint32_t id;
  std::string_view name;
  std::optional<DType> dtype;  // empty: known by name, not supported
};
constexpr TensorType kTensorTypes[] = {
    {0, "F32", DType::kF32},      {1, "F16", DType::kF16},       {2, "Q4_0", DType::kQ4_0},
    {3, "Q4_1", DType::kQ4_1},    {6, "Q5_0", DType::kQ5_0},     {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},    {9, "Q8_1", std::nullopt},     {10, "Q2_K", std::nullopt},
    {11, "Q3_K", std::nullopt},   {12, "Q4_K", DType::kQ4K},     {13, "Q5_K", DType::kQ5K},
    {14, "Q6_K", DType::kQ6K},    {15, "Q8_K", std::nullopt},    {16, "IQ2_XXS", std::nullopt},
    {17, "IQ2_XS", std::nullopt}, {18, "IQ3_XXS", std::nullopt}, {19, "IQ1_S", std::nullopt},
    {20, "IQ4_NL", std::nullopt}, {21, "IQ3_S", std::nullopt},   {22, "IQ2_S", std::nullopt},
    {23, "IQ4_XS", std::nullopt}, {24, "I8", std::nullopt},      {25, "I16", std::nullopt},
    {26, "I32", std::nullopt},    {27, "I64", std::nullopt},     {28, "F64", std::nullopt},
    {29, "IQ1_M", std::nullopt},  {30, "BF16", DType::kBf16},    {34, "TQ1_0", std::nullopt},
    {35, "TQ2_0", std::nullopt},  {39, "MXFP4", std::nullopt},
};

const TensorType* FindTensorType(uint32_t id) {
  for (const TensorType& type : kTensorTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

}  // namespace

size_t GgufScalarBytes(GgufType type) {
  const auto index = static_cast<size_t>(type);
  return index < kMetadataTypes.size() ? kMetadataTypes[index].bytes : 0;
}

std::string GgufTypeName(GgufType type) {
  const auto index = static_cast<size_t>(type);
  if (index < kMetadataTypes.size()) return std::string(kMetadataTypes[index].name);
  return Concat("type ", index);
}

std::optional<DType> DTypeFromGgml(uint32_t id) {
  const TensorType* type = FindTensorType(id);
  return type == nullptr ? std::nullopt : type->dtype;
}

std::string GgmlTypeName(uint32_t id) {
  const TensorType* type = FindTensorType(id);
  return type == nullptr ? Concat("type ", id) : std::string(type->name);
}

}  // namespace spotd::formats
