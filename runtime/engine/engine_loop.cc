#include "runtime/engine/engine_loop.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"

namespace spotd::engine {
namespace {

constexpr std::chrono::microseconds kPollInterval{2000};
// How long a reply that needs KV waits while the others wait for their readers.
constexpr std::chrono::milliseconds kStarvationPatience{1000};
constexpr std::chrono::milliseconds kRetryKv{2000};

absl::Status KvExhausted(std::string_view what) {
  return MakeError(absl::StatusCode::kResourceExhausted,
                   Concat("KV memory is full of running requests: ", what),
                   {.reason = reason::kKvExhausted, .retry_after = kRetryKv});
}

absl::Status Fault(const absl::Status& cause) {
  return MakeError(absl::StatusCode::kInternal, Concat("a step failed: ", cause.message()),
                   {.reason = reason::kEngineFault});
}

double UnixSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

EngineLoop::EngineLoop(kvstore::KvStore* store, model::Transformer* transformer,
                       SessionRegistry* registry, SubmitQueue* queue, Metrics* metrics,
                       int32_t max_running)
    : store_(store),
      transformer_(transformer),
      registry_(registry),
      queue_(queue),
      metrics_(metrics),
      max_running_(max_running),
      reclaimer_(store, registry, metrics) {
  PublishGauges();
}

void EngineLoop::Run() {
  while (!queue_->closed()) {
    TakeSubmitted();
    Step();
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
  const bool idle = waiting_.empty() && running_.empty();
  queue_->Wait(idle ? std::nullopt : std::optional(kPollInterval));
}

void EngineLoop::TakeSubmitted() {
  for (SubmitQueue::Item& item : queue_->Take()) {
    if (auto* command = std::get_if<SubmitQueue::Command>(&item)) {
      (*command)();
    } else {
      waiting_.push_back(std::get<std::unique_ptr<Sequence>>(std::move(item)));
    }
  }
}

void EngineLoop::Step() {
  progressed_ = false;
  EndInterrupted();
  AdmitWaiting();
  const StepPlan plan = Plan();
  starved_ = static_cast<int32_t>(plan.starved.size()) - (plan.give_up ? 1 : 0);
  if (plan.give_up) {
    End(running_[*plan.give_up].get(), KvExhausted("this reply cannot grow any further now"));
    progressed_ = true;
  }
  // Reserved first: a chunk of prefill needs no new blocks, a decode may.
  const std::vector<Sequence*> batch = ReserveForDecode(plan.decode);
  if (plan.prefill || !batch.empty()) metrics_->engine_steps.fetch_add(1);
  if (plan.prefill) RunPrefill(running_[*plan.prefill].get());
  if (!batch.empty()) RunDecode(batch);
  RemoveEnded();
  if (!progressed_) return;
  last_progress_ = Clock::now();
  metrics_->engine_last_step_timestamp.store(UnixSeconds());
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

void EngineLoop::AdmitWaiting() {
  while (!waiting_.empty() && TryAdmit(waiting_.front().get())) {
    std::unique_ptr<Sequence> sequence = std::move(waiting_.front());
    waiting_.pop_front();
    if (!sequence->ended()) running_.push_back(std::move(sequence));
  }
}

// False when the sequence must go on waiting. A refused one is ended.
bool EngineLoop::TryAdmit(Sequence* sequence) {
  Session& session = sequence->session();
  AdmissionState state;
  state.running = static_cast<int32_t>(running_.size());
  state.max_running = max_running_;
  if (Admit(state) == Admission::kWait) return false;

  // The newest token is pending: its KV, if a rewind left it, is written again when it is decoded.
  const int32_t cached = std::min(session.table.num_tokens(), sequence->prompt_end() - 1);
  store_->Truncate(&session.table, cached);
  session.last_used = ++uses_;
  reclaimer_.Pin(&session);
  const int32_t tokens = std::max(sequence->kv_end() - cached, 0);
  state.blocks_needed = reclaimer_.BlocksNeeded(session.table, tokens);
  state.blocks_available = reclaimer_.AvailableBlocks() - starved_;
  const bool admitted = Admit(state) == Admission::kAdmit;
  if (admitted) reclaimer_.MakeRoom(session.table, tokens);
  if (!admitted || !store_->Reserve(&session.table, tokens).ok()) {
    End(sequence, KvExhausted(Concat("the prompt needs ", state.blocks_needed, " more blocks, ",
                                     state.blocks_available, " can be had")));
    return true;
  }
  sequence->Admit(cached);
  progressed_ = true;
  if (sequence->complete()) End(sequence, absl::OkStatus());
  return true;
}

StepPlan EngineLoop::Plan() {
  views_.clear();
  int32_t needed = 0;
  for (const auto& sequence : running_) {
    RunningView view;
    view.prefilling = sequence->prefilling();
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

std::vector<Sequence*> EngineLoop::ReserveForDecode(std::span<const int32_t> planned) {
  std::vector<Sequence*> batch;
  for (const int32_t index : planned) {
    kvstore::BlockTable* table = &running_[index]->session().table;
    reclaimer_.MakeRoom(*table, 1);
    if (store_->Reserve(table, 1).ok()) batch.push_back(running_[index].get());
  }
  return batch;
}

void EngineLoop::RunPrefill(Sequence* sequence) {
  PassOverPrefills(sequence);
  progressed_ = true;
  const Clock::time_point scheduled = Clock::now();
  kvstore::BlockTable* table = &sequence->session().table;
  const std::span<const int32_t> tokens =
      sequence->NextChunk(transformer_->limits().max_prefill_chunk);
  const absl::Status status = transformer_->Prefill({.tokens = tokens, .table = table}, {});
  if (!status.ok()) return End(sequence, Fault(status));
  const auto count = static_cast<int32_t>(tokens.size());
  store_->Commit(table, count);
  sequence->Prefilled(count, scheduled);
  if (sequence->complete()) End(sequence, absl::OkStatus());
}

void EngineLoop::PassOverPrefills(const Sequence* chosen) {
  for (const auto& sequence : running_) {
    if (sequence->prefilling() && sequence.get() != chosen) sequence->PassOver();
  }
}

void EngineLoop::RunDecode(std::span<Sequence* const> batch) {
  progressed_ = true;
  const Clock::time_point scheduled = Clock::now();
  rows_.clear();
  for (Sequence* sequence : batch) {
    rows_.push_back(sequence->Row());
    rows_.back().table = &sequence->session().table;
  }
  results_.resize(batch.size());
  const absl::Status status = transformer_->Decode(rows_, results_);
  for (size_t i = 0; i < batch.size(); ++i) {
    Sequence* sequence = batch[i];
    if (!status.ok()) {
      End(sequence, Fault(status));
      continue;
    }
    store_->Commit(rows_[i].table, 1);
    sequence->Decoded(results_[i], scheduled);
    if (sequence->complete()) End(sequence, absl::OkStatus());
  }
}

void EngineLoop::End(Sequence* sequence, const absl::Status& status) {
  Session& session = sequence->session();
  const bool keep = !session.id.empty() && !session.deleted;
  const int32_t cached = session.table.num_tokens();
  store_->Truncate(&session.table, keep ? sequence->KvToKeep(cached) : 0);
  reclaimer_.Unpin(&session);
  registry_->PublishKv(session);
  PublishGauges();
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
  to->last_used = from->last_used;
  registry_->PublishKv(*to);
  PublishGauges();
}

void EngineLoop::TruncateKv(Session* session, int32_t tokens) {
  store_->Truncate(&session->table, std::min(session->table.num_tokens(), std::max(tokens - 1, 0)));
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
  metrics_->kv_bytes_per_block.store(static_cast<int64_t>(stats.bytes_per_block));
  metrics_->kv_copies_on_write.store(stats.copies_on_write);
}

}  // namespace spotd::engine
