// Checkpoint tensors as floats on the host: norms, biases and other vectors, and whatever must be
// changed before use.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/model/model_source.h"

namespace spotd::model {

// DATA_LOSS naming `file`, `name` and both shapes when the tensor is not of `shape`.
absl::Status CheckShape(const TensorView& tensor, const std::vector<int64_t>& shape,
                        const std::string& file, const std::string& name);

// Every element, row-major.
std::vector<float> ToFloats(const TensorView& tensor);

}  // namespace spotd::model
