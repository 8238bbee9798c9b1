#include "runtime/engine/sequence.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"

namespace spotd::engine {
namespace {

double Seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

Sequence::Generation::Generation(GenerateRequest request_in, GenerationSetup setup_in, int32_t room)
    : request(std::move(request_in)),
      setup(std::move(setup_in)),
      reply(setup.tokenizer, request.sampling, setup.stop_tokens, room),
      history(request.sampling.params),
      sparsity(setup.policy, setup.block_tokens, request.report_blocks) {
  request.sampling.params.seed = setup.seed;
}

Sequence::Sequence(AppendRequest request, SequenceSetup setup)
    : claim_(std::move(setup.claim)),
      place_(std::move(setup.place)),
      conversation_(std::move(setup.prompt.conversation)),
      metrics_(setup.metrics),
      unfinished_(setup.unfinished),
      append_(std::move(request)),
      prompt_(std::move(setup.prompt.tokens)),
      base_(static_cast<int32_t>(claim_->tokens.size())),
      new_tokens_(static_cast<int32_t>(prompt_.size())),
      acknowledged_(base_),
      submitted_(setup.submitted) {
  metrics_->requests_waiting.fetch_add(1);
}

Sequence::Sequence(GenerateRequest request, SequenceSetup setup, GenerationSetup generation)
    : Sequence(AppendRequest(), std::move(setup)) {
  const int32_t room = generation.max_context - prompt_end();
  generation_.emplace(std::move(request), std::move(generation), room);
}

const std::shared_ptr<CancelToken>& Sequence::cancel() const {
  return generation_ ? generation_->request.cancel : append_.cancel;
}

const std::optional<Clock::time_point>& Sequence::deadline() const {
  return generation_ ? generation_->request.deadline : append_.deadline;
}

absl::Status Sequence::Interrupted(Clock::time_point now) const {
  if (claim_->deleted) {
    return MakeError(absl::StatusCode::kCancelled, "the session was deleted",
                     {.reason = reason::kSessionDeleted, .metadata = {{"session", claim_->id}}});
  }
  if (cancel()->cancelled()) {
    return MakeError(absl::StatusCode::kCancelled, "the call was cancelled",
                     {.reason = reason::kCancelled});
  }
  if (deadline() && now >= *deadline()) {
    return MakeError(absl::StatusCode::kDeadlineExceeded, "the call ran past its deadline",
                     {.reason = reason::kDeadlineExceeded});
  }
  return absl::OkStatus();
}

void Sequence::Admit(int32_t cached) {
  SPOTD_CHECK(state_ == State::kWaiting);
  SPOTD_CHECK(cached <= prefill_end());
  metrics_->requests_waiting.fetch_sub(1);
  metrics_->requests_running.fetch_add(1);
  std::vector<int32_t>& tokens = claim_->tokens;
  tokens.insert(tokens.end(), prompt_.begin(), prompt_.end());
  prompt_ = {};
  from_session_ = cached_ = cached;
  if (generation_) generation_->history.AddPrompt(tokens);
  state_ = State::kPrefilling;
  if (prefill_left() == 0) EndPrefill();
}

std::span<const int32_t> Sequence::NextChunk(int32_t chunk_tokens) {
  SPOTD_CHECK(prefilling());
  return std::span(claim_->tokens).subspan(cached_, std::min(chunk_tokens, prefill_left()));
}

void Sequence::Prefilled(int32_t tokens, Clock::time_point scheduled) {
  SPOTD_CHECK(prefilling());
  MarkScheduled(scheduled);
  passed_over_ = 0;
  cached_ += tokens;
  metrics_->prompt_tokens_computed.fetch_add(tokens);
  if (prefill_left() == 0) {
    EndPrefill();
  } else {
    ReportProgress(cached_ - base_);
  }
}

void Sequence::EndPrefill() {
  ReportProgress(new_tokens_);
  prefilled_ = Clock::now();
  if (generation_) {
    state_ = State::kDecoding;
  } else {
    acknowledged_ = prompt_end();
    complete_ = true;
  }
}

void Sequence::ReportProgress(int32_t done) {
  if (new_tokens_ == 0) return;
  // Below zero while tokens of the session itself are computed.
  const int32_t clamped = std::max(done, 0);
  if (generation_) {
    generation_->request.sink->OnPrefill(clamped, new_tokens_);
  } else if (append_.on_progress) {
    append_.on_progress(clamped, new_tokens_);
  }
}

void Sequence::MarkScheduled(Clock::time_point now) {
  if (scheduled_) return;
  scheduled_ = now;
  metrics_->request_queue_time.Observe(Seconds(now - submitted_));
}

bool Sequence::ReaderReady() {
  const bool ready = generation_->request.sink->Ready();
  was_paused_ |= !ready;
  return ready;
}

model::DecodeRow Sequence::Row() {
  SPOTD_CHECK(decoding());
  model::DecodeRow row;
  row.token = claim_->tokens.back();
  row.policy = generation_->setup.policy;
  row.sampling = generation_->request.sampling.params;
  row.sampling.draw = static_cast<uint64_t>(generation_->reply.num_tokens());
  row.adjustments = generation_->history.adjustments();
  row.trace = generation_->sparsity.trace();
  return row;
}

void Sequence::Decoded(const model::DecodeResult& result, Clock::time_point scheduled) {
  SPOTD_CHECK(decoding());
  MarkScheduled(scheduled);
  ++cached_;
  CountStep(result.sparsity);
  CountToken(Clock::now());
  generation_->history.AddGenerated(result.token);
  claim_->tokens.push_back(result.token);

  TokenEvent event = generation_->reply.Push(result.token, result.logprob);
  event.sparsity = result.sparsity;
  acknowledged_ = static_cast<int32_t>(claim_->tokens.size());
  complete_ = generation_->reply.finish() != FinishReason::kNone;
  generation_->request.sink->OnToken(event);
}

void Sequence::CountStep(const model::RowSparsity& step) {
  generation_->sparsity.Add(step, cached_);
  const model::PolicyKind kind = generation_->setup.policy.kind;
  PolicyMetrics& counts = metrics_->by_policy[static_cast<size_t>(kind)];
  counts.kv_blocks_attended.fetch_add(step.blocks_attended);
  counts.kv_blocks_visible.fetch_add(step.blocks_visible);
  counts.kv_bytes_read.fetch_add(step.bytes_read);
  counts.kv_bytes_dense_equivalent.fetch_add(step.bytes_dense);
  if (!step.dense) return;
  auto& dense_steps = kind == model::PolicyKind::kFull ? counts.dense_steps_requested
                                                       : counts.dense_steps_short_context;
  dense_steps.fetch_add(1);
}

void Sequence::CountToken(Clock::time_point now) {
  metrics_->generation_tokens.fetch_add(1);
  if (!first_token_) {
    // The newest prompt token was computed by this step; the rest by prefill, or before.
    metrics_->prompt_tokens_computed.fetch_add(1);
    metrics_->prompt_tokens_session.fetch_add(from_session_);
    metrics_->time_to_first_token.Observe(Seconds(now - submitted_));
    first_token_ = now;
  } else if (!was_paused_) {
    metrics_->inter_token_latency.Observe(Seconds(now - last_token_));
  }
  last_token_ = now;
  was_paused_ = false;
}

int32_t Sequence::KvToKeep(int32_t cached) const {
  return std::min(cached, std::max(acknowledged_ - 1, 0));
}

void Sequence::End(const absl::Status& status) {
  SPOTD_CHECK(state_ != State::kEnded);
  SPOTD_CHECK(!status.ok() || complete_);
  const bool was_waiting = state_ == State::kWaiting;
  (was_waiting ? metrics_->requests_waiting : metrics_->requests_running).fetch_sub(1);
  state_ = State::kEnded;
  if (!was_waiting) KeepAcknowledged();
  // Before the caller hears of the end, so that its next call finds session and place free.
  claim_.End();
  place_.Leave();
  Report(status);
  unfinished_->fetch_sub(1);
}

void Sequence::KeepAcknowledged() {
  claim_->tokens.resize(acknowledged_);
  if (acknowledged_ <= base_) return;
  if (generation_ && generation_->reply.num_tokens() > 0) {
    const Reply& reply = generation_->reply;
    conversation_.AddReply(generation_->setup.special_text->Protect(reply.content()), reply.text(),
                           {prompt_end(), acknowledged_}, reply.ends_with_control_token());
  }
  claim_->conversation = std::move(conversation_);
}

void Sequence::Report(const absl::Status& status) {
  const Clock::time_point now = Clock::now();
  if (!generation_) {
    const auto on_done = std::exchange(append_.on_done, nullptr);
    if (!status.ok()) return on_done(status);
    const AppendResult result = MakeAppendResult(now);
    metrics_->request_prefill_time.Observe(result.timings.prefill);
    return on_done(result);
  }
  const auto sink = std::exchange(generation_->request.sink, nullptr);
  if (!status.ok()) return sink->OnDone(status);
  GenerateResult result = MakeGenerateResult(now);
  ObserveGeneration(result);
  sink->OnDone(std::move(result));
}

Timings Sequence::MakeTimings(Clock::time_point now) const {
  Timings timings;
  const Clock::time_point scheduled = scheduled_.value_or(now);
  timings.queue = Seconds(scheduled - submitted_);
  timings.prefill =
      Seconds(std::max(prefilled_.value_or(scheduled) - scheduled, Clock::duration()));
  if (first_token_) {
    timings.ttft = Seconds(*first_token_ - submitted_);
    timings.decode = Seconds(last_token_ - *first_token_);
  }
  timings.total = Seconds(now - submitted_);
  return timings;
}

AppendResult Sequence::MakeAppendResult(Clock::time_point now) const {
  return {.appended_tokens = new_tokens_,
          .session_tokens_after = acknowledged_,
          .timings = MakeTimings(now)};
}

GenerateResult Sequence::MakeGenerateResult(Clock::time_point now) const {
  const Reply& reply = generation_->reply;
  GenerateResult result;
  result.finish = reply.finish();
  result.stop_string = reply.stop_string();
  result.usage.prompt_tokens = prompt_end();
  result.usage.session_tokens = from_session_;
  result.usage.computed_tokens = prompt_end() - from_session_;
  result.usage.generated_tokens = reply.num_tokens();
  result.timings = MakeTimings(now);
  result.sparsity = generation_->sparsity.Result();
  result.seed = generation_->setup.seed;
  result.policy = generation_->setup.policy.kind;
  result.session_tokens_after = claim_->id.empty() ? 0 : acknowledged_;
  return result;
}

void Sequence::ObserveGeneration(const GenerateResult& result) {
  metrics_->e2e_request_latency.Observe(result.timings.total);
  metrics_->request_prefill_time.Observe(result.timings.prefill);
  metrics_->request_decode_time.Observe(result.timings.decode);
  metrics_->request_prompt_tokens.Observe(result.usage.prompt_tokens);
  metrics_->request_generation_tokens.Observe(result.usage.generated_tokens);
  PolicyMetrics& by_policy = metrics_->by_policy[static_cast<size_t>(result.policy)];
  const RequestSparsity& sparsity = result.sparsity;
  if (sparsity.sum.blocks_visible > 0) {
    by_policy.request_attended_fraction.Observe(static_cast<double>(sparsity.sum.blocks_attended) /
                                                static_cast<double>(sparsity.sum.blocks_visible));
  }
  if (sparsity.steps == sparsity.dense_steps) return;
  by_policy.request_covered_mass.Observe(sparsity.mean_covered_mass);
  by_policy.request_selected_tokens.Observe(sparsity.mean_selected_tokens);
}

}  // namespace spotd::engine
