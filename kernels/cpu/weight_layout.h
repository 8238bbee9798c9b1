// How a CpuWeight lies in memory: panels of 16 rows, one after the other, so that one 512-bit load
// (or two, or four narrower ones) serves 16 rows. Packing loses nothing: the quantised values and
// the stored scales are kept as they are, in (nearly) the bytes that the checkpoint has.
//
// Float panel: [cols][16 rows] of float, fp16 or bf16.
//
// Quantised panel: records of 1, 2 or 8 groups of 32 columns; a record is the scales of its groups,
// padded to 64 bytes, then their values. So a kernel reads a weight in the order it lies in, which
// is the pattern that the processor's prefetchers know: with the scales in a stream of their own, a
// thread reached half the read rate.
//
// Values are stored unsigned, that is plus ZeroPoint(). A *line* is 64 bytes, [16 rows][4 columns].
// Chunk c of a group is its columns 4c to 4c + 3.
//   8 bits: 8 lines, line c = chunk c
//   4 bits: 4 lines, line j = chunk 2j in the low halves, 2j + 1 in the high halves
//   5 bits: as 4 bits, then a line whose bit c is the fifth bit of chunk c
//   6 bits: as 4 bits, then two lines: bits 2i and 2i + 1 of line j are the high bits of chunk
//           4j + i
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

// The scales at the head of a record, 16 rows each.
enum class ScaleLayout : uint8_t {
  kNone,      // float types
  kHalf,      // 2 groups: fp16 d of the first, fp16 d of the second
  kHalfPair,  // 1 group: fp16 d, fp16 m
  kSuper32,   // 8 groups: fp16 d, fp16 m, then per group uint8 scale, uint8 min
  kSuper16,   // 8 groups: fp16 d, then per half group int8 scale
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

constexpr int RecordGroups(DType type) {
  switch (GetScaleLayout(type)) {
    case ScaleLayout::kNone:
    case ScaleLayout::kHalfPair:
      return 1;
    case ScaleLayout::kHalf:
      return 2;
    case ScaleLayout::kSuper32:
    case ScaleLayout::kSuper16:
      return kGroupsPerSuper;
  }
  return 1;
}

// Where the values of a record begin.
constexpr size_t RecordScaleBytes(DType type) {
  return RecordGroups(type) == kGroupsPerSuper ? 5 * kLineBytes : kLineBytes;
}

constexpr size_t RecordBytes(DType type) {
  return RecordScaleBytes(type) + static_cast<size_t>(RecordGroups(type)) * GroupValueBytes(type);
}

constexpr size_t PanelBytes(DType type, int64_t cols) {
  if (!IsQuantized(type)) {
    const size_t bytes = static_cast<size_t>(cols) * kPanelRows * RowBytes(type, 1);
    return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
  }
  const int64_t groups = cols / kQuantGroup;
  const int64_t records = (groups + RecordGroups(type) - 1) / RecordGroups(type);
  return static_cast<size_t>(records) * RecordBytes(type);
}

constexpr int64_t NumPanels(int64_t rows) {
  return (rows + kPanelRows - 1) / kPanelRows;
}

// Writes row `row` (0 to 15) of a panel, zero before, from a checkpoint's row.
void PackRow(DType type, int64_t cols, const void* source, int row, uint8_t* panel);

// Reads it back: exactly the values of DequantizeRow. out: [cols]
void UnpackRow(DType type, int64_t cols, const uint8_t* panel, int row, float* out);

}  // namespace spotd::kernels
