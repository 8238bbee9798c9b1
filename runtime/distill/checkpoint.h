// The two files a training run writes: a checkpoint to resume from, and the selector to serve with.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/distill/parameters.h"
#include "runtime/distill/trainer.h"
#include "runtime/formats/mapped_file.h"
#include "runtime/model/model_config.h"

namespace spotd::distill {

// Every option that changes what a step computes, the model and the text, by name.
using RunIdentity = std::map<std::string, std::string>;
RunIdentity IdentityOf(const TrainerOptions& options, const model::ModelConfig& model,
                       const std::string& corpus_fingerprint);

// fp32 weights and moments, the step, and the run they belong to.
absl::Status WriteCheckpoint(const std::string& path, const RunIdentity& run, int64_t next_step,
                             const Parameters& parameters);

// Returns the step to continue with. FAILED_PRECONDITION names what differs from `run`.
absl::StatusOr<int64_t> ReadCheckpoint(const std::string& path, const RunIdentity& run,
                                       Parameters* parameters);

// selector.safetensors as runtime/model/selector.h reads it: bf16 matrices, fp32 norms.
absl::Status WriteSelector(const std::string& path, const TrainerOptions& options,
                           const model::ModelConfig& model, int64_t next_step,
                           const Parameters& parameters);

// Whether one of these files can be written to `path` now: to be asked before the training.
absl::Status CheckWritable(const std::string& path);

// How a selector file keeps its matrices.
enum class SelectorStorage : uint8_t {
  kBf16,
  kInt8,  // half the bytes (runtime/model/selector_int8.h)
};

// Writes the selector file `from` to `to` (which may be the same) with `entries` in its metadata,
// replacing entries of the same names (an empty one removes it), and its matrices kept as `storage`
// says; 8 bits are not turned back into more. DATA_LOSS for a matrix that is not finite, which 8
// bits cannot hold. A failed write leaves an existing file as it was.
absl::Status RewriteSelector(const std::string& from, const std::string& to,
                             const std::map<std::string, std::string>& entries,
                             SelectorStorage storage = SelectorStorage::kBf16);
// The same of a file that is open.
absl::Status RewriteSelector(formats::MappedFile from, const std::string& to,
                             const std::map<std::string, std::string>& entries,
                             SelectorStorage storage = SelectorStorage::kBf16);
// The bytes that RewriteSelector would write.
absl::StatusOr<std::string> RewrittenSelector(formats::MappedFile from,
                                              const std::map<std::string, std::string>& entries,
                                              SelectorStorage storage = SelectorStorage::kBf16);

}  // namespace spotd::distill
