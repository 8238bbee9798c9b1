#include <map>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/formats/gguf_file.h"
#include "runtime/model/checkpoint.h"

namespace spotd::model {
namespace {

constexpr std::string_view kFactorsTensor = "rope_freqs.weight";  // part of the configuration

class GgufSource : public ModelSource {
 public:
  GgufSource(formats::GgufFile file, ModelConfig config, text::TokenizerData tokenizer)
      : file_(std::move(file)), config_(std::move(config)), tokenizer_(std::move(tokenizer)) {}

  const ModelConfig& config() const override { return config_; }

  absl::StatusOr<TensorView> Tensor(const std::string& name) const override {
    const formats::GgufTensor* tensor = Find(name);
    if (tensor == nullptr) {
      return NotFound(path(), ": tensor ", GgufTensorName(name).value_or(name), " is missing");
    }
    return TensorView{tensor->type, tensor->shape, tensor->data, tensor->bytes};
  }

  bool HasTensor(const std::string& name) const override { return Find(name) != nullptr; }
  bool interleaved_qk_rows() const override { return config_.architecture == "llama"; }
  const text::TokenizerData& tokenizer_data() const override { return tokenizer_; }
  const std::string& path() const override { return file_.path(); }

 private:
  const formats::GgufTensor* Find(const std::string& name) const {
    const std::optional<std::string> gguf_name = GgufTensorName(name);
    if (!gguf_name) return nullptr;
    const auto it = file_.tensors().find(*gguf_name);
    return it == file_.tensors().end() ? nullptr : &it->second;
  }

  formats::GgufFile file_;
  ModelConfig config_;
  text::TokenizerData tokenizer_;
};

absl::Status CheckTensors(const formats::GgufFile& file, const ModelConfig& config) {
  for (const auto& [name, tensor] : file.tensors()) {
    if (name == kFactorsTensor) continue;
    SPOTD_RETURN_IF_ERROR(
        CheckTensorKnown(config, HuggingFaceTensorName(name).value_or(name), file.path()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenGguf(const std::string& path) {
  SPOTD_ASSIGN_OR_RETURN(formats::MappedFile mapped, formats::MappedFile::Open(path));
  return ReadGguf(std::move(mapped));
}

absl::StatusOr<std::unique_ptr<ModelSource>> ReadGguf(formats::MappedFile mapped) {
  SPOTD_ASSIGN_OR_RETURN(formats::GgufFile file, formats::GgufFile::Parse(std::move(mapped)));
  const std::string path = file.path();
  SPOTD_ASSIGN_OR_RETURN(ModelConfig config, ReadGgufConfig(file));
  if (config.architecture == "llama" && config.rope.rotary_dim != config.head_dim) {
    return Unimplemented(path, ": rotary embedding over part of a head is not supported");
  }
  SPOTD_RETURN_IF_ERROR(CheckTensors(file, config));
  SPOTD_ASSIGN_OR_RETURN(text::TokenizerData tokenizer, ReadGgufTokenizer(file));
  if (tokenizer.vocab.size() > static_cast<size_t>(config.vocab)) {
    return DataLoss(path, ": ", tokenizer.vocab.size(), " tokens for an embedding of ",
                    config.vocab, " rows");
  }
  return std::make_unique<GgufSource>(std::move(file), std::move(config), std::move(tokenizer));
}

}  // namespace spotd::model
