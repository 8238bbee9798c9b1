// Checkpoints of well-known geometries with random weights, so that speed can be measured without
// downloading one.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/model/model_source.h"

namespace spotd::tools {

// What names a synthetic model where a path is expected: "synthetic:qwen3-8b".
inline constexpr std::string_view kSyntheticPrefix = "synthetic:";

// qwen3-0.6b, -4b, -8b, -14b, -32b, llama-3.1-8b, or tiny, to try something out: bf16 weights of
// the right shapes, all drawn from one buffer as large as the largest of them. No tokenizer.
// INVALID_ARGUMENT lists the names.
absl::StatusOr<std::unique_ptr<model::ModelSource>> MakeSyntheticSource(std::string_view name);
// Its configuration alone. Makes no weights.
absl::StatusOr<model::ModelConfig> SyntheticConfig(std::string_view name);

}  // namespace spotd::tools
