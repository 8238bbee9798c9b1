#include "kernels/cpu/weight_layout.h"

#include <cstring>

#include "kernels/core/float16.h"

namespace spotd::kernels {
namespace {

constexpr uint32_t kLowNibbles = 0x0f0f0f0fu;

// A chunk of one row: four values, one a byte.
uint32_t LoadChunk(const uint8_t* bytes) {
  uint32_t chunk;
  std::memcpy(&chunk, bytes, sizeof(chunk));
  return chunk;
}

void StoreChunk(uint32_t chunk, uint8_t* bytes) {
  std::memcpy(bytes, &chunk, sizeof(chunk));
}

// One row's share of a line.
template <typename Byte>
Byte* LineAt(Byte* values, int line, int row) {
  return values + line * kLineBytes + row * 4;
}

void PackValues(int bits, const uint8_t* unsigned_values, int row, uint8_t* values) {
  uint32_t chunks[kChunks];
  std::memcpy(chunks, unsigned_values, sizeof(chunks));
  if (bits == 8) {
    for (int c = 0; c < kChunks; ++c) StoreChunk(chunks[c], LineAt(values, c, row));
    return;
  }
  for (int j = 0; j < 4; ++j) {
    const uint32_t low = chunks[2 * j] & kLowNibbles, high = chunks[2 * j + 1] & kLowNibbles;
    StoreChunk(low | (high << 4), LineAt(values, j, row));
  }
  const int high_bits = bits - 4;  // 0, 1 or 2 of each value
  for (int j = 0; j < high_bits; ++j) {
    uint32_t word = 0;
    const int chunks_per_line = kChunks / high_bits;
    for (int i = 0; i < chunks_per_line; ++i) {
      word |= ((chunks[j * chunks_per_line + i] >> 4) & kLowNibbles) << (high_bits * i);
    }
    StoreChunk(word, LineAt(values, 4 + j, row));
  }
}

void UnpackValues(int bits, const uint8_t* values, int row, uint8_t* unsigned_values) {
  uint32_t chunks[kChunks];
  for (int c = 0; c < kChunks; ++c) {
    if (bits == 8) {
      chunks[c] = LoadChunk(LineAt(values, c, row));
      continue;
    }
    chunks[c] = (LoadChunk(LineAt(values, c / 2, row)) >> (4 * (c % 2))) & kLowNibbles;
    const int high_bits = bits - 4;
    if (high_bits == 0) continue;
    const int chunks_per_line = kChunks / high_bits;
    const uint32_t line = LoadChunk(LineAt(values, 4 + c / chunks_per_line, row));
    const uint32_t mask = high_bits == 1 ? 0x01010101u : 0x03030303u;
    chunks[c] |= ((line >> (high_bits * (c % chunks_per_line))) & mask) << 4;
  }
  std::memcpy(unsigned_values, chunks, sizeof(chunks));
}

// Addresses of one row's part of a group; the fields that a scale layout lacks are null.
template <typename Byte>
struct GroupFields {
  Byte* d = nullptr;
  Byte* m = nullptr;
  Byte* sub_scale[2] = {nullptr, nullptr};
  Byte* sub_min = nullptr;
  Byte* values = nullptr;  // of all rows
};

template <typename Byte>
GroupFields<Byte> FindGroup(DType type, Byte* panel, int64_t group, int row) {
  const int in_record = static_cast<int>(group % RecordGroups(type));
  Byte* const record = panel + static_cast<size_t>(group / RecordGroups(type)) * RecordBytes(type);
  GroupFields<Byte> fields;
  fields.values =
      record + RecordScaleBytes(type) + static_cast<size_t>(in_record) * GroupValueBytes(type);
  fields.d = record + row * 2;
  switch (GetScaleLayout(type)) {
    case ScaleLayout::kNone:
      break;
    case ScaleLayout::kHalf:
      fields.d += in_record * 32;
      break;
    case ScaleLayout::kHalfPair:
      fields.m = fields.d + 32;
      break;
    case ScaleLayout::kSuper32:
      fields.m = fields.d + 32;
      fields.sub_scale[0] = record + 64 + in_record * 32 + row;
      fields.sub_min = fields.sub_scale[0] + 16;
      break;
    case ScaleLayout::kSuper16:
      fields.sub_scale[0] = record + 32 + in_record * 32 + row;
      fields.sub_scale[1] = fields.sub_scale[0] + 16;
      break;
  }
  return fields;
}

void PackScales(const QuantGroup& group, const GroupFields<uint8_t>& fields) {
  std::memcpy(fields.d, &group.d, sizeof(Fp16));
  if (fields.m != nullptr) std::memcpy(fields.m, &group.m, sizeof(Fp16));
  for (int i = 0; i < 2; ++i) {
    if (fields.sub_scale[i] == nullptr) continue;
    *fields.sub_scale[i] = static_cast<uint8_t>(group.sub_scale[i]);
  }
  if (fields.sub_min != nullptr) *fields.sub_min = static_cast<uint8_t>(group.sub_min);
}

float LoadHalf(const uint8_t* bytes) {
  Fp16 half;
  std::memcpy(&half, bytes, sizeof(half));
  return ToFloat(half);
}

void UnpackScales(const GroupFields<const uint8_t>& fields, QuantGroup* group) {
  const float d = LoadHalf(fields.d);
  for (int i = 0; i < 2; ++i) {
    const uint8_t* sub = fields.sub_scale[i] != nullptr ? fields.sub_scale[i] : fields.sub_scale[0];
    group->scale[i] = sub == nullptr ? d : d * static_cast<float>(static_cast<int8_t>(*sub));
  }
  group->offset = fields.m == nullptr ? -0.0f : LoadHalf(fields.m);
  if (fields.sub_min != nullptr) group->offset *= -static_cast<float>(*fields.sub_min);
}

void PackQuantizedRow(DType type, int64_t cols, const void* source, int row, uint8_t* panel) {
  const int zero = ZeroPoint(type);
  QuantGroup group;
  uint8_t unsigned_values[kQuantGroup];
  for (int64_t g = 0; g < cols / kQuantGroup; ++g) {
    DecodeQuantGroup(type, source, g, &group);
    for (int i = 0; i < kQuantGroup; ++i) {
      unsigned_values[i] = static_cast<uint8_t>(group.q[i] + zero);
    }
    const GroupFields<uint8_t> fields = FindGroup(type, panel, g, row);
    PackScales(group, fields);
    PackValues(ValueBits(type), unsigned_values, row, fields.values);
  }
}

void UnpackQuantizedRow(DType type, int64_t cols, const uint8_t* panel, int row, float* out) {
  const int zero = ZeroPoint(type);
  QuantGroup group;
  uint8_t unsigned_values[kQuantGroup];
  for (int64_t g = 0; g < cols / kQuantGroup; ++g) {
    const GroupFields<const uint8_t> fields = FindGroup(type, panel, g, row);
    UnpackScales(fields, &group);
    UnpackValues(ValueBits(type), fields.values, row, unsigned_values);
    for (int i = 0; i < kQuantGroup; ++i) {
      const float product = group.scale[i / 16] * static_cast<float>(unsigned_values[i] - zero);
      out[g * kQuantGroup + i] = product + group.offset;
    }
  }
}

}  // namespace

void PackRow(DType type, int64_t cols, const void* source, int row, uint8_t* panel) {
  if (IsQuantized(type)) return PackQuantizedRow(type, cols, source, row, panel);
  const size_t size = RowBytes(type, 1);
  const auto* from = static_cast<const uint8_t*>(source);
  uint8_t* to = panel + static_cast<size_t>(row) * size;
  for (int64_t c = 0; c < cols; ++c, from += size, to += kPanelRows * size) {
    std::memcpy(to, from, size);
  }
}

void UnpackRow(DType type, int64_t cols, const uint8_t* panel, int row, float* out) {
  if (IsQuantized(type)) return UnpackQuantizedRow(type, cols, panel, row, out);
  const size_t size = RowBytes(type, 1);
  const uint8_t* from = panel + static_cast<size_t>(row) * size;
  for (int64_t c = 0; c < cols; ++c, from += kPanelRows * size) {
    DequantizeRow(type, from, out + c, 1);
  }
}

}  // namespace spotd::kernels
