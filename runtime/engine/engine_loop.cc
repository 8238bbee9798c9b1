#include "runtime/engine/engine_loop.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <optional>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"

namespace spotd::engine {
namespace {

constexpr std::chrono::microseconds kPollInterval{2000};
// A clock that was set must not make an expired session wait for ever.
constexpr std::chrono::microseconds kLongestSleep{10'000'000};
// How long a reply that needs KV waits while the others wait for their readers.
constexpr std::chrono::milliseconds kStarvationPatience{1000};
// Weight of the newest chunk in the measured speed of prefill.
constexpr double kSpeedWeight = 0.25;

absl::Status Fault(const absl::Status& cause) {
  if (absl::IsUnavailable(cause)) return DeviceLost(Concat(cause.message()));
  return MakeError(absl::StatusCode::kInternal, Concat("a step failed: ", cause.message()),
                   {.reason = reason::kEngineFault});
}

// Tells the watchdog that the model computes, while it lives.
class Computing {
 public:
  Computing(Metrics* metrics, int64_t tokens) : metrics_(metrics) {
    metrics_->engine_computing_tokens.store(tokens);
    metrics_->engine_computing_since.store(Clock::now().time_since_epoch().count());
  }
  ~Computing() { metrics_->engine_computing_since.store(0); }

