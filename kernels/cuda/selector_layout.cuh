// How this backend orders the bytes of a block's selector keys.
//
// int4: every tile of 16 keys is the codes of all keys, then the scales of all keys. A key's code
// words (four bytes, eight codes, as in the plain layout of kernels/core/selector_key.h) are
// ordered by position within the group first: word w of group G lies at w * groups + G. A lane that
// wants one word of each group then loads 16 contiguous bytes at d = 128, and the two nibbles of
// its bytes are the two k halves of a tensor-core fragment. bf16, fp4: keys in the plain layout,
// one after the other.
#pragma once

#include "kernels/core/selector_key.h"
#include "kernels/cuda/paged.cuh"

namespace spotd::kernels::cuda {

inline constexpr int kKeyTile = 16;

__device__ inline uint8_t* SelectorBlock(const KvLayer& layer, int32_t physical) {
  return static_cast<uint8_t*>(layer.selector_keys) +
         int64_t{physical} * layer.block_tokens *
             static_cast<int64_t>(SelectorKeyBytes(layer.selector_format, layer.selector_dim));
}

// Keys per tile: all of a block that does not divide into tiles of 16.
SPOTD_HOST_DEVICE inline int Int4TileTokens(int block_tokens) {
  return block_tokens % kKeyTile == 0 ? kKeyTile : block_tokens;
}

// Byte offsets within a block of a key's code byte `i` (plain order, [0, dim / 2)) and of its scale
// `group`.
__device__ inline int Int4CodeOffset(const KvLayer& layer, int token, int i) {
  const int dim = layer.selector_dim;
  const int tile_tokens = Int4TileTokens(layer.block_tokens);
  const int tile = token / tile_tokens;
  const int groups = dim / kInt4Group;
  const int group = i / 16;
  const int word = i % 16 / 4;
  return tile * tile_tokens * static_cast<int>(SelectorKeyBytes(SelectorKeyFormat::kInt4, dim)) +
         token % tile_tokens * dim / 2 + (word * groups + group) * 4 + i % 4;
}
__device__ inline int Int4ScaleOffset(const KvLayer& layer, int token, int group) {
  const int dim = layer.selector_dim;
  const int tile_tokens = Int4TileTokens(layer.block_tokens);
  const int tile = token / tile_tokens;
  return tile * tile_tokens * static_cast<int>(SelectorKeyBytes(SelectorKeyFormat::kInt4, dim)) +
         tile_tokens * dim / 2 + (token % tile_tokens * (dim / kInt4Group) + group) * 2;
}

// Dimension `i` of the key of `token` in `block` (SelectorBlock).
__device__ inline float SelectorKeyValue(const KvLayer& layer, const uint8_t* block, int token,
                                         int i) {
  const int dim = layer.selector_dim;
  switch (layer.selector_format) {
    case SelectorKeyFormat::kBf16:
      return __bfloat162float(reinterpret_cast<const Bf16x*>(block)[int64_t{token} * dim + i]);
    case SelectorKeyFormat::kInt4: {
      const int in_group = i % kInt4Group;
      const int group = i / kInt4Group;
      const uint8_t byte = block[Int4CodeOffset(layer, token, group * 16 + in_group % 16)];
      const auto code = static_cast<uint8_t>(in_group < 16 ? byte & 15 : byte >> 4);
      return Int4Value(
          code, *reinterpret_cast<const Fp16*>(block + Int4ScaleOffset(layer, token, group)));
    }
    case SelectorKeyFormat::kFp4: {
      const uint8_t* key = block + token * SelectorKeyBytes(SelectorKeyFormat::kFp4, dim);
      const int in_group = i % kFp4Group;
      const int group = i / kFp4Group;
      const uint8_t byte = key[group * 8 + in_group % 8];
      return Fp4Value(static_cast<uint8_t>(in_group < 8 ? byte & 15 : byte >> 4),
                      key[dim / 2 + group]);
    }
    default:
      return 0.0f;
  }
}

}  // namespace spotd::kernels::cuda
