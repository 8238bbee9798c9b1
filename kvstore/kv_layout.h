// The shape of one KV block in every layer, and the exact bytes it costs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/args.h"

namespace spotd::kvstore {

struct KvLayout {
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t block_tokens = 16;  // 16, 32 or 64
  bool summaries = true;      // keep per-block min/max of K (Quest)
  kernels::SelectorKeyFormat selector_format = kernels::SelectorKeyFormat::kNone;
  int32_t selector_dim = 0;

  // K and V of one block of one layer: one contiguous transfer.
  size_t KvBlockBytes() const {
    return size_t{2} * kv_heads * block_tokens * head_dim * sizeof(uint16_t);
  }
  size_t SummaryBlockBytes() const {
    return summaries ? size_t{2} * kv_heads * head_dim * sizeof(uint16_t) : 0;
  }
  size_t SelectorBlockBytes() const;
  // Everything one block costs over all layers: what `--kv_memory` is divided by.
  size_t BytesPerBlock() const {
    return layers * (KvBlockBytes() + SummaryBlockBytes() + SelectorBlockBytes());
  }
};

}  // namespace spotd::kvstore
