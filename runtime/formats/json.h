// Parsing untrusted JSON without exceptions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace spotd::formats {

// The text must be one JSON object that names no member twice on its outermost level. `what` begins
// the error message.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& what);

// A non-negative JSON integer that fits; nothing for any other value.
std::optional<int64_t> JsonCount(const nlohmann::json& value);

// Typed members. Absent or null gives the default; another type gives INVALID_ARGUMENT naming
// `what` and the key.
absl::StatusOr<int64_t> JsonInt(const nlohmann::json& object, const char* key, int64_t absent,
                                const std::string& what);
absl::StatusOr<double> JsonDouble(const nlohmann::json& object, const char* key, double absent,
                                  const std::string& what);
absl::StatusOr<bool> JsonBool(const nlohmann::json& object, const char* key, bool absent,
                              const std::string& what);
absl::StatusOr<std::string> JsonString(const nlohmann::json& object, const char* key,
                                       const std::string& absent, const std::string& what);

}  // namespace spotd::formats
