#include "runtime/model/selector.h"

#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "kernels/core/status.h"
#include "runtime/formats/safetensors_file.h"
#include "runtime/model/selector_int8.h"
#include "runtime/model/tensor_convert.h"

namespace spotd::model {
namespace {

constexpr std::array<const char*, 4> kParts = {"q", "k", "w", "k_norm"};

std::string TensorName(int32_t layer, const std::string& part) {
  return Concat("layers.", layer, ".selector.", part, ".weight");
}

std::vector<int64_t> PartShape(const SelectorConfig& config, int64_t hidden,
                               const std::string& part) {
  if (part == "q") return {int64_t{config.heads} * config.dim, hidden};
  if (part == "k") return {config.dim, hidden};
  if (part == "w") return {int64_t{config.groups} * config.heads, hidden};
  return {config.dim};
}

// The metadata's strings as numbers; the first failure is kept and later reads give defaults.
class MetadataReader {
 public:
  explicit MetadataReader(const formats::SafetensorsFile& file) : file_(file) {}

  std::string Text(const std::string& key) {
    const auto it = file_.metadata().find(key);
    if (it != file_.metadata().end()) return it->second;
    Fail(DataLoss(file_.path(), ": metadata \"", key, "\" is missing"));
    return "";
  }
  bool Has(const std::string& key) const { return file_.metadata().count(key) != 0; }

  template <typename T>
  T Number(const std::string& key, T least, T most) {
    const std::string text = Text(key);
    T value = {};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool whole = error == std::errc() && end == text.data() + text.size();
    // Written so that NaN is refused.
    if (!whole || !(value >= least && value <= most)) {
      Fail(DataLoss(file_.path(), ": metadata \"", key, "\" is \"", text.substr(0, 50),
                    "\"; a number between ", least, " and ", most, " is needed"));
      return least;
    }
    return value;
  }
  // `count` numbers separated by commas.
  template <typename T>
  std::vector<T> Numbers(const std::string& key, size_t count, T least, T most) {
    const std::string text = Text(key);
    std::vector<T> values;
    const char* at = text.data();
    const char* const text_end = text.data() + text.size();
    for (bool more = true; more && values.size() <= count;) {
      T value = {};
      const auto [end, error] = std::from_chars(at, text_end, value);
      if (error != std::errc() || !(value >= least && value <= most)) break;
      values.push_back(value);
      more = end != text_end && *end == ',';
      at = more ? end + 1 : end;
    }
    if (values.size() != count || at != text_end) {
      Fail(DataLoss(file_.path(), ": metadata \"", key, "\" is not ", count, " numbers between ",
                    least, " and ", most, " separated by commas"));
      values.assign(count, least);
    }
    return values;
  }
  const absl::Status& status() const { return status_; }