 private:
  Metrics* metrics_;
};

double UnixSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

absl::Status DeviceLost(std::string_view why) {
  return MakeError(absl::StatusCode::kUnavailable,
                   Concat("the device failed", why.empty() ? "" : ": ", why),
                   {.reason = reason::kDeviceLost});
}

EngineLoop::EngineLoop(const EngineParts& parts, const LoopOptions& options)
    : store_(parts.store),
      transformer_(parts.transformer),
      registry_(parts.registry),
      queue_(parts.queue),
      metrics_(parts.metrics),
      options_(options),
      reclaimer_(parts.store, parts.registry, parts.metrics) {
  PublishGauges();
}

void EngineLoop::Run() {
  try {
    RunUntilClosed();
  } catch (const std::bad_alloc&) {  // in the middle of a step: nothing it holds can be trusted
    std::fputs("spotd: the engine has no memory left to go on\n", stderr);
    std::abort();
  }
}

void EngineLoop::RunUntilClosed() {
  while (!queue_->closed()) {
    metrics_->engine_beats.fetch_add(1);
    TakeSubmitted();
    DropExpired();
    Step();
    // What waits or runs would fail one by one.
    if (metrics_->device_lost.load(std::memory_order_relaxed)) EndAll(DeviceLost(""));
    PublishGauges();
    WaitForWork();
  }
  TakeSubmitted();
  EndAll(MakeError(absl::StatusCode::kCancelled, "the server is stopping",
                   {.reason = reason::kCancelled}));
  PublishGauges();
}

void EngineLoop::WaitForWork() {
  if (progressed_) return;
  if (!waiting_.empty() || !running_.empty()) return queue_->Wait(kPollInterval);
  const auto expiry = registry_->UntilNextExpiry();
  if (!expiry) return queue_->Wait(std::nullopt);
  queue_->Wait(std::min<std::chrono::microseconds>(*expiry, kLongestSleep));
}

void EngineLoop::TakeSubmitted() {
  for (SubmitQueue::Item& item : queue_->Take()) {
    if (auto* command = std::get_if<SubmitQueue::Command>(&item)) {
      (*command)();
    } else {
      waiting_.push_back(std::get<std::unique_ptr<Sequence>>(std::move(item)));
      share_.Enter(waiting_.back()->tenant());
    }
  }
}

void EngineLoop::DropExpired() {
  for (const std::shared_ptr<Session>& session : registry_->TakeExpired()) {
    store_->Truncate(&session->table, 0);
  }
}

void EngineLoop::Step() {
  progressed_ = false;
  EndInterrupted();
  AdmitWaiting();
  const StepPlan plan = Plan();
  Sequence* const prefill = plan.prefill ? running_[*plan.prefill].get() : nullptr;
  std::vector<Sequence*> planned;
  for (const int32_t index : plan.decode) planned.push_back(running_[index].get());
  MakeProgressPossible(plan);
  // Reserved first: a chunk of prefill needs no new blocks, a decode may.
  const std::vector<Sequence*> batch = ReserveForDecode(planned);
  if (prefill != nullptr || !batch.empty()) metrics_->engine_steps.fetch_add(1);
  if (prefill != nullptr) RunPrefill(prefill);
  if (!batch.empty()) RunDecode(batch);
  RemoveEnded();
  if (!progressed_) return;
  last_progress_ = Clock::now();
  metrics_->engine_last_step_timestamp.store(UnixSeconds());
}

// Where nothing can run for want of KV, somebody gives theirs up.
void EngineLoop::MakeProgressPossible(const StepPlan& plan) {
  starved_ = static_cast<int32_t>(plan.starved.size());
  if (!plan.preempt) return;
  starved_ -=
      static_cast<int32_t>(std::count(plan.starved.begin(), plan.starved.end(), *plan.preempt));
  Sequence* victim = running_[*plan.preempt].get();
  if (!victim->ReaderReady() || running_.size() > 1) {
    Preempt(victim);
  } else {
    End(victim, KvExhausted("this reply cannot grow any further"));
    RemoveEnded();
  }
  progressed_ = true;
}

void EngineLoop::EndInterrupted() {
  const Clock::time_point now = Clock::now();
  const auto check = [&](Sequence* sequence) {
    if (const absl::Status status = sequence->Interrupted(now); !status.ok()) {
      End(sequence, status);
    }
  };
  for (const auto& sequence : waiting_) check(sequence.get());
  for (const auto& sequence : running_) check(sequence.get());
  RemoveEnded();
}

StepPlan EngineLoop::Plan() {
  views_.clear();
  int32_t needed = 0;
  for (const auto& sequence : running_) {
    RunningView view;
    view.prefilling = sequence->prefilling();
    view.tenant_served = share_.served(sequence->tenant());
    view.priority = sequence->head().priority;
    if (view.prefilling) {
      view.prefill_left = sequence->prefill_left();
      view.passed_over = sequence->passed_over();
    } else {
      view.ready = sequence->ReaderReady();
      view.blocks_needed = store_->BlocksNeeded(sequence->session().table, 1);
      needed += view.blocks_needed;
    }
    views_.push_back(view);
  }
  int32_t available = reclaimer_.FreeBlocks();
  if (needed > available) available = reclaimer_.AvailableBlocks();
  return PlanStep(views_, {.blocks_available = available,
                           .prefill_chunk = transformer_->limits().max_prefill_chunk,
                           .stalled = Clock::now() - last_progress_ > kStarvationPatience});
}

absl::Status EngineLoop::CheckTenantLimits(Sequence* sequence) {
  const Session& session = sequence->session();
  SPOTD_RETURN_IF_ERROR(CheckTenantKv(*sequence, store_->BlocksNeeded(session.table, 1)));
  return registry_->HoldTokens(session, int64_t{sequence->length()} + 1);
}

std::vector<Sequence*> EngineLoop::ReserveForDecode(const std::vector<Sequence*>& planned) {
  std::vector<Sequence*> batch;
  for (Sequence* sequence : planned) {
    kvstore::BlockTable* table = &sequence->session().table;
    if (const absl::Status status = CheckTenantLimits(sequence); !status.ok()) {
      End(sequence, status);
      progressed_ = true;
      continue;
    }
    reclaimer_.MakeRoom(*table, 1);
    if (store_->Reserve(table, 1).ok()) batch.push_back(sequence);
  }
  return batch;
}

void EngineLoop::RunPrefill(Sequence* sequence) {
  PassOverPrefills(sequence);
  progressed_ = true;
  const Clock::time_point scheduled = Clock::now();
  const std::span<const int32_t> tokens =
      sequence->NextChunk(transformer_->limits().max_prefill_chunk);
  const auto count = static_cast<int32_t>(tokens.size());
  absl::Status status;
  {
    const Computing computing(metrics_, count);
    status = transformer_->Prefill({.tokens = tokens, .table = &sequence->session().table}, {});
  }
  CountFailures(status);
  if (!status.ok()) return End(sequence, Fault(status));
  MeasurePrefill(count, Clock::now() - scheduled);
  share_.Charge(sequence->tenant(), count);
  CommitPrefill(sequence, count);
  sequence->Prefilled(count, scheduled);
  BeginSiblings(sequence);
  if (sequence->complete()) End(sequence, absl::OkStatus());
}

void EngineLoop::CommitPrefill(Sequence* sequence, int32_t tokens) {
  Session& session = sequence->session();
  if (options_.prefix_sharing) {
    store_->CommitShareable(&session.table, tokens, session.tenant, session.tokens);
  } else {
    store_->Commit(&session.table, tokens);
  }
}

void EngineLoop::MeasurePrefill(int32_t tokens, Clock::duration time) {
  const double speed = tokens / std::max(std::chrono::duration<double>(time).count(), 1e-9);
  const double known = metrics_->prefill_tokens_per_second.load();
  metrics_->prefill_tokens_per_second.store(known == 0 ? speed
                                                       : known + kSpeedWeight * (speed - known));
}

void EngineLoop::PassOverPrefills(const Sequence* chosen) {
  for (const auto& sequence : running_) {
    if (sequence->prefilling() && sequence.get() != chosen) sequence->PassOver();
  }
}

absl::Status EngineLoop::Decode(std::span<Sequence* const> batch) {
  rows_.clear();
  bool wants_logits = false;
  for (Sequence* sequence : batch) {
    rows_.push_back(sequence->Row());
    rows_.back().table = &sequence->session().table;
    wants_logits |= sequence->top_logprobs() > 0;
  }
  results_.resize(batch.size());
  const auto vocab = static_cast<size_t>(transformer_->config().vocab);
  logits_.resize(wants_logits ? batch.size() * vocab : 0);
  WatchStep(static_cast<int32_t>(batch.size()));
  const Computing computing(metrics_, static_cast<int64_t>(batch.size()));
  return transformer_->Decode(rows_, results_, logits_);
}

void EngineLoop::WatchStep(int32_t rows) {
  const AuditOptions& audit = options_.audit;
  if (audit.probe == nullptr || audit.every_steps == 0) return;
  if (decode_steps_++ % static_cast<uint64_t>(audit.every_steps) != 0) return;
  const model::ModelConfig& config = transformer_->config();
  const auto layer = static_cast<int32_t>(audits_++ % static_cast<uint64_t>(config.layers));
  // Without memory for it the step goes unwatched: an audit must not cost an answer.
  audit.probe->Watch(store_->LayerView(layer), rows, config.q_heads).IgnoreError();
}

void EngineLoop::TakeFindings(std::span<Sequence* const> batch) {
  if (options_.audit.probe == nullptr) return;
  const auto findings = options_.audit.probe->TakeFindings();
  for (size_t i = 0; i < findings.size(); ++i) {
    if (!findings[i]) continue;
    batch[transformer_->StepRow(static_cast<int32_t>(i))]->Audited(*findings[i],
                                                                   options_.audit.floor);
  }
}

void EngineLoop::CountFailures(const absl::Status& step) {
  if (absl::IsUnavailable(step)) metrics_->device_lost.store(true);
  metrics_->engine_failed_steps.store(
      step.ok() ? 0 : metrics_->engine_failed_steps.load(std::memory_order_relaxed) + 1);
}

void EngineLoop::RunDecode(std::span<Sequence* const> batch) {
  progressed_ = true;
  const Clock::time_point scheduled = Clock::now();
  const absl::Status status = Decode(batch);
  CountFailures(status);
  TakeFindings(batch);
  const size_t vocab = logits_.size() / batch.size();
  for (size_t i = 0; i < batch.size(); ++i) {
    Sequence* sequence = batch[i];
    if (!status.ok()) {
      End(sequence, Fault(status));
      continue;
    }
    store_->Commit(rows_[i].table, 1);
    share_.Charge(sequence->tenant(), 1);
    sequence->Decoded(results_[i], std::span(logits_).subspan(i * vocab, vocab), scheduled);
    if (sequence->complete()) End(sequence, absl::OkStatus());
  }
}

void EngineLoop::End(Sequence* sequence, const absl::Status& status) {
  Session& session = sequence->session();
  const bool keep = !session.id.empty() && !session.deleted;
  const int32_t cached = session.table.num_tokens();
  session.had_kv = sequence->KvToKeep(std::max(session.had_kv, cached));
  store_->Truncate(&session.table, keep ? sequence->KvToKeep(cached) : 0);
  reclaimer_.Unpin(&session);
  registry_->PublishKv(session);
  PublishGauges();
  if (auto record = sequence->record()) registry_->PublishSelection(session, std::move(record));
  if (sequence->prefilling() || sequence->decoding()) share_.Stop(session.tenant);
  share_.Leave(session.tenant);
  sequence->End(status);
}

void EngineLoop::EndAll(const absl::Status& status) {
  for (const auto& sequence : waiting_) End(sequence.get(), status);
  for (const auto& sequence : running_) End(sequence.get(), status);
  RemoveEnded();
}

void EngineLoop::RemoveEnded() {
  const auto ended = [](const std::unique_ptr<Sequence>& sequence) { return sequence->ended(); };
  std::erase_if(waiting_, ended);
  std::erase_if(running_, ended);
}

void EngineLoop::ForkKv(Session* from, Session* to) {
  to->table = store_->Fork(from->table);
  to->had_kv = std::max(from->had_kv, from->table.num_tokens());
  to->last_used = from->last_used;
  to->audit = from->audit;
  registry_->PublishKv(*to);
  PublishGauges();
}

void EngineLoop::TruncateKv(Session* session, int32_t tokens) {
  const int32_t keep = std::max(tokens - 1, 0);
  session->had_kv = std::min(std::max(session->had_kv, session->table.num_tokens()), keep);
  store_->Truncate(&session->table, std::min(session->table.num_tokens(), keep));
  registry_->PublishKv(*session);
  PublishGauges();
}

void EngineLoop::DropDeleted(Session* session) {
  session->deleted = true;
  EndInterrupted();  // what works on the session sees the mark
  store_->Truncate(&session->table, 0);
  PublishGauges();
}

void EngineLoop::PublishGauges() {
  const kvstore::KvStats stats = store_->stats();
  metrics_->kv_blocks_total.store(stats.blocks_total);
  metrics_->kv_blocks_used.store(stats.blocks_used);
  metrics_->kv_blocks_shared.store(stats.blocks_shared);
  metrics_->kv_blocks_kept.store(stats.blocks_kept);
  metrics_->kv_kept_given_up.store(stats.kept_given_up);
  metrics_->kv_bytes_per_block.store(static_cast<int64_t>(stats.bytes_per_block));
  metrics_->kv_copies_on_write.store(stats.copies_on_write);
  metrics_->kv_blocks_offered.store(stats.blocks_offered);
  metrics_->waiting_tokens.store(queue_->waiting_tokens());
  int64_t backlog = 0;
  for (const auto& sequence : running_) {
    if (sequence->prefilling()) backlog += sequence->prefill_left();
  }
  metrics_->prefill_backlog.store(backlog);
}

}  // namespace spotd::engine
