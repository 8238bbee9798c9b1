// From the engine's results to the messages of spotd.v1.
#pragma once

#include <optional>
#include <string>

#include "runtime/engine/engine.h"
#include "runtime/engine/request.h"
#include "runtime/model/policy.h"
#include "spotd/v1/inference.pb.h"
#include "spotd/v1/models.pb.h"
#include "spotd/v1/policy.pb.h"
#include "spotd/v1/sessions.pb.h"

namespace spotd::server {

v1::PolicyKind ToProto(model::PolicyKind kind);
std::optional<model::PolicyKind> FromProto(
    v1::PolicyKind kind);  // nothing for UNSPECIFIED and unknown values
v1::Policy ToProto(const model::Policy& policy);

std::string SessionName(const std::string& id);
v1::Session ToProto(const engine::SessionInfo& session);

// `block_tokens` turns block indices into token ranges; `keeps_session` is false for one-shot
// calls.
v1::GenerateResult ToProto(const engine::GenerateResult& result, int32_t block_tokens,
                           bool keeps_session);
v1::AppendResult ToProto(const engine::AppendResult& result);

// Adds a token to what is to be sent of its candidate.
void AddToken(const engine::TokenEvent& event, v1::TokenDelta* delta);

v1::TraceHeader ToHeader(const engine::SelectionRecord& record, const engine::Engine& engine,
                         int32_t block_tokens);
v1::TraceStep ToProto(const engine::SelectionRecord::Step& step);

std::string ModelName(const engine::Engine& engine);
v1::Model DescribeModel(const engine::Engine& engine, int32_t block_tokens);

}  // namespace spotd::server
