#include <memory>
#include <string>
#include <vector>

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "runtime/engine/request_check.h"
#include "server/replies.h"
#include "server/requests.h"
#include "server/service_context.h"
#include "server/status_map.h"
#include "server/unary_call.h"
#include "spotd/v1/models.grpc.pb.h"

namespace spotd::server {
namespace {

using S = v1::ModelService;
using RawService = S::WithRawCallbackMethod_ListModels<S::WithRawCallbackMethod_GetModel<
    S::WithRawCallbackMethod_Tokenize<S::WithRawCallbackMethod_Detokenize<S::Service>>>>;

class ModelServiceImpl final : public RawService {
 public:
  explicit ModelServiceImpl(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* in, grpc::ByteBuffer* out) override {
    return RunUnary<v1::ListModelsRequest, v1::ListModelsResponse>(
        context_, "ListModels", {context, in, out},
        [this](const v1::ListModelsRequest&, const std::string&) {
          v1::ListModelsResponse response;
          *response.add_models() = DescribeModel(*context_.engine, context_.block_tokens);
          return response;
        });
  }
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* in, grpc::ByteBuffer* out) override {
    return RunUnary<v1::GetModelRequest, v1::Model>(
        context_, "GetModel", {context, in, out},
        [this](const v1::GetModelRequest& request, const std::string&) { return Get(request); });
  }
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* in, grpc::ByteBuffer* out) override {
    return RunUnary<v1::TokenizeRequest, v1::TokenizeResponse>(
        context_, "Tokenize", {context, in, out},
        [this](const v1::TokenizeRequest& request, const std::string&) { return Encode(request); });
  }
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* in, grpc::ByteBuffer* out) override {
    return RunUnary<v1::DetokenizeRequest, v1::DetokenizeResponse>(
        context_, "Detokenize", {context, in, out},
        [this](const v1::DetokenizeRequest& request, const std::string&) {
          return Decode(request);
        });
  }

 private:
  const text::Tokenizer& tokenizer() const { return context_.engine->tokenizer(); }

  absl::Status CheckModel(const std::string& name) const {
    if (name == ModelName(*context_.engine)) return absl::OkStatus();
    return engine::MakeError(
        absl::StatusCode::kNotFound,
        Concat("no model \"", name, "\"; this server runs ", ModelName(*context_.engine)),
        {.reason = engine::reason::kModelNotFound,
         .field = "",
         .metadata = {{"model", ModelName(*context_.engine)}},
         .retry_after = {}});
  }

  absl::StatusOr<v1::Model> Get(const v1::GetModelRequest& request) const {
    if (request.name().empty()) return FieldError("name", "is required");
    SPOTD_RETURN_IF_ERROR(CheckModel(request.name()));
    return DescribeModel(*context_.engine, context_.block_tokens);
  }

  absl::StatusOr<v1::TokenizeResponse> Encode(const v1::TokenizeRequest& request) const {
    if (!request.model().empty()) SPOTD_RETURN_IF_ERROR(CheckModel(request.model()));
    SPOTD_RETURN_IF_ERROR(CheckBytes(request.text().size(), context_.max_prompt_bytes, "text"));
    SPOTD_ASSIGN_OR_RETURN(
        const std::vector<int32_t> ids,
        tokenizer().Encode(request.text(), {.add_special = request.add_special(),
                                            .parse_special = request.parse_special()}));
    v1::TokenizeResponse response;
    response.mutable_ids()->Add(ids.begin(), ids.end());
    return response;
  }

  absl::StatusOr<v1::DetokenizeResponse> Decode(const v1::DetokenizeRequest& request) const {
    if (!request.model().empty()) SPOTD_RETURN_IF_ERROR(CheckModel(request.model()));
    SPOTD_RETURN_IF_ERROR(CheckBytes(static_cast<size_t>(request.ids_size()) * sizeof(int32_t),
                                     context_.max_prompt_bytes, "ids"));
    SPOTD_RETURN_IF_ERROR(
        engine::CheckTokens({request.ids().data(), static_cast<size_t>(request.ids_size())},
                            tokenizer().vocab_size(), "ids"));
    v1::DetokenizeResponse response;
    text::StreamDecoder decoder(&tokenizer());
    for (int32_t id : request.ids()) {
      if (tokenizer().IsSpecial(id)) {
        if (!request.keep_special()) continue;
        response.mutable_text()->append(decoder.Finish());
        response.mutable_text()->append(tokenizer().TokenText(id));
        response.mutable_utf8()->append(tokenizer().TokenText(id));
      } else {
        response.mutable_text()->append(decoder.Push(id));
        response.mutable_utf8()->append(tokenizer().TokenBytes(id));
      }
    }
    response.mutable_text()->append(decoder.Finish());
    return response;
  }

  const ServiceContext& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewModelService(const ServiceContext& context) {
  return std::make_unique<ModelServiceImpl>(context);
}

}  // namespace spotd::server
