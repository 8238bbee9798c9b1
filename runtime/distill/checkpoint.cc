#include "runtime/distill/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <deque>
#include <iomanip>
#include <limits>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/core/float16.h"
#include "kernels/core/status.h"
#include "runtime/formats/safetensors_file.h"
#include "runtime/formats/safetensors_writer.h"
#include "runtime/model/selector_int8.h"
#include "runtime/model/tensor_convert.h"

namespace spotd::distill {
namespace {

using formats::SafetensorsOutput;
using Metadata = std::map<std::string, std::string>;

constexpr const char* kStepKey = "next_step";

// A number that is read back as it is.
std::string Exactly(double value) {
  return Concat(std::setprecision(std::numeric_limits<double>::max_digits10), value);
}

SafetensorsOutput FlatOutput(const std::string& name, const std::vector<float>& values) {
  return {name,
          "F32",
          {static_cast<int64_t>(values.size())},
          values.data(),
          values.size() * sizeof(float)};
}

absl::Status ReadFlat(const formats::SafetensorsFile& file, const std::string& name,
                      const Parameters& parameters, float* flat) {
  const auto found = file.tensors().find(name);
  const auto bytes = static_cast<size_t>(parameters.count()) * sizeof(float);
  if (found == file.tensors().end() || found->second.type != DType::kF32 ||
      found->second.bytes != bytes) {
    return DataLoss(file.path(), ": ", name, " is missing or has another size");
  }
  const auto* data = static_cast<const float*>(found->second.data);
  parameters.Upload(flat, std::vector<float>(data, data + parameters.count()));
  return absl::OkStatus();
}

absl::StatusOr<int64_t> StepOf(const formats::SafetensorsFile& file) {
  const auto found = file.metadata().find(kStepKey);
  int64_t step = -1;
  if (found != file.metadata().end()) {
    std::from_chars(found->second.data(), found->second.data() + found->second.size(), step);
  }
  if (step < 0) return DataLoss(file.path(), ": metadata ", kStepKey, " is missing or not a count");
  return step;
}

// A selector file with other metadata and perhaps other matrices, ready to be written.
class Rewrite {
 public:
  static absl::StatusOr<std::unique_ptr<Rewrite>> Of(formats::MappedFile from,
                                                     const Metadata& entries,
                                                     SelectorStorage storage) {
    SPOTD_ASSIGN_OR_RETURN(formats::SafetensorsFile file,
                           formats::SafetensorsFile::Parse(std::move(from)));
    std::unique_ptr<Rewrite> out(new Rewrite(std::move(file)));
    SPOTD_RETURN_IF_ERROR(out->AddTensors(storage));
    out->SetMetadata(entries);
    return out;
  }
  const std::vector<SafetensorsOutput>& outputs() const { return outputs_; }
  const Metadata& metadata() const { return metadata_; }

 private:
  explicit Rewrite(formats::SafetensorsFile file) : file_(std::move(file)) {}

  absl::Status AddTensors(SelectorStorage storage) {
    for (const auto& [name, tensor] : file_.tensors()) {
      int8_ |= tensor.type_name == model::kInt8TypeName;
      if (storage != SelectorStorage::kInt8 || tensor.shape.size() != 2 || !tensor.type ||
          tensor.bytes == 0) {
        outputs_.push_back({name, tensor.type_name, tensor.shape, tensor.data, tensor.bytes});
        continue;
      }
      SPOTD_RETURN_IF_ERROR(AddPacked(name, tensor));
    }
    return absl::OkStatus();
  }

  absl::Status AddPacked(const std::string& name, const formats::SafetensorsTensor& tensor) {
    const std::vector<float> values =
        model::ToFloats({*tensor.type, tensor.shape, tensor.data, tensor.bytes});
    if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); })) {
      return DataLoss(file_.path(), ": tensor ", name, " holds values that are not finite");
    }
    const model::Int8Matrix& matrix =
        packed_.emplace_back(model::QuantizeInt8(values, tensor.shape[0]));
    outputs_.push_back(
        {name, model::kInt8TypeName, tensor.shape, matrix.codes.data(), matrix.codes.size()});
    outputs_.push_back({model::Int8ScaleName(name),
                        "F32",
                        {tensor.shape[0]},
                        matrix.scales.data(),
                        matrix.scales.size() * sizeof(float)});
    int8_ = true;
    return absl::OkStatus();
  }

  void SetMetadata(const Metadata& entries) {
    metadata_ = file_.metadata();
    if (int8_) metadata_.insert_or_assign("format_version", std::string("2"));
    for (const auto& [key, value] : entries) {
      if (value.empty()) {
        metadata_.erase(key);
      } else {
        metadata_[key] = value;
      }
    }
  }

  formats::SafetensorsFile file_;
  std::vector<SafetensorsOutput> outputs_;  // pointing into file_ and packed_
  std::deque<model::Int8Matrix> packed_;    // does not move what it holds
  bool int8_ = false;
  Metadata metadata_;
};

}  // namespace

