// The engine's thread: takes requests and commands, and advances every sequence step by step.
//
// A step, in order: end what is cancelled or expired; admit; plan (scheduler.h); one prefill chunk;
// one decode batch. With nothing to do the thread sleeps until something is put into the queue.
// While every sequence waits for its reader it looks again every `kPollInterval`.
//
// A step that fails ends the sequences it ran with INTERNAL (ENGINE_FAULT); the others go on.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kvstore/kv_store.h"
#include "runtime/engine/kv_reclaimer.h"
#include "runtime/engine/metrics.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/sequence.h"
#include "runtime/engine/session_registry.h"
#include "runtime/engine/submit_queue.h"
#include "runtime/model/transformer.h"

namespace spotd::engine {

class EngineLoop {
 public:
  // Everything must outlive the loop. max_running <= the transformer's max_batch.
  EngineLoop(kvstore::KvStore* store, model::Transformer* transformer, SessionRegistry* registry,
             SubmitQueue* queue, Metrics* metrics, int32_t max_running);

  // Until the queue is closed; then every sequence ends with CANCELLED.
  void Run();

  // Commands: called on the engine thread, through the queue.
  void ForkKv(Session* from, Session* to);
  void TruncateKv(Session* session,
                  int32_t tokens);  // to what a session of `tokens` tokens may have
  void DropDeleted(Session* session);

 private:
  void TakeSubmitted();
  void WaitForWork();
  void Step();
  void EndInterrupted();
  void AdmitWaiting();
  bool TryAdmit(Sequence* sequence);
  StepPlan Plan();
  void RunPrefill(Sequence* sequence);
  void RunDecode(std::span<Sequence* const> batch);
  // Blocks for the next token of each, as planned. Leaves out those that get none after all.
  std::vector<Sequence*> ReserveForDecode(std::span<const int32_t> planned);
  void PassOverPrefills(const Sequence* chosen);
  void End(Sequence* sequence, const absl::Status& status);
  void EndAll(const absl::Status& status);
  void RemoveEnded();
  void PublishGauges();

  kvstore::KvStore* store_;
  model::Transformer* transformer_;
  SessionRegistry* registry_;
  SubmitQueue* queue_;
  Metrics* metrics_;
  int32_t max_running_;
  KvReclaimer reclaimer_;

  std::deque<std::unique_ptr<Sequence>> waiting_;   // in order of arrival
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
  int32_t starved_ = 0;                             // running replies that wait for a block of KV
  bool progressed_ = false;                         // the last step computed something
  Clock::time_point last_progress_ = Clock::now();
  uint64_t uses_ = 0;  // source of Session::last_used

  // Scratch of a step, kept for its capacity.
  std::vector<RunningView> views_;
  std::vector<model::DecodeRow> rows_;
  std::vector<model::DecodeResult> results_;
};

}  // namespace spotd::engine
