#include "kvstore/kv_layout.h"

#include "kernels/core/selector_key.h"

namespace spotd::kvstore {

size_t KvLayout::SelectorBlockBytes() const {
  return size_t(block_tokens) * kernels::SelectorKeyBytes(selector_format, selector_dim);
}

}  // namespace spotd::kvstore
