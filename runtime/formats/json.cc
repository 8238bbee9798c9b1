#include "runtime/formats/json.h"

#include <cmath>
#include <limits>
#include <set>

#include "kernels/core/status.h"

namespace spotd::formats {
namespace {

using nlohmann::json;

// Null when the member is absent or null.
const json* Member(const json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::Status WrongType(const std::string& what, const char* key, const json& value,
                       std::string_view wanted) {
  return InvalidArgument(what, ": \"", key, "\" is ", value.type_name(), ", not ", wanted);
}

}  // namespace

absl::StatusOr<json> ParseJsonObject(std::string_view text, const std::string& what) {
  std::set<std::string> seen;
  std::string duplicate;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth == 1 && event == json::parse_event_t::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!seen.insert(name).second) duplicate = name;
    }
    return true;
  };
  json object = json::parse(text, watch, /*allow_exceptions=*/false);
  if (object.is_discarded()) return DataLoss(what, ": not valid JSON");
  if (!object.is_object()) return DataLoss(what, ": not a JSON object");
  if (!duplicate.empty()) return DataLoss(what, ": \"", duplicate, "\" appears twice");
  return object;
}

std::optional<int64_t> JsonCount(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return static_cast<int64_t>(number);
}

absl::StatusOr<int64_t> JsonInt(const json& object, const char* key, int64_t absent,
                                const std::string& what) {
  const json* value = Member(object, key);
  if (value == nullptr) return absent;
  if (!value->is_number_integer()) return WrongType(what, key, *value, "an integer");
  return value->get<int64_t>();
}

absl::StatusOr<double> JsonDouble(const json& object, const char* key, double absent,
                                  const std::string& what) {
  const json* value = Member(object, key);
  if (value == nullptr) return absent;
  if (!value->is_number()) return WrongType(what, key, *value, "a number");
  return value->get<double>();
}

absl::StatusOr<bool> JsonBool(const json& object, const char* key, bool absent,
                              const std::string& what) {
  const json* value = Member(object, key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) return WrongType(what, key, *value, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonString(const json& object, const char* key,
                                       const std::string& absent, const std::string& what) {
  const json* value = Member(object, key);
  if (value == nullptr) return absent;
  if (!value->is_string()) return WrongType(what, key, *value, "a string");
  return value->get<std::string>();
}

}  // namespace spotd::formats
