#include <filesystem>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/formats/mapped_file.h"
#include "runtime/formats/safetensors_file.h"
#include "runtime/model/checkpoint.h"
#include "runtime/text/tokenizer_json.h"

namespace spotd::model {
namespace {

constexpr size_t kMaxConfigBytes = 16u << 20;
constexpr size_t kMaxTokenizerBytes = 256u << 20;

class HfSource : public ModelSource {
 public:
  HfSource(std::string path, formats::SafetensorsCheckpoint checkpoint, ModelConfig config,
           text::TokenizerData tokenizer)
      : path_(std::move(path)),
        checkpoint_(std::move(checkpoint)),
        config_(std::move(config)),
        tokenizer_(std::move(tokenizer)) {}

  const ModelConfig& config() const override { return config_; }

  absl::StatusOr<TensorView> Tensor(const std::string& name) const override {
    const formats::SafetensorsTensor* tensor = checkpoint_.Find(name);
    if (tensor == nullptr) return NotFound(path_, ": tensor ", name, " is missing");
    if (!tensor->type) {
      return Unimplemented(checkpoint_.FileOf(name), ": tensor ", name, " is of type ",
                           tensor->type_name, ", which is not supported");
    }
    return TensorView{*tensor->type, tensor->shape, tensor->data, tensor->bytes};
  }

  bool HasTensor(const std::string& name) const override {
    return checkpoint_.Find(name) != nullptr;
  }
  bool interleaved_qk_rows() const override { return false; }
  const text::TokenizerData& tokenizer_data() const override { return tokenizer_; }
  const std::string& path() const override { return path_; }

 private:
  std::string path_;
  formats::SafetensorsCheckpoint checkpoint_;
  ModelConfig config_;
  text::TokenizerData tokenizer_;
};

// Empty when the file does not exist.
absl::StatusOr<std::string> ReadOptional(const std::string& path, size_t max_bytes) {
  auto text = formats::ReadTextFile(path, max_bytes);
  if (!text.ok() && text.status().code() == absl::StatusCode::kNotFound) return std::string();
  return text;
}

absl::StatusOr<text::TokenizerData> ReadTokenizer(const std::string& directory,
                                                  ModelConfig* config) {
  const std::string path = directory + "/tokenizer.json";
  SPOTD_ASSIGN_OR_RETURN(const std::string json, formats::ReadTextFile(path, kMaxTokenizerBytes));
  SPOTD_ASSIGN_OR_RETURN(const std::string tokenizer_config,
                         ReadOptional(directory + "/tokenizer_config.json", kMaxConfigBytes));
  auto data = text::ParseTokenizerJson(json, tokenizer_config);
  if (!data.ok())
    return absl::Status(data.status().code(),
                        Concat(path, ": ", std::string(data.status().message())));
  SPOTD_ASSIGN_OR_RETURN(const std::string chat_template,
                         ReadOptional(directory + "/chat_template.jinja", kMaxConfigBytes));
  if (!chat_template.empty()) data->chat_template = chat_template;
  if (config->eos_tokens.empty() && data->eos >= 0) config->eos_tokens.push_back(data->eos);
  return data;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenHfDirectory(const std::string& path) {
  SPOTD_ASSIGN_OR_RETURN(const std::string config_json,
                         formats::ReadTextFile(path + "/config.json", kMaxConfigBytes));
  SPOTD_ASSIGN_OR_RETURN(const std::string generation_json,
                         ReadOptional(path + "/generation_config.json", kMaxConfigBytes));
  SPOTD_ASSIGN_OR_RETURN(ModelConfig config, ReadHfConfig(config_json, generation_json, path));
  SPOTD_ASSIGN_OR_RETURN(auto checkpoint, formats::SafetensorsCheckpoint::Open(path));
  for (const std::string& name : checkpoint.names()) {
    SPOTD_RETURN_IF_ERROR(CheckTensorKnown(config, name, checkpoint.FileOf(name)));
  }
  SPOTD_ASSIGN_OR_RETURN(text::TokenizerData tokenizer, ReadTokenizer(path, &config));
  return std::make_unique<HfSource>(path, std::move(checkpoint), std::move(config),
                                    std::move(tokenizer));
}

}  // namespace spotd::model
