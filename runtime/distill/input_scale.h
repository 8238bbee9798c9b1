// How large the inputs are that a selector's matrices see. Norm weights differ between models and
// layers by an order of magnitude, and a selector's scores go with the square of its input.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kvstore/kv_store.h"
#include "runtime/model/transformer.h"

namespace spotd::distill {

// Root mean square of the normalised input of each layer's attention while the model reads
// `tokens`; [layers]. The first token, whose activations are often many times the others', is left
// out. The store must hold the tokens.
absl::StatusOr<std::vector<float>> MeasureInputs(kernels::Backend* backend,
                                                 model::Transformer* transformer,
                                                 kvstore::KvStore* store,
                                                 std::span<const int32_t> tokens);

}  // namespace spotd::distill