RunIdentity IdentityOf(const TrainerOptions& o, const model::ModelConfig& model,
                       const std::string& corpus_fingerprint) {
  return {{"config_hash", model.Fingerprint()},
          {"corpus", corpus_fingerprint},
          {"heads", Concat(o.selector.heads)},
          {"groups", Concat(o.selector.groups)},
          {"dim", Concat(o.selector.dim)},
          {"rope_theta", Exactly(o.selector.rope_theta)},
          {"length", Concat(o.length)},
          {"sequences", Concat(o.sequences_per_step)},
          {"tokens", Concat(o.tokens)},
          {"queries", Concat(o.queries)},
          {"learning_rate", Concat(o.learning_rate.peak)},
          {"warmup", Concat(o.learning_rate.warmup_steps)},
          {"input_rms", Concat(o.input_rms)},
          {"clip", Concat(o.clip_norm)},
          {"full_weight", Concat(o.full_weight)},
          {"residual_weight", Concat(o.residual_weight)},
          {"teacher_power", Concat(o.teacher_power)},
          {"group_power", Concat(o.group_power)},
          {"sparse_stage", Concat(o.sparse_stage)},
          {"sparse_fraction", Concat(o.sparse_fraction)},
          {"rounding_stage", Concat(o.rounding_stage)},
          {"rounded_keys", Concat(static_cast<int>(o.rounded_keys))},
          {"sink_tokens", Concat(o.sink_tokens)},
          {"recency_tokens", Concat(o.recency_tokens)},
          {"skip_probability", Concat(o.skip.probability)},
          {"skip_max_position", Concat(o.skip.max_position)},
          {"skip_cuts", Concat(o.skip.most_cuts)},
          {"skip_gap_power", Concat(o.skip.gap_power)},
          {"seed", Concat(o.seed)}};
}

absl::Status WriteCheckpoint(const std::string& path, const RunIdentity& run, int64_t next_step,
                             const Parameters& parameters) {
  const std::vector<float> weights = parameters.Download(parameters.weights());
  if (!std::all_of(weights.begin(), weights.end(), [](float w) { return std::isfinite(w); })) {
    return Internal("step ", next_step, ": a weight is not a number; ", path, " stays as it was");
  }
  const std::vector<float> first = parameters.Download(parameters.first_moment());
  const std::vector<float> second = parameters.Download(parameters.second_moment());
  Metadata metadata = run;
  metadata[kStepKey] = Concat(next_step);
  return formats::WriteSafetensors(
      path,
      {FlatOutput("weights", weights), FlatOutput("first_moment", first),
       FlatOutput("second_moment", second)},
      metadata);
}

absl::StatusOr<int64_t> ReadCheckpoint(const std::string& path, const RunIdentity& run,
                                       Parameters* parameters) {
  SPOTD_ASSIGN_OR_RETURN(const formats::SafetensorsFile file, formats::SafetensorsFile::Open(path));
  for (const auto& [key, value] : run) {
    const auto found = file.metadata().find(key);
    const std::string stored = found == file.metadata().end() ? "nothing" : found->second;
    if (stored != value) {
      return FailedPrecondition(path, ": made with ", key, " = ", stored, ", this run has ", value);
    }
  }
  SPOTD_ASSIGN_OR_RETURN(const int64_t step, StepOf(file));
  SPOTD_RETURN_IF_ERROR(ReadFlat(file, "weights", *parameters, parameters->weights()));
  SPOTD_RETURN_IF_ERROR(ReadFlat(file, "first_moment", *parameters, parameters->first_moment()));
  SPOTD_RETURN_IF_ERROR(ReadFlat(file, "second_moment", *parameters, parameters->second_moment()));
  return step;
}

absl::Status WriteSelector(const std::string& path, const TrainerOptions& options,
                           const model::ModelConfig& model, int64_t next_step,
                           const Parameters& parameters) {
  const std::vector<float> weights = parameters.Download(parameters.weights());
  std::vector<Bf16> halves(weights.size());
  std::transform(weights.begin(), weights.end(), halves.begin(), ToBf16);
  std::vector<SafetensorsOutput> outputs;
  for (const ParameterSlice& slice : parameters.slices()) {
    const bool matrix = slice.shape.size() == 2;
    const auto begin = static_cast<size_t>(slice.begin);
    const auto count = static_cast<size_t>(slice.count);
    const void* data = matrix ? static_cast<const void*>(&halves[begin]) : &weights[begin];
    outputs.push_back({slice.name, matrix ? "BF16" : "F32", slice.shape, data,
                       count * (matrix ? sizeof(Bf16) : sizeof(float))});
  }
  const int64_t tokens = next_step * options.length * options.sequences_per_step;
  return formats::WriteSafetensors(path, outputs,
                                   {{"format_version", "1"},
                                    {"base_model", model.name},
                                    {"config_hash", model.Fingerprint()},
                                    {"heads", Concat(options.selector.heads)},
                                    {"groups", Concat(options.selector.groups)},
                                    {"dim", Concat(options.selector.dim)},
                                    {"rope_theta", Exactly(options.selector.rope_theta)},
                                    {"block_size", Concat(options.selector.block_size)},
                                    {"training_tokens", Concat(tokens)},
                                    {"training_length", Concat(options.length)}});
}

absl::Status CheckWritable(const std::string& path) {
  return formats::CheckWritable(path);
}

absl::Status RewriteSelector(const std::string& from, const std::string& to,
                             const std::map<std::string, std::string>& entries,
                             SelectorStorage storage) {
  SPOTD_ASSIGN_OR_RETURN(formats::MappedFile file, formats::MappedFile::Open(from));
  return RewriteSelector(std::move(file), to, entries, storage);
}

absl::Status RewriteSelector(formats::MappedFile from, const std::string& to,
                             const std::map<std::string, std::string>& entries,
                             SelectorStorage storage) {
  SPOTD_ASSIGN_OR_RETURN(const auto rewrite, Rewrite::Of(std::move(from), entries, storage));
  return formats::WriteSafetensors(to, rewrite->outputs(), rewrite->metadata());
}

absl::StatusOr<std::string> RewrittenSelector(formats::MappedFile from,
                                              const std::map<std::string, std::string>& entries,
                                              SelectorStorage storage) {
  SPOTD_ASSIGN_OR_RETURN(const auto rewrite, Rewrite::Of(std::move(from), entries, storage));
  return formats::SafetensorsBytes(rewrite->outputs(), rewrite->metadata());
}

}  // namespace spotd::distill
