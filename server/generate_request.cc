#include "server/generate_request.h"

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "server/requests.h"
#include "server/status_map.h"

namespace spotd::server {
namespace {

// The part that does not depend on a session.
template <typename Message>
absl::StatusOr<engine::GenerateRequest> ConvertPrompt(const Message& message,
                                                      const ServiceContext& context) {
  engine::GenerateRequest request;
  InputCollector input(context.max_prompt_bytes);
  for (const v1::Input& piece : message.prompt()) {
    SPOTD_RETURN_IF_ERROR(input.Add(piece, "prompt"));
  }
  request.prompt = input.Take();
  SPOTD_ASSIGN_OR_RETURN(request.sampling, ToSampling(message.sampling()));
  request.report_blocks = message.top_blocks();
  request.top_logprobs = message.top_logprobs();
  if (message.has_candidate_count()) request.candidates = message.candidate_count();
  request.priority = message.priority();
  return request;
}

// What the request's policy is laid over: the session's, or else the server's.
absl::StatusOr<model::Policy> BasePolicy(const engine::GenerateRequest& request,
                                         const ServiceContext& context) {
  if (request.session_id.empty()) return context.engine->options().default_policy;
  SPOTD_ASSIGN_OR_RETURN(const engine::SessionInfo session,
                         context.engine->GetSession({request.session_id, request.tenant}));
  return session.policy;
}

absl::Status SetPolicy(const v1::Policy& policy, const ServiceContext& context,
                       engine::GenerateRequest* request) {
  SPOTD_ASSIGN_OR_RETURN(const model::Policy base, BasePolicy(*request, context));
  SPOTD_ASSIGN_OR_RETURN(request->policy, OverlayPolicy(policy, base, *context.engine, "policy"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<engine::GenerateRequest> ToGenerateRequest(const v1::GenerateRequest& message,
                                                          const std::string& tenant,
                                                          const ServiceContext& context) {
  SPOTD_ASSIGN_OR_RETURN(engine::GenerateRequest request, ConvertPrompt(message, context));
  request.tenant = tenant;
  request.etag = message.etag();
  request.request_id = message.request_id();
  request.record_selection = message.record_trace();
  if (!request.request_id.empty()) {
    v1::GenerateRequest asked = message;
    asked.clear_etag();
    asked.clear_priority();
    request.fingerprint = Fingerprint(asked);
  }
  if (!message.session().empty()) {
    SPOTD_ASSIGN_OR_RETURN(request.session_id, SessionId(message.session(), "session"));
  }
  if (message.has_policy()) {
    SPOTD_RETURN_IF_ERROR(SetPolicy(message.policy(), context, &request));
  }
  return request;
}

absl::StatusOr<engine::GenerateRequest> ToGenerateRequest(const v1::CompleteRequest& message,
                                                          const std::string& tenant,
                                                          const ServiceContext& context) {
  SPOTD_ASSIGN_OR_RETURN(engine::GenerateRequest request, ConvertPrompt(message, context));
  request.tenant = tenant;
  if (message.has_policy()) {
    SPOTD_RETURN_IF_ERROR(SetPolicy(message.policy(), context, &request));
  }
  return request;
}

absl::Status ServerBusy() {
  return engine::MakeError(absl::StatusCode::kResourceExhausted,
                           "too many calls are waiting to be prepared",
                           {.reason = engine::reason::kServerBusy,
                            .field = "",
                            .metadata = {},
                            .retry_after = std::chrono::seconds(1)});
}

}  // namespace spotd::server
