// The engine's thread: takes requests and commands, and advances every sequence step by step.
//
// A step, in order: end what is cancelled or expired; admit; plan (scheduler.h); one prefill chunk;
// one decode batch. With nothing to do the thread sleeps until something is put into the queue or a
// session expires. While every sequence waits for its reader it looks again every `kPollInterval`.
//
// A running sequence can be preempted: where replies cannot grow, and where its reader has kept it
// idle while others wait for its place. Its KV is dropped, it goes back to the queue, and what it
// had is computed again when its turn comes.
//
// A step that fails ends the sequences it ran with INTERNAL (ENGINE_FAULT); the others go on. One
// that fails with UNAVAILABLE has lost the device: it ends them all with UNAVAILABLE (DEVICE_LOST),
// and so does every request that comes later.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kvstore/kv_store.h"
#include "runtime/engine/fair_share.h"
#include "runtime/engine/kv_reclaimer.h"
#include "runtime/engine/metrics.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/sequence.h"
#include "runtime/engine/session_registry.h"
#include "runtime/engine/submit_queue.h"
#include "runtime/model/transformer.h"

namespace spotd::engine {

// RESOURCE_EXHAUSTED (KV_EXHAUSTED).
absl::Status KvExhausted(std::string_view what);
// UNAVAILABLE (DEVICE_LOST).
absl::Status DeviceLost(std::string_view why);

// All must outlive the loop.
struct EngineParts {
  kvstore::KvStore* store = nullptr;
  model::Transformer* transformer = nullptr;
  SessionRegistry* registry = nullptr;
  SubmitQueue* queue = nullptr;
  Metrics* metrics = nullptr;
};

struct LoopOptions {
  int32_t max_running = 0;  // <= the transformer's max_batch
  double tenant_kv_share = 1;
  bool prefix_sharing = true;
  // A sequence whose reader has been behind for so long gives up its place to one that waits.
  std::chrono::milliseconds reader_patience{1000};
  // A tenant that has nothing running waits no longer for one that has several.
  std::chrono::milliseconds tenant_patience{2000};
  AuditOptions audit;
};

class EngineLoop {
 public:
  EngineLoop(const EngineParts& parts, const LoopOptions& options);

  // Until the queue is closed; then every sequence ends with CANCELLED. Ends the process, with a
  // message, where it finds no memory.
  void Run();

  // Commands: called on the engine thread, through the queue.
  void ForkKv(Session* from, Session* to);
  void TruncateKv(Session* session,
                  int32_t tokens);  // to what a session of `tokens` tokens may have
  void DropDeleted(Session* session);

 private:
  void RunUntilClosed();
  void TakeSubmitted();
  void DropExpired();
  void WaitForWork();
  void Step();
  void EndInterrupted();

  // engine_admission.cc
  void AdmitWaiting();
  // Of options_.max_running, by the running: with those of candidates that are yet to begin.
  int32_t PlacesTaken() const;
  // The waiting sequence to admit first, of those in `left`, which it is taken from.
  Sequence* TakeFirst(std::vector<Sequence*>* left);
  enum class Entry : uint8_t { kEntered, kNoPlace, kNoKv };
  Entry TryAdmit(Sequence* sequence);
  void Begin(Sequence* sequence, int32_t cached, int32_t from_prefix);
  // OK when the tenant may hold so many blocks more; its idle sessions make room.
  absl::Status CheckTenantKv(const Sequence& sequence, int32_t blocks);
  void BeginSiblings(Sequence* sequence);
  // Where others wait for a place: takes those of sequences whose readers are far behind, of `most`
  // at most.
  void PreemptForgotten(size_t most);
  // Takes a place from the tenant that has most, for a tenant that has waited long with none.
  bool MakePlaceFor(const Sequence& sequence);
  void Preempt(Sequence* sequence);

  StepPlan Plan();
  void MakeProgressPossible(const StepPlan& plan);
  void RunPrefill(Sequence* sequence);
  void CommitPrefill(Sequence* sequence, int32_t tokens);
  void MeasurePrefill(int32_t tokens, Clock::duration time);
  void RunDecode(std::span<Sequence* const> batch);
  void CountFailures(const absl::Status& step);
  absl::Status Decode(std::span<Sequence* const> batch);
  // Audits one layer of the coming decode step, where it is time to.
  void WatchStep(int32_t rows);
  void TakeFindings(std::span<Sequence* const> batch);
  // OK when the tenant may have the sequence's next token, and its KV.
  absl::Status CheckTenantLimits(Sequence* sequence);
  // Blocks for the next token of each, as planned. Leaves out those that get none after all.
  std::vector<Sequence*> ReserveForDecode(const std::vector<Sequence*>& planned);
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
  const LoopOptions options_;
  KvReclaimer reclaimer_;
  FairShare share_;

  std::vector<std::unique_ptr<Sequence>> waiting_;  // in no order
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
  int32_t starved_ = 0;                             // running replies that wait for a block of KV
  int32_t owed_ = 0;         // blocks that preempted sequences need to come back
  bool progressed_ = false;  // the last step computed something
  Clock::time_point last_progress_ = Clock::now();
  uint64_t uses_ = 0;  // source of Session::last_used
  uint64_t decode_steps_ = 0;
  uint64_t audits_ = 0;

  // Scratch of a step, kept for its capacity.
  std::vector<RunningView> views_;
  std::vector<model::DecodeRow> rows_;
  std::vector<model::DecodeResult> results_;
  std::vector<float> logits_;  // [rows, vocab]; only where somebody wants the likeliest tokens
};

}  // namespace spotd::engine
