#include "runtime/formats/safetensors_file.h"

#include <algorithm>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/formats/byte_reader.h"
#include "runtime/formats/json.h"

namespace spotd::formats {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
constexpr int64_t kMaxElements = int64_t{1} << 48;

std::optional<DType> SupportedType(std::string_view name) {
  if (name == "F32") return DType::kF32;
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBf16;
  return std::nullopt;
}

// Entries: non-negative integers, or nothing at all.
std::optional<std::vector<int64_t>> CountList(const json& entry, const char* key) {
  const auto it = entry.find(key);
  if (it == entry.end() || !it->is_array()) return std::nullopt;
  std::vector<int64_t> out;
  for (const json& item : *it) {
    const std::optional<int64_t> count = JsonCount(item);
    if (!count) return std::nullopt;
    out.push_back(*count);
  }
  return out;
}

std::optional<int64_t> ElementCount(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(elements, size, &elements) || elements > kMaxElements) {
      return std::nullopt;
    }
  }
  return elements;
}

}  // namespace

// Turns the header into tensors; a class so that each step has the file and its data section at
// hand.
class SafetensorsParser {
 public:
  explicit SafetensorsParser(SafetensorsFile* file) : file_(file) {}

  absl::Status Parse() {
    ByteReader reader(file_->file_.bytes());
    const auto header_bytes = reader.Read<uint64_t>();
    if (!reader.ok()) return DataLoss(file_->path(), ": truncated in the header length");
    if (header_bytes > kMaxHeaderBytes) {
      return InvalidArgument(file_->path(), ": not a safetensors file (its header would have ",
                             header_bytes, " bytes)");
    }
    const std::string_view text = reader.ReadBytes(header_bytes);
    if (!reader.ok()) return DataLoss(file_->path(), ": truncated in the header");
    SPOTD_ASSIGN_OR_RETURN(const json header, ParseJsonObject(text, file_->path() + ": header"));
    data_ = file_->file_.bytes().substr(reader.position());
    for (const auto& [name, entry] : header.items()) {
      SPOTD_RETURN_IF_ERROR(name == "__metadata__" ? AddMetadata(entry) : AddTensor(name, entry));
    }
    return CheckOverlap();
  }

 private:
  absl::Status AddMetadata(const json& entry) {
    if (!entry.is_object()) return DataLoss(file_->path(), ": __metadata__ is not an object");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) {
        return DataLoss(file_->path(), ": metadata \"", key, "\" is not a string");
      }
      file_->metadata_.emplace(key, value.get<std::string>());
    }
    return absl::OkStatus();
  }

  absl::Status AddTensor(const std::string& name, const json& entry) {
    const auto error = [&](const auto&... reason) {
      return DataLoss(file_->path(), ": tensor ", name, " ", reason...);
    };
    if (!entry.is_object()) return error("is not described by an object");
    const auto shape = CountList(entry, "shape");
    const auto offsets = CountList(entry, "data_offsets");
    const auto type = entry.find("dtype");
    if (!shape) return error("has no valid shape");
    if (!offsets || offsets->size() != 2) return error("has no valid data_offsets");
    if (type == entry.end() || !type->is_string()) return error("has no dtype");

    SafetensorsTensor tensor;
    tensor.type_name = type->get<std::string>();
    tensor.type = SupportedType(tensor.type_name);
    tensor.shape = *shape;
    const auto begin = static_cast<uint64_t>((*offsets)[0]);
    const auto end = static_cast<uint64_t>((*offsets)[1]);
    if (begin > end) return error("has data_offsets that run backwards");
    if (end > data_.size()) {
      return error("is truncated: it ends at byte ", end, " of the data, which has ", data_.size());
    }
    const std::optional<int64_t> elements = ElementCount(*shape);
    if (!elements) return error("has a shape out of range");
    tensor.data = data_.data() + begin;
    tensor.bytes = end - begin;
    if (tensor.type && tensor.bytes != RowBytes(*tensor.type, *elements)) {
      return error("has ", tensor.bytes, " bytes of data for ", *elements, " elements of ",
                   tensor.type_name);
    }
    file_->tensors_.emplace(name, std::move(tensor));
    return absl::OkStatus();
  }

  absl::Status CheckOverlap() const {
    using Item = std::pair<const std::string, SafetensorsTensor>;
    std::vector<const Item*> order;
    for (const Item& item : file_->tensors_) order.push_back(&item);
    const auto begin = [](const Item* item) { return static_cast<const char*>(item->second.data); };
    std::sort(order.begin(), order.end(), [&](const Item* a, const Item* b) {
      return std::pair(begin(a), a->second.bytes) < std::pair(begin(b), b->second.bytes);
    });
    for (size_t i = 1; i < order.size(); ++i) {
      if (begin(order[i - 1]) + order[i - 1]->second.bytes > begin(order[i])) {
        return DataLoss(file_->path(), ": tensors ", order[i - 1]->first, " and ", order[i]->first,
                        " overlap");
      }
    }
    return absl::OkStatus();
  }

  SafetensorsFile* file_;
  std::string_view data_;
};

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  SPOTD_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  return Parse(std::move(mapped));
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(MappedFile mapped) {
  SafetensorsFile file(std::move(mapped));
  SPOTD_RETURN_IF_ERROR(SafetensorsParser(&file).Parse());
  return file;
}

}  // namespace spotd::formats
