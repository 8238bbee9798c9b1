// Names and sizes of GGUF's metadata and tensor types.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/core/dtype.h"
#include "runtime/formats/gguf_file.h"

namespace spotd::formats {

// Bytes of a fixed-size metadata value; 0 for strings, arrays and numbers outside the enumeration.
size_t GgufScalarBytes(GgufType type);
// "uint32", "string", ...; "type 77" for what the format does not define.
std::string GgufTypeName(GgufType type);

// The tensor type with ggml's number `id`, where spotd can compute with it.
std::optional<DType> DTypeFromGgml(uint32_t id);
// ggml's name of any tensor type, for messages; "type 77" when unknown.
std::string GgmlTypeName(uint32_t id);

}  // namespace spotd::formats