 private:
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const formats::SafetensorsFile& file_;
  absl::Status status_;
};

absl::StatusOr<SelectorConfig> ReadConfig(const formats::SafetensorsFile& file) {
  MetadataReader reader(file);
  const std::string version = reader.Text("format_version");
  SelectorConfig config;
  config.heads = reader.Number<int32_t>("heads", 1, kMaxSelectorHeads);
  if (reader.Has("groups")) config.groups = reader.Number<int32_t>("groups", 1, 1024);
  config.dim = reader.Number<int32_t>("dim", 32, 256);
  config.rope_theta = reader.Number<double>("rope_theta", 1.0, 1e12);
  config.block_size = reader.Number<int32_t>("block_size", 1, 1024);
  config.training_tokens = reader.Number<int64_t>("training_tokens", 0, int64_t{1} << 60);
  config.training_length = reader.Number<int32_t>("training_length", 0, 1 << 30);
  SPOTD_RETURN_IF_ERROR(reader.status());
  if (version != "1" && version != "2") {
    return Unimplemented(file.path(), ": selector format_version is \"", version.substr(0, 20),
                         "\"; this build reads versions 1 and 2");
  }
  if (config.dim % 32 != 0) {
    return DataLoss(file.path(), ": selector dim is ", config.dim, ", not a multiple of 32");
  }
  return config;
}

// What calibration added for each layer, where the file has it.
absl::Status ReadCalibration(const formats::SafetensorsFile& file, int32_t layers,
                             SelectorConfig* config) {
  MetadataReader reader(file);
  const auto count = static_cast<size_t>(layers);
  if (reader.Has("calibration")) {
    const bool one = reader.Text("calibration").find(',') == std::string::npos;
    config->score_scales = reader.Numbers<float>("calibration", one ? 1 : count, 1e-3f, 1e3f);
    if (one) config->score_scales.resize(count, config->score_scales.front());
  }
  if (!reader.Has("budget_p_residual")) return reader.status();
  const auto p_residual = reader.Numbers<float>("budget_p_residual", count, 1e-6f, 1.0f);
  const auto p_total = reader.Numbers<float>("budget_p_total", count, 1e-6f, 1.0f);
  const auto k_min = reader.Numbers<int32_t>("budget_k_min_tokens", count, 0, 1 << 26);
  SPOTD_RETURN_IF_ERROR(reader.status());
  for (size_t i = 0; i < count; ++i) {
    config->budget.push_back({p_residual[i], p_total[i], k_min[i]});
  }
  return absl::OkStatus();
}

// The mismatch that explains most is named first: geometry, then the hash over all of it.
absl::Status CheckBelongs(const formats::SafetensorsFile& file, const ModelConfig& model) {
  const auto mismatch = [&](std::string_view field, const auto& theirs, const auto& ours) {
    return FailedPrecondition(file.path(), ": this selector was made for another model: ", field,
                              " is ", theirs, ", the loaded model's is ", ours);
  };
  int32_t layers = 0;
  while (file.tensors().count(TensorName(layers, "q")) != 0) ++layers;
  if (layers != model.layers) return mismatch("layers", layers, model.layers);
  const auto& q_shape = file.tensors().at(TensorName(0, "q")).shape;
  const int64_t hidden = q_shape.size() == 2 ? q_shape[1] : 0;
  if (hidden != model.hidden) return mismatch("hidden", hidden, model.hidden);
  const auto hash = file.metadata().find("config_hash");
  if (hash == file.metadata().end()) {
    return DataLoss(file.path(), ": metadata \"config_hash\" is missing");
  }
  if (hash->second == model.Fingerprint()) return absl::OkStatus();
  const auto base = file.metadata().find("base_model");
  return mismatch(Concat("config_hash (base model \"",
                         base == file.metadata().end() ? "?" : base->second, "\")"),
                  hash->second, model.Fingerprint());
}

class FileSelector : public SelectorSource {
 public:
  FileSelector(formats::SafetensorsFile file, SelectorConfig config)
      : file_(std::move(file)), config_(config) {}

  // Reads the matrices that are kept in 8 bits.
  absl::Status Unpack() {
    for (const auto& [name, tensor] : file_.tensors()) {
      if (tensor.type_name != kInt8TypeName) continue;
      SPOTD_ASSIGN_OR_RETURN(unpacked_[name], ReadInt8(file_, name));
    }
    return absl::OkStatus();
  }

  const SelectorConfig& config() const override { return config_; }

  absl::StatusOr<TensorView> Tensor(int32_t layer, const std::string& part) const override {
    const std::string name = TensorName(layer, part);
    const auto it = file_.tensors().find(name);
    if (it == file_.tensors().end())
      return NotFound(file_.path(), ": tensor ", name, " is missing");
    const formats::SafetensorsTensor& tensor = it->second;
    if (const auto matrix = unpacked_.find(name); matrix != unpacked_.end()) {
      return TensorView{matrix->second.type, tensor.shape, matrix->second.bytes.data(),
                        matrix->second.bytes.size()};
    }
    if (!tensor.type) {
      return Unimplemented(file_.path(), ": tensor ", name, " is of type ", tensor.type_name,
                           ", which is not supported");
    }
    return TensorView{*tensor.type, tensor.shape, tensor.data, tensor.bytes};
  }

