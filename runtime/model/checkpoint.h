// What the two checkpoint readers (gguf_source.cc, hf_source.cc) share: limits on geometry, the set
// of tensors a model of this kind consists of, and the readers themselves.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/formats/gguf_file.h"
#include "runtime/formats/mapped_file.h"
#include "runtime/model/model_config.h"
#include "runtime/model/model_source.h"
#include "runtime/text/tokenizer_data.h"

namespace spotd::model {

// DATA_LOSS or UNIMPLEMENTED, naming `file` and the field, when the geometry is impossible or
// beyond what the runtime is built for. Every size derived from a config that passes fits its type.
absl::Status CheckConfig(const ModelConfig& config, const std::string& file);

// UNIMPLEMENTED for a tensor (by Hugging Face name) that the forward pass would ignore: silently
// leaving out a weight would give wrong answers.
absl::Status CheckTensorKnown(const ModelConfig& config, const std::string& name,
                              const std::string& file);

// The GGUF name of a Hugging Face tensor name, and back; nothing for names that belong to no
// supported model.
std::optional<std::string> GgufTensorName(std::string_view hugging_face_name);
std::optional<std::string> HuggingFaceTensorName(std::string_view gguf_name);

// A file's or directory's name as clients see it: bytes that are not UTF-8, which neither gRPC nor
// JSON carry, become U+FFFD.
std::string DisplayName(std::string_view name);

// GGUF metadata -> configuration and text side.
absl::StatusOr<ModelConfig> ReadGgufConfig(const formats::GgufFile& file);
absl::StatusOr<text::TokenizerData> ReadGgufTokenizer(const formats::GgufFile& file);

// config.json (and generation_config.json; empty when there is none) -> configuration. `directory`
// names the model.
absl::StatusOr<ModelConfig> ReadHfConfig(std::string_view config_json,
                                         std::string_view generation_config_json,
                                         const std::string& directory);

absl::StatusOr<std::unique_ptr<ModelSource>> OpenGguf(const std::string& path);
// The same of a file that is open.
absl::StatusOr<std::unique_ptr<ModelSource>> ReadGguf(formats::MappedFile mapped);
absl::StatusOr<std::unique_ptr<ModelSource>> OpenHfDirectory(const std::string& path);

}  // namespace spotd::model
