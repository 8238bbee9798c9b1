#include "runtime/formats/gguf_parser.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/formats/gguf_types.h"

namespace spotd::formats {
namespace {

constexpr std::string_view kMagic = "GGUF";
// The least a list entry can take in the file: bounds a count before memory is reserved for it.
constexpr uint64_t kMinValueBytes = 8 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;
constexpr uint64_t kMaxNameBytes = 65535;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr int64_t kMaxElements = int64_t{1} << 48;

// Control characters in a name from a corrupt file must not reach a terminal.
std::string Printable(std::string_view name) {
  std::string out;
  for (const char c : name.substr(0, 100)) out += (c >= ' ' && c <= '~') ? c : '?';
  return out;
}

}  // namespace

GgufParser::GgufParser(GgufFile* file) : file_(file), reader_(file->file_.bytes()) {}

absl::Status GgufParser::Parse() {
  SPOTD_RETURN_IF_ERROR(ParsePreamble());
  SPOTD_RETURN_IF_ERROR(ParseMetadata());
  SPOTD_RETURN_IF_ERROR(FindAlignment());
  SPOTD_RETURN_IF_ERROR(ParseTensorList());
  return PlaceTensors();
}

absl::Status GgufParser::Truncated(std::string_view where) const {
  return DataLoss(file_->path(), ": truncated or corrupt in ", where, " near byte ",
                  reader_.position(), " of ", file_->file_.bytes().size());
}

absl::Status GgufParser::ParsePreamble() {
  if (reader_.ReadBytes(kMagic.size()) != kMagic) {
    return InvalidArgument(file_->path(), ": not a GGUF file (it does not begin with \"GGUF\")");
  }
  const auto version = reader_.Read<uint32_t>();
  tensor_count_ = reader_.Read<uint64_t>();
  value_count_ = reader_.Read<uint64_t>();
  if (!reader_.ok()) return Truncated("the file header");
  if (version != 0 && (version & 0xffffu) == 0) {
    return Unimplemented(file_->path(), ": big-endian GGUF files are not supported");
  }
  if (version != 2 && version != 3) {
    return Unimplemented(file_->path(), ": GGUF version ", version,
                         " is not supported (2 and 3 are)");
  }
  if (value_count_ > reader_.remaining() / kMinValueBytes) {
    return DataLoss(file_->path(), ": announces ", value_count_,
                    " metadata values, more than the file has room for");
  }
  if (tensor_count_ > reader_.remaining() / kMinTensorBytes) {
    return DataLoss(file_->path(), ": announces ", tensor_count_,
                    " tensors, more than the file has room for");
  }
  return absl::OkStatus();
}

absl::Status GgufParser::ParseMetadata() {
  for (uint64_t i = 0; i < value_count_; ++i) {
    const std::string_view key = reader_.ReadString64();
    if (!reader_.ok()) return Truncated(Concat("the name of metadata value ", i));
    if (key.empty() || key.size() > kMaxNameBytes) {
      return DataLoss(file_->path(), ": metadata value ", i, " has a name of ", key.size(),
                      " bytes");
    }
    SPOTD_ASSIGN_OR_RETURN(GgufValue value, ParseValue(key));
    if (!file_->values_.emplace(key, value).second) {
      return DataLoss(file_->path(), ": metadata value \"", Printable(key), "\" appears twice");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufValue> GgufParser::ParseValue(std::string_view key) {
  GgufValue value;
  value.type = static_cast<GgufType>(reader_.Read<uint32_t>());
  if (value.type == GgufType::kString) {
    value.bytes = reader_.ReadString64();
  } else if (value.type == GgufType::kArray) {
    SPOTD_RETURN_IF_ERROR(ParseArray(key, &value));
  } else if (const size_t bytes = GgufScalarBytes(value.type); bytes != 0) {
    value.bytes = reader_.ReadBytes(bytes);
  } else {
    return DataLoss(file_->path(), ": metadata value \"", Printable(key), "\" is of undefined ",
                    GgufTypeName(value.type));
  }
  if (!reader_.ok()) return Truncated(Concat("metadata value \"", Printable(key), "\""));
  return value;
}

absl::Status GgufParser::ParseArray(std::string_view key, GgufValue* value) {
  value->element = static_cast<GgufType>(reader_.Read<uint32_t>());
  value->count = reader_.Read<uint64_t>();
  if (!reader_.ok()) return absl::OkStatus();  // reported by the caller
  const size_t begin = reader_.position();
  if (value->element == GgufType::kString) {
    for (uint64_t i = 0; i < value->count && reader_.ok(); ++i) reader_.ReadString64();
    if (!reader_.ok()) return absl::OkStatus();
    value->bytes = file_->file_.bytes().substr(begin, reader_.position() - begin);
    return absl::OkStatus();
  }
  const size_t element_bytes = GgufScalarBytes(value->element);
  if (element_bytes == 0) {
    return DataLoss(file_->path(), ": metadata value \"", Printable(key),
                    "\" is an array of unsupported ", GgufTypeName(value->element));
  }
  if (value->count > reader_.remaining() / element_bytes) {
    return Truncated(Concat("metadata value \"", Printable(key), "\""));
  }
  value->bytes = reader_.ReadBytes(value->count * element_bytes);
  return absl::OkStatus();
}

absl::Status GgufParser::FindAlignment() {
  SPOTD_ASSIGN_OR_RETURN(const int64_t alignment, file_->IntOr("general.alignment", 32));
  alignment_ = static_cast<uint64_t>(alignment);
  if (alignment < 1 || alignment_ > kMaxAlignment || !std::has_single_bit(alignment_)) {
    return DataLoss(file_->path(), ": general.alignment is ", alignment,
                    "; it must be a power of two of at most ", kMaxAlignment);
  }
  return absl::OkStatus();
}

absl::Status GgufParser::ParseTensorList() {
  entries_.reserve(tensor_count_);
  for (uint64_t i = 0; i < tensor_count_; ++i) {
    SPOTD_ASSIGN_OR_RETURN(Entry entry, ParseTensorEntry());
    entries_.push_back(std::move(entry));
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufParser::Entry> GgufParser::ParseTensorEntry() {
  Entry entry;
  const std::string_view name = reader_.ReadString64();
  const auto dimensions = reader_.Read<uint32_t>();
  if (!reader_.ok()) return Truncated(Concat("the name of tensor ", entries_.size()));
  if (name.empty() || name.size() > kMaxNameBytes) {
    return DataLoss(file_->path(), ": tensor ", entries_.size(), " has a name of ", name.size(),
                    " bytes");
  }
  entry.name = name;
  SPOTD_RETURN_IF_ERROR(ParseShape(&entry, dimensions));
  const auto type_id = reader_.Read<uint32_t>();
  entry.offset = reader_.Read<uint64_t>();
  if (!reader_.ok()) return Truncated(Concat("tensor ", Printable(name)));
  SPOTD_RETURN_IF_ERROR(ComputeBytes(&entry, type_id));
  return entry;
}

absl::Status GgufParser::ParseShape(Entry* entry, uint32_t dimensions) {
  if (dimensions < 1 || dimensions > kMaxDimensions) {
    return DataLoss(file_->path(), ": tensor ", Printable(entry->name), " has ", dimensions,
                    " dimensions; 1 to ", kMaxDimensions, " are possible");
  }
  int64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto size = static_cast<int64_t>(reader_.Read<uint64_t>());
    if (!reader_.ok()) return Truncated(Concat("the shape of tensor ", Printable(entry->name)));
    if (size < 1 || __builtin_mul_overflow(elements, size, &elements) || elements > kMaxElements) {
      return DataLoss(file_->path(), ": tensor ", Printable(entry->name), " has dimension ", i,
                      " of ", static_cast<uint64_t>(size), ", which is out of range");
    }
    entry->tensor.shape.insert(entry->tensor.shape.begin(), size);
  }
  return absl::OkStatus();
}

absl::Status GgufParser::ComputeBytes(Entry* entry, uint32_t type_id) {
  const std::optional<DType> type = DTypeFromGgml(type_id);
  if (!type) {
    return Unimplemented(file_->path(), ": tensor ", Printable(entry->name), " is of type ",
                         GgmlTypeName(type_id), ", which is not supported");
  }
  entry->tensor.type = *type;
  const int64_t cols = entry->tensor.shape.back();
  if (cols % GetDTypeInfo(*type).block_elements != 0) {
    return DataLoss(file_->path(), ": tensor ", Printable(entry->name), " has rows of ", cols,
                    " elements, not a whole number of ", GetDTypeInfo(*type).name, " blocks");
  }
  entry->tensor.bytes = RowBytes(*type, cols);
  for (size_t i = 0; i + 1 < entry->tensor.shape.size(); ++i) {
    entry->tensor.bytes *= static_cast<size_t>(entry->tensor.shape[i]);
  }
  return absl::OkStatus();
}

absl::Status GgufParser::PlaceTensors() {
  const std::string_view bytes = file_->file_.bytes();
  const uint64_t data_begin = (reader_.position() + alignment_ - 1) / alignment_ * alignment_;
  const uint64_t data_bytes = bytes.size() > data_begin ? bytes.size() - data_begin : 0;
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return a.offset < b.offset; });
  uint64_t used = 0;
  for (Entry& entry : entries_) {
    const std::string name = Printable(entry.name);
    if (entry.offset % alignment_ != 0) {
      return DataLoss(file_->path(), ": tensor ", name, " is at offset ", entry.offset,
                      ", not a multiple of the alignment, ", alignment_);
    }
    if (entry.offset > data_bytes || entry.tensor.bytes > data_bytes - entry.offset) {
      return DataLoss(file_->path(), ": truncated: tensor ", name, " needs ", entry.tensor.bytes,
                      " bytes at offset ", entry.offset, " of the data, which has ", data_bytes);
    }
    if (entry.offset < used) {
      return DataLoss(file_->path(), ": tensor ", name, " overlaps the one before it");
    }
    used = entry.offset + entry.tensor.bytes;
    entry.tensor.data = bytes.data() + data_begin + entry.offset;
    if (!file_->tensors_.emplace(entry.name, std::move(entry.tensor)).second) {
      return DataLoss(file_->path(), ": tensor ", name, " appears twice");
    }
  }
  return absl::OkStatus();
}

}  // namespace spotd::formats