 private:
  formats::SafetensorsFile file_;
  SelectorConfig config_;
  std::map<std::string, StoredMatrix> unpacked_;  // of type I8 in the file
};

absl::Status CheckGroups(const std::string& path, const SelectorConfig& config,
                         const ModelConfig& model) {
  if (config.groups == 1 || config.groups == model.kv_heads) return absl::OkStatus();
  return FailedPrecondition(path, ": metadata \"groups\" is ", config.groups,
                            "; 1 or the loaded model's number of KV heads, ", model.kv_heads,
                            ", is needed");
}

absl::Status CheckTensors(const FileSelector& selector, const std::string& path,
                          const ModelConfig& model) {
  for (int32_t layer = 0; layer < model.layers; ++layer) {
    for (const char* part : kParts) {
      SPOTD_ASSIGN_OR_RETURN(const TensorView tensor, selector.Tensor(layer, part));
      SPOTD_RETURN_IF_ERROR(CheckShape(tensor, PartShape(selector.config(), model.hidden, part),
                                       path, TensorName(layer, part)));
    }
  }
  return absl::OkStatus();
}

class InMemorySelector : public SelectorSource {
 public:
  InMemorySelector(const ModelConfig& model, const SelectorConfig& config, uint64_t seed)
      : hidden_(model.hidden), config_(config) {
    std::mt19937_64 random(seed);
    // Scores of order one for a normalised input: rows of unit length.
    std::normal_distribution<float> weight(0.0f, 1.0f / std::sqrt(static_cast<float>(hidden_)));
    for (int32_t layer = 0; layer < model.layers; ++layer) {
      for (const std::string part : kParts) {
        int64_t count = 1;
        for (const int64_t size : PartShape(config_, hidden_, part)) count *= size;
        std::vector<float>& values = tensors_[TensorName(layer, part)];
        values.resize(static_cast<size_t>(count), 1.0f);
        if (part == "k_norm") continue;
        for (float& value : values) value = weight(random);
      }
    }
  }

  const SelectorConfig& config() const override { return config_; }

  absl::StatusOr<TensorView> Tensor(int32_t layer, const std::string& part) const override {
    const auto it = tensors_.find(TensorName(layer, part));
    if (it == tensors_.end()) return NotFound("no selector tensor ", TensorName(layer, part));
    return TensorView{DType::kF32, PartShape(config_, hidden_, part), it->second.data(),
                      it->second.size() * sizeof(float)};
  }

 private:
  int64_t hidden_;
  SelectorConfig config_;
  std::map<std::string, std::vector<float>> tensors_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SelectorSource>> OpenSelector(const std::string& path,
                                                             const ModelConfig& model) {
  SPOTD_ASSIGN_OR_RETURN(formats::MappedFile mapped, formats::MappedFile::Open(path));
  return ReadSelector(std::move(mapped), model);
}

absl::StatusOr<std::unique_ptr<SelectorSource>> ReadSelector(formats::MappedFile mapped,
                                                             const ModelConfig& model) {
  SPOTD_ASSIGN_OR_RETURN(formats::SafetensorsFile file,
                         formats::SafetensorsFile::Parse(std::move(mapped)));
  const std::string path = file.path();
  SPOTD_ASSIGN_OR_RETURN(SelectorConfig config, ReadConfig(file));
  SPOTD_RETURN_IF_ERROR(CheckBelongs(file, model));
  SPOTD_RETURN_IF_ERROR(CheckGroups(path, config, model));
  SPOTD_RETURN_IF_ERROR(ReadCalibration(file, model.layers, &config));
  auto selector = std::make_unique<FileSelector>(std::move(file), config);
  SPOTD_RETURN_IF_ERROR(selector->Unpack());
  SPOTD_RETURN_IF_ERROR(CheckTensors(*selector, path, model));
  return selector;
}

std::unique_ptr<SelectorSource> RandomSelector(const ModelConfig& model,
                                               const SelectorConfig& config, uint64_t seed) {
  return std::make_unique<InMemorySelector>(model, config, seed);
}

}  // namespace spotd::model
