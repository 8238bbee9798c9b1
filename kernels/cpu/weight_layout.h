// How a CpuWeight lies in memory: panels of 16 rows, one after the other, so that one 512-bit load
// (or two, or four narrower ones) serves 16 rows. Packing loses nothing: the quantised values and
// the stored scales are kept as they are, in (nearly) the bytes that the checkpoint has.
//
// Float panel: [cols][16 rows] of float, fp16 or bf16.
//
// Quantised panel: the scales of all its groups of 32 columns, padded to 64 bytes, then the groups'
// values. Values are stored unsigned, that is plus ZeroPoint(). A *line* is 64 bytes: [16 rows][4
// columns]. Chunk c of a group is its columns 4c to 4c + 3.
//   8 bits: 8 lines, line c = chunk c
//   4 bits: 4 lines, line j = chunk 2j in the low halves, 2j + 1 in the high halves
//   5 bits: as 4 bits, then a line whose bit c is the fifth bit of chunk c
//   6 bits: as 4 bits, then two lines; bits 2i and 2i + 1 of line j are the high bits of chunk 4j +
//   i
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/dequantize.h"
#include "kernels/core/dtype.h"

namespace spotd::kernels {

inline constexpr int kPanelRows = 16;
inline constexpr int kLineBytes = 64;
inline constexpr int kChunks = 8;          // per group
inline constexpr int kGroupsPerSuper = 8;  // groups of a K type that share d and m

enum class ScaleLayout : uint8_t {
  kNone,      // float types
  kHalf,      // per group: [16] fp16 d
  kHalfPair,  // per group: [16] fp16 d, [16] fp16 m
  kSuper32,   // per 8 groups: [16] fp16 d, [16] fp16 m, then per group [16] uint8 scale, [16] uint8
              // min
  kSuper16,   // per 8 groups: [16] fp16 d, then per half group [16] int8 scale
};

constexpr ScaleLayout GetScaleLayout(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16:
      return ScaleLayout::kNone;
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kQ5_0:
      return ScaleLayout::kHalf;
    case DType::kQ4_1:
    case DType::kQ5_1:
      return ScaleLayout::kHalfPair;
    case DType::kQ4K:
    case DType::kQ5K:
      return ScaleLayout::kSuper32;
    case DType::kQ6K:
      return ScaleLayout::kSuper16;
  }
  return ScaleLayout::kNone;
}

// Bits of a stored value, scales not counted.
constexpr int ValueBits(DType type) {
  switch (type) {
    case DType::kF32:
      return 32;
    case DType::kF16:
    case DType::kBf16:
      return 16;
    case DType::kQ8_0:
      return 8;
    case DType::kQ6K:
      return 6;
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ5K:
      return 5;
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ4K:
      return 4;
  }
  return 0;
}

// log2 of the zero point: the stored value that means 0 in the types that have no offset.
constexpr int ZeroPointShift(DType type) {
  return ValueBits(type) - 1;
}

constexpr int ZeroPoint(DType type) {
  const ScaleLayout scales = GetScaleLayout(type);
  const bool symmetric = scales == ScaleLayout::kHalf || scales == ScaleLayout::kSuper16;
  return symmetric ? 1 << ZeroPointShift(type) : 0;
}

constexpr size_t GroupValueBytes(DType type) {
  return static_cast<size_t>(ValueBits(type)) * kLineBytes;
}

constexpr size_t kSuper32Bytes = 64 + kGroupsPerSuper * 32;
constexpr size_t kSuper16Bytes = 32 + kGroupsPerSuper * 32;

// Bytes of the scales at the head of a panel of `groups` groups.
constexpr size_t PanelScaleBytes(DType type, int64_t groups) {
  const auto n = static_cast<size_t>(groups);
  size_t bytes = 0;
  switch (GetScaleLayout(type)) {
    case ScaleLayout::kNone:
      break;
    case ScaleLayout::kHalf:
      bytes = n * 32;
      break;
    case ScaleLayout::kHalfPair:
      bytes = n * 64;
      break;
    case ScaleLayout::kSuper32:
      bytes = n / kGroupsPerSuper * kSuper32Bytes;
      break;
    case ScaleLayout::kSuper16:
      bytes = n / kGroupsPerSuper * kSuper16Bytes;
      break;
  }
  return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
}

constexpr size_t PanelBytes(DType type, int64_t cols) {
  if (!IsQuantized(type)) {
    const size_t bytes = static_cast<size_t>(cols) * kPanelRows * RowBytes(type, 1);
    return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
  }
  const int64_t groups = cols / kQuantGroup;
  return PanelScaleBytes(type, groups) + static_cast<size_t>(groups) * GroupValueBytes(type);
}

constexpr int64_t NumPanels(int64_t rows) {
  return (rows + kPanelRows - 1) / kPanelRows;
}

// Writes row `row` (0 to 15) of a panel, zero before, from a checkpoint's row.
void PackRow(DType type, int64_t cols, const void* source, int row, uint8_t* panel);

// Reads it back: exactly the values of DequantizeRow. out: [cols]
void UnpackRow(DType type, int64_t cols, const uint8_t* panel, int row, float* out);

}  // namespace spotd::kernels
