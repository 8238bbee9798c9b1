#include "server/replies.h"

#include <algorithm>

#include "server/time_util.h"

namespace spotd::server {
namespace {

v1::FinishReason FinishToProto(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kNone:
      break;
    case engine::FinishReason::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case engine::FinishReason::kStopString:
      return v1::FINISH_REASON_STOP_TEXT;
    case engine::FinishReason::kMaxTokens:
      return v1::FINISH_REASON_MAX_TOKENS;
    case engine::FinishReason::kContextFull:
      return v1::FINISH_REASON_CONTEXT_FULL;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

v1::Usage UsageToProto(const engine::Usage& usage) {
  v1::Usage out;
  out.set_prompt_tokens(usage.prompt_tokens);
  out.set_computed_tokens(usage.computed_tokens);
  out.set_session_tokens(usage.session_tokens);
  out.set_prefix_tokens(usage.prefix_tokens);
  out.set_restored_tokens(usage.restored_tokens);
  out.set_generated_tokens(usage.generated_tokens);
  return out;
}

v1::Timings PrefillTimings(const engine::Timings& timings) {
  v1::Timings out;
  *out.mutable_queue() = ToDuration(timings.queue);
  *out.mutable_prefill() = ToDuration(timings.prefill);
  *out.mutable_total() = ToDuration(timings.total);
  return out;
}

v1::Timings TimingsToProto(const engine::Timings& timings) {
  v1::Timings out = PrefillTimings(timings);
  *out.mutable_time_to_first_token() = ToDuration(timings.ttft);
  *out.mutable_decode() = ToDuration(timings.decode);
  return out;
}

v1::SelectorKeyFormat KeyFormatToProto(kernels::SelectorKeyFormat format) {
  switch (format) {
    case kernels::SelectorKeyFormat::kNone:
      break;
    case kernels::SelectorKeyFormat::kBf16:
      return v1::SELECTOR_KEY_FORMAT_BF16;
    case kernels::SelectorKeyFormat::kInt4:
      return v1::SELECTOR_KEY_FORMAT_INT4;
    case kernels::SelectorKeyFormat::kFp4:
      return v1::SELECTOR_KEY_FORMAT_FP4;
  }
  return v1::SELECTOR_KEY_FORMAT_UNSPECIFIED;
}

void AddPolicies(const engine::Engine& engine, v1::Model* out) {
  out->add_supported_policies(v1::POLICY_KIND_FULL);
  if (engine.has_selector()) out->add_supported_policies(v1::POLICY_KIND_DISTILLED);
  out->add_supported_policies(v1::POLICY_KIND_QUEST);
  if (engine.has_selector()) out->add_supported_policies(v1::POLICY_KIND_TOP_K);
  out->add_supported_policies(v1::POLICY_KIND_WINDOW);
  out->add_supported_policies(v1::POLICY_KIND_ORACLE);
}

}  // namespace

v1::PolicyKind ToProto(model::PolicyKind kind) {
  switch (kind) {
    case model::PolicyKind::kFull:
      return v1::POLICY_KIND_FULL;
    case model::PolicyKind::kDistilled:
      return v1::POLICY_KIND_DISTILLED;
    case model::PolicyKind::kQuest:
      return v1::POLICY_KIND_QUEST;
    case model::PolicyKind::kTopK:
      return v1::POLICY_KIND_TOP_K;
    case model::PolicyKind::kWindow:
      return v1::POLICY_KIND_WINDOW;
    case model::PolicyKind::kOracle:
      return v1::POLICY_KIND_ORACLE;
  }
  return v1::POLICY_KIND_UNSPECIFIED;
}

std::optional<model::PolicyKind> FromProto(v1::PolicyKind kind) {
  for (int i = 0; i <= static_cast<int>(model::PolicyKind::kOracle); ++i) {
    const auto candidate = static_cast<model::PolicyKind>(i);
    if (ToProto(candidate) == kind) return candidate;
  }
  return std::nullopt;
}

v1::Policy ToProto(const model::Policy& policy) {
  v1::Policy out;
  out.set_kind(ToProto(policy.kind));
  out.set_p_residual(policy.p_residual);
  out.set_p_total(policy.p_total);
  out.set_fraction(policy.fraction);
  out.set_k_tokens(policy.k_tokens);
  out.set_sink_tokens(policy.sink_tokens);
  out.set_recency_tokens(policy.recency_tokens);
  out.set_k_min_tokens(policy.k_min_tokens);
  out.set_k_max_tokens(policy.k_max_tokens);
  out.set_dense_below_tokens(policy.dense_below_tokens);
  return out;
}

std::string SessionName(const std::string& id) {
  return "sessions/" + id;
}

v1::Session ToProto(const engine::SessionInfo& session) {
  v1::Session out;
  out.set_name(SessionName(session.id));
  out.set_display_name(session.display_name);
  *out.mutable_policy() = ToProto(session.policy);
  out.set_token_count(session.tokens);
  out.set_cached_token_count(session.cached_tokens);
  out.set_kv_block_count(session.kv_blocks);
  out.set_kv_bytes(static_cast<int64_t>(session.kv_bytes));
  out.set_state(session.busy ? v1::Session::STATE_ACTIVE : v1::Session::STATE_IDLE);
  *out.mutable_create_time() = ToTimestamp(session.create_time_ms);
  *out.mutable_update_time() = ToTimestamp(session.update_time_ms);
  if (session.ttl_ms > 0) {
    *out.mutable_ttl() = ToDuration(std::chrono::milliseconds(session.ttl_ms));
  }
  if (session.expire_time_ms > 0) *out.mutable_expire_time() = ToTimestamp(session.expire_time_ms);
  out.set_etag(session.etag);
  return out;
}

namespace {

v1::Sparsity SparsityToProto(const engine::GenerateResult& result, int32_t block_tokens) {
  const engine::RequestSparsity& sparsity = result.sparsity;
  const model::RowSparsity& sum = sparsity.sum;
  v1::Sparsity out;
  out.set_policy(ToProto(result.policy));
  out.set_density(sum.blocks_visible == 0
                      ? 1.0
                      : static_cast<double>(sum.blocks_attended) / sum.blocks_visible);
  out.set_blocks_attended(sum.blocks_attended);
  out.set_blocks_visible(sum.blocks_visible);
  out.set_kv_bytes_read(sum.bytes_read);
  out.set_kv_bytes_dense_equivalent(sum.bytes_dense);
  out.set_mean_covered_mass(sparsity.mean_covered_mass);
  out.set_mean_selected_tokens(sparsity.mean_selected_tokens);
  out.set_steps(sparsity.steps);
  out.set_dense_steps(sparsity.dense_steps);
  out.set_audited_steps(sparsity.audited_steps);
  out.set_mean_recalled_mass(sparsity.mean_recalled_mass);
  out.set_mean_output_error(sparsity.mean_output_error);
  out.set_dense_by_audit(sparsity.dense_by_audit);
  for (const auto& [block, share] : sparsity.top_blocks) {
    v1::BlockShare* top = out.add_top_blocks();
    top->set_first_token(block * block_tokens);
    top->set_token_count(block_tokens);
    top->set_share(share);
  }
  return out;
}

}  // namespace

v1::GenerateResult ToProto(const engine::GenerateResult& result, int32_t block_tokens,
                           bool keeps_session) {
  v1::GenerateResult out;
  out.set_finish_reason(FinishToProto(result.finish));
  out.set_stop_text(result.stop_string);
  *out.mutable_usage() = UsageToProto(result.usage);
  *out.mutable_timings() = TimingsToProto(result.timings);
  *out.mutable_sparsity() = SparsityToProto(result, block_tokens);
  out.set_seed(result.seed);
  if (keeps_session) out.set_session_token_count(result.session_tokens_after);
  for (const engine::CandidateResult& candidate : result.candidates) {
    v1::Candidate* one = out.add_candidates();
    one->set_finish_reason(FinishToProto(candidate.finish));
    one->set_stop_text(candidate.stop_string);
    one->set_generated_tokens(candidate.generated_tokens);
    one->set_seed(candidate.seed);
  }
  out.set_replayed(result.replayed);
  return out;
}

v1::AppendResult ToProto(const engine::AppendResult& result) {
  v1::AppendResult out;
  out.set_appended_tokens(result.appended_tokens);
  out.set_session_token_count(result.session_tokens_after);
  *out.mutable_timings() = PrefillTimings(result.timings);
  *out.mutable_usage() = UsageToProto(result.usage);
  out.set_replayed(result.replayed);
  return out;
}

void AddToken(const engine::TokenEvent& event, v1::TokenDelta* delta) {
  delta->mutable_text()->append(event.text);
  delta->add_token_ids(event.token);
  delta->add_logprobs(event.logprob);
  if (event.top.empty()) return;
  v1::TopLogprobs* top = delta->add_top_logprobs();
  for (const engine::TokenLogprob& token : event.top) {
    top->add_token_ids(token.token);
    top->add_logprobs(token.logprob);
  }
}

v1::TraceHeader ToHeader(const engine::SelectionRecord& record, const engine::Engine& engine,
                         int32_t block_tokens) {
  v1::TraceHeader out;
  out.set_step_count(static_cast<int32_t>(record.steps().size()));
  out.set_dropped_steps(record.dropped());
  out.set_layer_count(engine.model_config().layers);
  out.set_block_token_count(block_tokens);
  return out;
}

v1::TraceStep ToProto(const engine::SelectionRecord::Step& step) {
  v1::TraceStep out;
  out.set_position(step.position);
  out.set_token_id(step.token);
  out.set_dense(step.dense);
  for (const std::vector<engine::BlockRun>& runs : step.layers) {
    v1::LayerRead* layer = out.add_layers();
    for (const engine::BlockRun& run : runs) {
      layer->add_first_blocks(run.first);
      layer->add_block_counts(run.count);
    }
  }
  return out;
}

std::string ModelName(const engine::Engine& engine) {
  return "models/" + engine.model_id();
}

v1::Model DescribeModel(const engine::Engine& engine, int32_t block_tokens) {
  const model::ModelConfig& config = engine.model_config();
  v1::Model out;
  out.set_name(ModelName(engine));
  out.set_display_name(config.name);
  out.set_architecture(config.architecture);
  out.set_layer_count(config.layers);
  out.set_hidden_size(config.hidden);
  out.set_feed_forward_size(config.ffn_hidden);
  out.set_query_head_count(config.q_heads);
  out.set_kv_head_count(config.kv_heads);
  out.set_head_size(config.head_dim);
  out.set_vocab_size(config.vocab);
  out.set_context_length(engine.max_context());
  out.set_trained_context_length(config.context_length);
  out.mutable_eos_token_ids()->Add(config.eos_tokens.begin(), config.eos_tokens.end());
  out.set_block_token_count(block_tokens);
  if (engine.has_selector()) {
    out.set_selector_key_format(KeyFormatToProto(engine.options().selector_format));
  }
  AddPolicies(engine, &out);
  *out.mutable_default_policy() = ToProto(engine.options().default_policy);
  out.set_backend(engine.backend_description());
  return out;
}

}  // namespace spotd::server
