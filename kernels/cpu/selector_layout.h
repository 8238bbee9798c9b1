// Order of the selector keys within a block of the CPU backend.
//
// 16 tokens make a tile, so that a lane of a vector is a token. A tile holds the elements of the
// plain form of a key (kernels/core/selector_key.h), transposed: element e of token t lies at
// e * 16 + t. Elements are bf16 values; or words of four code bytes, followed by the scales (fp16
// or e4m3). A word is what an int8 dot product adds up in one lane.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/selector_key.h"

namespace spotd::kernels::cpu {

inline constexpr int kSelectorTile = 16;
inline constexpr int kCodeWordBytes = 4;

struct CodeWord {
  uint8_t codes[kCodeWordBytes];
};

inline size_t SelectorTileBytes(SelectorKeyFormat format, int dim) {
  return kSelectorTile * SelectorKeyBytes(format, dim);
}

template <typename T>
void StoreColumn(const void* elements, int count, int lane, void* tile) {
  for (int e = 0; e < count; ++e) {
    static_cast<T*>(tile)[e * kSelectorTile + lane] = static_cast<const T*>(elements)[e];
  }
}

// Writes one key, in its plain form, to the block at `block`.
inline void StoreSelectorKey(SelectorKeyFormat format, const void* plain, int dim, int token,
                             std::byte* block) {
  std::byte* const tile =
      block + static_cast<size_t>(token / kSelectorTile) * SelectorTileBytes(format, dim);
  const int lane = token % kSelectorTile;
  if (format == SelectorKeyFormat::kBf16) return StoreColumn<Bf16>(plain, dim, lane, tile);
  const int code_bytes = dim / 2;
  StoreColumn<CodeWord>(plain, code_bytes / kCodeWordBytes, lane, tile);
  const void* const scales = static_cast<const uint8_t*>(plain) + code_bytes;
  std::byte* const tile_scales = tile + code_bytes * kSelectorTile;
  const int groups = dim / SelectorKeyGroup(format);
  if (format == SelectorKeyFormat::kInt4) {
    StoreColumn<Fp16>(scales, groups, lane, tile_scales);
  } else {
    StoreColumn<uint8_t>(scales, groups, lane, tile_scales);
  }
}

}  // namespace spotd::kernels::cpu
