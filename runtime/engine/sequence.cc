#include "runtime/engine/sequence.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "runtime/engine/request_check.h"

namespace spotd::engine {
namespace {

// A session is judged by no fewer audits, and by about the latest 1 / kAuditWeight of them.
constexpr int32_t kAuditsToJudge = 3;
constexpr double kAuditWeight = 0.125;

double Seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

Sequence::Generation::Generation(GenerateRequest request_in, GenerationSetup setup_in, int32_t room)
    : request(std::move(request_in)),
      setup(std::move(setup_in)),
      reply(setup.tokenizer, request.sampling, setup.stop_tokens, room),
      history(request.sampling.params, request.sampling.logit_bias),
      sparsity(setup.policy, setup.block_tokens, request.report_blocks, setup.record != nullptr) {
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
      arrival_(setup.arrival),
      submitted_(setup.submitted) {
  metrics_->requests_waiting.fetch_add(1);
}

Sequence::Sequence(GenerateRequest request, SequenceSetup setup, GenerationSetup generation)
    : Sequence(AppendRequest(), std::move(setup)) {
  const int32_t room = generation.max_context - prompt_end();
  if (request.candidates > 1 && generation.candidates == nullptr) {
    generation.candidates =
        std::make_shared<CandidateGroup>(request.sink, request.cancel, request.candidates);
    request.sink = generation.candidates->Sink(0);
  }
  generation_.emplace(std::move(request), std::move(generation), room);
}

Sequence::~Sequence() {
  if (state_ == State::kWaiting) metrics_->requests_waiting.fetch_sub(1);
}

const RequestHead& Sequence::head() const {
  if (generation_) return generation_->request;
  return append_;
}

int32_t Sequence::length() const {
  return prompt_end() + (generation_ ? generation_->reply.num_tokens() : 0);
}

std::vector<int32_t> Sequence::AllTokens() const {
  std::vector<int32_t> tokens = claim_->tokens;
  tokens.insert(tokens.end(), prompt_.begin(), prompt_.end());
  return tokens;
}

int32_t Sequence::places() const {
  return generation_ && !sibling() && !has_siblings_ ? generation_->request.candidates : 1;
}

absl::Status Sequence::Interrupted(Clock::time_point now) const {
  if (claim_->deleted) {
    return MakeError(absl::StatusCode::kCancelled, "the session was deleted",
                     {.reason = reason::kSessionDeleted, .metadata = {{"session", claim_->id}}});
  }
  SPOTD_RETURN_IF_ERROR(StatusOf(head().cancel->cause()));
  if (head().deadline && now >= *head().deadline) {
    return MakeError(absl::StatusCode::kDeadlineExceeded, "the call ran past its deadline",
                     {.reason = reason::kDeadlineExceeded});
  }
  return absl::OkStatus();
}

void Sequence::Admit(int32_t cached, int32_t from_prefix) {
  SPOTD_CHECK(state_ == State::kWaiting);
  SPOTD_CHECK(cached < length());
  metrics_->requests_waiting.fetch_sub(1);
  metrics_->requests_running.fetch_add(1);
  cached_ = cached;
  if (!admitted_) {
    admitted_ = true;
    std::vector<int32_t>& tokens = claim_->tokens;
    tokens.insert(tokens.end(), prompt_.begin(), prompt_.end());
    prompt_ = {};
    from_session_ = cached - from_prefix;
    from_prefix_ = from_prefix;
    counted_ = cached;
    restored_end_ = std::max(cached, std::min(claim_->had_kv, length() - 1));
    restored_ = restored_end_ - cached;
    metrics_->prompt_tokens_prefix.fetch_add(from_prefix);
    place_.Begin();
    if (generation_) generation_->history.AddPrompt(tokens);
  }
  state_ = State::kPrefilling;
  if (prefill_left() == 0) EndPrefill();
}

void Sequence::Preempt() {
  SPOTD_CHECK(prefilling() || decoding());
  metrics_->requests_running.fetch_sub(1);
  metrics_->requests_waiting.fetch_add(1);
  metrics_->preemptions.fetch_add(1);
  state_ = State::kWaiting;
  preempted_ = true;
  paused_since_.reset();
  counted_ = std::max(counted_, cached_);
  cached_ = 0;
}

std::vector<std::unique_ptr<Sequence>> Sequence::Siblings(SessionRegistry* registry) {
  std::vector<std::unique_ptr<Sequence>> siblings;
  if (places() == 1 || !decoding()) return siblings;
  const GenerateRequest& request = generation_->request;
  for (int32_t i = 1; i < request.candidates; ++i) {
    SequenceSetup setup = {.claim = registry->OneShot(claim_->tenant, claim_->policy),
                           .place = {},
                           .prompt = {},
                           .submitted = submitted_,
                           .metrics = metrics_,
                           .unfinished = unfinished_,
                           .arrival = arrival_};
    setup.claim->tokens = claim_->tokens;
    GenerationSetup generation = generation_->setup;
    generation.seed += static_cast<uint64_t>(i);
    generation.candidate = i;
    generation.record = nullptr;
    GenerateRequest copy = request;
    copy.sink = generation.candidates->Sink(i);
    unfinished_->fetch_add(1);
    siblings.push_back(
        std::make_unique<Sequence>(std::move(copy), std::move(setup), std::move(generation)));
  }
  has_siblings_ = true;
  return siblings;
}

std::span<const int32_t> Sequence::NextChunk(int32_t chunk_tokens) {
  SPOTD_CHECK(prefilling());
  return std::span(claim_->tokens).subspan(cached_, std::min(chunk_tokens, prefill_left()));
}

void Sequence::Prefilled(int32_t tokens, Clock::time_point scheduled) {
  SPOTD_CHECK(prefilling());
  MarkScheduled(scheduled);
  passed_over_ = 0;
  CountPrefilled(cached_, cached_ + tokens);
  cached_ += tokens;
  if (prefill_left() == 0) {
    EndPrefill();
  } else if (!preempted_) {
    ReportProgress(cached_ - base_);
  }
}

void Sequence::EndPrefill() {
  if (!prefilled_) {
    if (!preempted_) ReportProgress(new_tokens_);
    prefilled_ = Clock::now();
  }
  preempted_ = false;
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
  if (!sibling()) metrics_->request_queue_time.Observe(Seconds(now - submitted_));
}

bool Sequence::ReaderReady() {
  const bool ready = !generation_ || generation_->request.sink->Ready();
  was_paused_ |= !ready;
  if (ready) {
    paused_since_.reset();
  } else if (!paused_since_) {
    paused_since_ = Clock::now();
  }
  return ready;
}

model::DecodeRow Sequence::Row() {
  SPOTD_CHECK(decoding());
  model::DecodeRow row;
  row.token = claim_->tokens.back();
  row.policy = generation_->setup.policy;
  if (claim_->audit.dense) row.policy.kind = model::PolicyKind::kFull;
  row.sampling = generation_->request.sampling.params;
  row.sampling.draw = static_cast<uint64_t>(generation_->reply.num_tokens());
  row.adjustments = generation_->history.adjustments();
  row.trace = generation_->sparsity.trace();
  return row;
}

void Sequence::Audited(const AttentionAudit::Finding& finding, double floor) {
  PolicyMetrics& counts = metrics_->by_policy[static_cast<size_t>(generation_->setup.policy.kind)];
  counts.audit_recalled_mass.Observe(finding.recalled_mass);
  counts.audit_output_error.Observe(finding.output_error);
  generation_->sparsity.AddAudit(finding.recalled_mass, finding.output_error);
  SessionAudit& audit = claim_->audit;
  const double weight = std::max(1.0 / ++audit.audits, kAuditWeight);
  audit.recalled_mass += weight * (finding.recalled_mass - audit.recalled_mass);
  if (audit.dense || audit.audits < kAuditsToJudge || audit.recalled_mass >= floor) return;
  audit.dense = true;
  metrics_->audit_fallbacks.fetch_add(1);
}

void Sequence::Decoded(const model::DecodeResult& result, std::span<const float> logits,
                       Clock::time_point scheduled) {
  SPOTD_CHECK(decoding());
  MarkScheduled(scheduled);
  ++cached_;
  CountStep(result.sparsity);
  CountToken(Clock::now());
  generation_->history.AddGenerated(result.token);
  claim_->tokens.push_back(result.token);
  if (generation_->setup.record != nullptr) {
    generation_->setup.record->Add(cached_, result.token, result.sparsity.dense,
                                   *generation_->sparsity.trace());
  }

  TokenEvent event = generation_->reply.Push(result.token, result.logprob);
  event.sparsity = result.sparsity;
  if (top_logprobs() > 0) event.top = TopLogprobs(logits, top_logprobs());
  complete_ = generation_->reply.finish() != FinishReason::kNone;
  const bool repeatable = !head().request_id.empty();
  if (repeatable) generation_->answer.Add(event);
  if (!repeatable || complete_) acknowledged_ = static_cast<int32_t>(claim_->tokens.size());
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
                      : claim_->audit.dense            ? counts.dense_steps_audit
                                                       : counts.dense_steps_short_context;
  dense_steps.fetch_add(1);
}

void Sequence::CountPrefilled(int32_t begin, int32_t end) {
  const int32_t fresh = std::clamp(counted_, begin, end);  // before it: computed a second time
  const int32_t restored = std::clamp(restored_end_, fresh, end);
  metrics_->preempted_tokens.fetch_add(fresh - begin);
  metrics_->prompt_tokens_restored.fetch_add(restored - fresh);
  metrics_->prompt_tokens_computed.fetch_add(end - restored);
  counted_ = std::max(counted_, end);
}

void Sequence::CountPrompt() {
  // The newest prompt token is computed by the decode step that draws the token after it; the rest
  // by prefill, or before.
  metrics_->prompt_tokens_computed.fetch_add(1);
  metrics_->prompt_tokens_session.fetch_add(from_session_);
}

void Sequence::CountToken(Clock::time_point now) {
  metrics_->generation_tokens.fetch_add(1);
  if (!first_token_) {
    if (!sibling()) {
      CountPrompt();
      metrics_->time_to_first_token.Observe(Seconds(now - submitted_));
    }
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
  if (admitted_) KeepAcknowledged();
  const Clock::time_point now = Clock::now();
  const auto appended = MakeAppendResult(now);
  const auto generated = generation_ ? MakeGenerateResult(now) : GenerateResult();
  if (status.ok() && generation_) Remember(generated);
  if (status.ok() && !generation_) Remember(appended);
  // Before the caller hears of the end, so that its next call finds session and place free.
  claim_.End();
  place_.Leave();
  if (!generation_) {
    const auto on_done = std::exchange(append_.on_done, nullptr);
    if (status.ok()) metrics_->request_prefill_time.Observe(appended.timings.prefill);
    on_done(status.ok() ? absl::StatusOr<AppendResult>(appended) : status);
  } else {
    const auto sink = std::exchange(generation_->request.sink, nullptr);
    if (status.ok()) ObserveGeneration(generated);
    sink->OnDone(status.ok() ? absl::StatusOr<GenerateResult>(generated) : status);
  }
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

void Sequence::Remember(const AppendResult& result) {
  if (head().request_id.empty()) return;
  AnsweredRequest answer;
  answer.id = head().request_id;
  answer.fingerprint = head().fingerprint;
  answer.append = result;
  claim_->requests.Add(std::move(answer));
}

void Sequence::Remember(const GenerateResult& result) {
  if (head().request_id.empty()) return;
  AnsweredRequest& answer = generation_->answer;
  answer.id = head().request_id;
  answer.fingerprint = head().fingerprint;
  answer.generated = true;
  answer.generate = result;
  claim_->requests.Add(std::move(answer));
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

Usage Sequence::MakeUsage() const {
  Usage usage;
  usage.prompt_tokens = prompt_end();
  usage.session_tokens = from_session_;
  usage.prefix_tokens = from_prefix_;
  usage.restored_tokens = restored_;
  usage.computed_tokens = prompt_end() - from_session_ - from_prefix_ - restored_;
  usage.generated_tokens = generation_ ? generation_->reply.num_tokens() : 0;
  return usage;
}

AppendResult Sequence::MakeAppendResult(Clock::time_point now) const {
  return {.appended_tokens = new_tokens_,
          .session_tokens_after = acknowledged_,
          .usage = MakeUsage(),
          .timings = MakeTimings(now)};
}

GenerateResult Sequence::MakeGenerateResult(Clock::time_point now) const {
  const Reply& reply = generation_->reply;
  GenerateResult result;
  result.finish = reply.finish();
  result.stop_string = reply.stop_string();
  result.usage = MakeUsage();
  result.timings = MakeTimings(now);
  result.sparsity = generation_->sparsity.Result();
  result.sparsity.dense_by_audit = claim_->audit.dense;
  result.seed = generation_->setup.seed;
  result.policy = generation_->setup.policy.kind;
  result.session_tokens_after = claim_->id.empty() ? 0 : acknowledged_;
  return result;
}

void Sequence::ObserveGeneration(const GenerateResult& result) {
  metrics_->e2e_request_latency.Observe(result.timings.total);
  metrics_->request_prefill_time.Observe(result.timings.prefill);
  metrics_->request_decode_time.Observe(result.timings.decode);
  if (result.usage.generated_tokens > 1) {
    metrics_->time_per_output_token.Observe(result.timings.decode /
                                            (result.usage.generated_tokens - 1));
  }
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
