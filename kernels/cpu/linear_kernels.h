// The inner loops of CpuLinear, compiled once per instruction set and chosen at run time (Highway).
//
// Activations are handed over in *tiles* of up to kTileRows rows, so that a weight once loaded and
// unpacked serves all rows of the tile. A tile of width w is laid [group or column][w rows]. The
// arithmetic of a row does not depend on its tile: every row goes through the same operations in
// the same order, whatever the width.
#pragma once

#include <cstdint>

#include "kernels/core/dequantize.h"
#include "kernels/core/dtype.h"

namespace spotd::kernels {

inline constexpr int kTileRows = 8;

// The widths that exist: 1, 2, 4 and 8. The rows that a tile lacks are zero.
constexpr int TileWidth(int64_t rows_left) {
  int width = 1;
  while (width < kTileRows && width < rows_left) width *= 2;
  return width;
}

// 32 columns of one row, as int8 with one scale: x[i] is about scale * q[i].
struct ActivationGroup {
  int8_t q[kQuantGroup];
  float scale;
  float scaled_sum;     // scale * sum of q, what an offset is multiplied by
  int32_t neg_sum;      // -(sum of q), what a zero point is multiplied by
  int32_t neg_sum_low;  // the same over the first 16
};

// Where a tile comes from. x: [rows, stride], of which the first `cols` columns are read.
struct TileSource {
  const float* x;
  int64_t stride;
  int64_t cols;
  int rows;   // 1 to width
  int width;  // TileWidth(...)
};

// tile: [cols / 32][width]. cols is a multiple of 32.
void QuantizeTile(const TileSource& source, ActivationGroup* tile);

// tile: [cols][width]
void InterleaveTile(const TileSource& source, float* tile);

// Panels [first_panel, end_panel) of a weight times `rows` rows.
struct PanelProduct {
  DType type;
  const uint8_t* panels;  // of the whole weight
  int64_t weight_rows;
  int64_t cols;
  int64_t first_panel;
  int64_t end_panel;
  const void* tiles;  // ActivationGroup for quantised types, else float: full tiles, then at most
                      // one narrower
  int64_t rows;
  const float* bias;  // nullable. [weight_rows]
  float* y;           // [rows, weight_rows]
  bool accumulate;
};

void MultiplyQuantizedPanels(const PanelProduct& product);
void MultiplyFloatPanels(const PanelProduct& product);

// Rows of one tile times one panel, before bias, into y. sums: [rows][16]
struct PanelSums {
  const float* sums;
  int64_t panel;
  int64_t first_row;
  int rows;
};
void StorePanelSums(const PanelProduct& product, const PanelSums& sums);

}  // namespace spotd::kernels
