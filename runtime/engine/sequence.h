// How far one request is: the state machine between a claim on a session and the last callback.
//
//   waiting --Admit--> prefilling --Prefilled--> decoding --Decoded--> ... --End--> ended
//      ^----------------------Preempt---------------'
//
// Acknowledged: the tokens the session keeps if the request ended now. An Append acknowledges all
// of its tokens when the last is in the cache; a Generate acknowledges prompt and reply token by
// token as they go to the sink, or all at its end where it carries a request id. Until then a
// request that fails leaves the session as it was.
//
// The sequence decides and counts; the engine's loop runs the model and moves KV. Engine thread
// only, after construction.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "runtime/engine/attention_audit.h"
#include "runtime/engine/candidates.h"
#include "runtime/engine/metrics.h"
#include "runtime/engine/prompt_encoder.h"
#include "runtime/engine/reply.h"
#include "runtime/engine/request.h"
#include "runtime/engine/request_log.h"
#include "runtime/engine/selection_record.h"
#include "runtime/engine/session_registry.h"
#include "runtime/engine/sparsity_tally.h"
#include "runtime/engine/submit_queue.h"
#include "runtime/engine/token_history.h"

namespace spotd::engine {

// Made on the submitting thread.
struct SequenceSetup {
  SessionClaim claim;
  QueuePlace place;
  EncodedPrompt prompt;
  Clock::time_point submitted;
  Metrics* metrics = nullptr;
  std::atomic<int32_t>* unfinished = nullptr;  // counted down after the last callback
  uint64_t arrival = 0;
};

// What a Generate needs to know of the engine.
struct GenerationSetup {
  model::Policy policy;
  uint64_t seed = 0;
  std::vector<int32_t> stop_tokens;
  int32_t max_context = 0;
  int32_t block_tokens = 0;
  const text::Tokenizer* tokenizer = nullptr;
  const SpecialText* special_text = nullptr;
  std::shared_ptr<SelectionRecord> record;     // nullable
  std::shared_ptr<CandidateGroup> candidates;  // nullable: a single reply
  int32_t candidate = 0;                       // which of them
};

class Sequence {
 public:
  Sequence(AppendRequest request, SequenceSetup setup);
  Sequence(GenerateRequest request, SequenceSetup setup, GenerationSetup generation);
  ~Sequence();  // one that has not ended was never queued: nobody hears of it

  Session& session() { return *claim_.get(); }
  const RequestHead& head() const;
  const std::string& tenant() const { return claim_->tenant; }
  uint64_t arrival() const { return arrival_; }
  Clock::time_point submitted() const { return submitted_; }
  bool prefilling() const { return state_ == State::kPrefilling; }
  bool decoding() const { return state_ == State::kDecoding; }
  // The request has all it asked for, and waits for End.
  bool complete() const { return complete_; }
  bool ended() const { return state_ == State::kEnded; }
  bool preempted() const { return preempted_; }

  // CANCELLED or DEADLINE_EXCEEDED when the request must not go on.
  absl::Status Interrupted(Clock::time_point now) const;

  // Tokens of the session, the prompt and what was generated so far.
  int32_t length() const;
  // The same tokens, whether or not the prompt is part of the session yet.
  std::vector<int32_t> AllTokens() const;
  // Tokens whose KV must have room when the request is admitted. The newest token's KV is written
  // when it is decoded.
  int32_t kv_end() const { return generation_ ? length() : length() - 1; }
  // Places among the running that it takes, or will once its prompt is computed.
  int32_t places() const;

  // waiting -> prefilling, or decoding where the KV of all but the newest token is there. `cached`
  // tokens of KV are, the last `from_prefix` of them adopted from other sessions.
  void Admit(int32_t cached, int32_t from_prefix);
  // running -> waiting. Its KV is gone; its tokens stay.
  void Preempt();
  // The other candidates' sequences, once, when the prompt is computed and several were asked for:
  // each with a session of its own that has the same tokens and as yet no KV.
  std::vector<std::unique_ptr<Sequence>> Siblings(SessionRegistry* registry);

  // The next tokens to prefill: cut at fixed distances from where the request began, whatever else
  // is going on.
  std::span<const int32_t> NextChunk(int32_t chunk_tokens);
  int32_t prefill_left() const { return length() - 1 - cached_; }
  // The chunk is in the cache. prefilling -> decoding or complete, after the last.
  void Prefilled(int32_t tokens, Clock::time_point scheduled);
  int32_t passed_over() const { return passed_over_; }
  void PassOver() { ++passed_over_; }

  // Whether the reader keeps up. Asks the sink.
  bool ReaderReady();
  // Since when it has not; nothing while it does.
  const std::optional<Clock::time_point>& paused_since() const { return paused_since_; }
  // The next decode step's row, but for the table.
  model::DecodeRow Row();
  // How many of the likeliest tokens it wants to know: then Decoded needs the row's logits.
  int32_t top_logprobs() const { return generation_ ? generation_->request.top_logprobs : 0; }
  // One layer of the step that has just run was audited. Before Decoded.
  void Audited(const AttentionAudit::Finding& finding, double floor);
  void Decoded(const model::DecodeResult& result, std::span<const float> logits,
               Clock::time_point scheduled);

  // What was recorded of the reply; null when nothing was.
  std::shared_ptr<const SelectionRecord> record() const {
    return generation_ ? generation_->setup.record : nullptr;
  }
  // Tokens of KV that are consistent with the acknowledged tokens, of `cached` ones.
  int32_t KvToKeep(int32_t cached) const;
  // any -> ended: brings the session to its acknowledged state, gives up claim and place, reports
  // the outcome.
  void End(const absl::Status& status);

 private:
  enum class State : uint8_t { kWaiting, kPrefilling, kDecoding, kEnded };

  struct Generation {
    Generation(GenerateRequest request_in, GenerationSetup setup_in, int32_t room);
    GenerateRequest request;
    GenerationSetup setup;
    Reply reply;
    TokenHistory history;
    SparsityTally sparsity;
    AnsweredRequest answer;  // filled where it may have to be repeated
  };

  // The context that the first generated token sees.
  int32_t prompt_end() const { return base_ + new_tokens_; }
  bool sibling() const { return generation_ && generation_->setup.candidate > 0; }
  void MarkScheduled(Clock::time_point now);
  void EndPrefill();
  void ReportProgress(int32_t done);
  void CountStep(const model::RowSparsity& step);
  void CountToken(Clock::time_point now);
  void KeepAcknowledged();
  Usage MakeUsage() const;
  // Where the request carried an id and succeeded.
  void Remember(const AppendResult& result);
  void Remember(const GenerateResult& result);
  Timings MakeTimings(Clock::time_point now) const;
  GenerateResult MakeGenerateResult(Clock::time_point now) const;
  AppendResult MakeAppendResult(Clock::time_point now) const;
  void ObserveGeneration(const GenerateResult& result);
  void CountPrompt();
  void CountPrefilled(int32_t begin, int32_t end);

  SessionClaim claim_;
  QueuePlace place_;
  Conversation conversation_;  // the session's once the prompt is acknowledged
  Metrics* metrics_;
  std::atomic<int32_t>* unfinished_;
  AppendRequest append_;  // where there is no generation
  std::optional<Generation> generation_;

  State state_ = State::kWaiting;
  bool complete_ = false;
  std::vector<int32_t> prompt_;  // until admission
  int32_t base_ = 0;             // tokens of the session before the request
  int32_t new_tokens_ = 0;       // of the prompt
  int32_t acknowledged_ = 0;
  int32_t from_session_ = 0;  // tokens of KV found at admission
  int32_t from_prefix_ = 0;   // tokens of KV adopted at admission
  int32_t restored_ = 0;      // tokens of KV that the session had lost, at admission
  int32_t restored_end_ = 0;  // where these end
  int32_t counted_ = 0;       // tokens whose first computation has been counted
  int32_t cached_ = 0;        // tokens of KV now
  int32_t passed_over_ = 0;
  bool was_paused_ = false;  // by its reader, since the last token
  bool admitted_ = false;    // at least once: the prompt is part of the session's tokens
  bool preempted_ = false;   // and has not caught up yet
  bool has_siblings_ = false;
  uint64_t arrival_;
  std::optional<Clock::time_point> paused_since_;

  Clock::time_point submitted_;
  std::optional<Clock::time_point> scheduled_;
  std::optional<Clock::time_point> prefilled_;
  std::optional<Clock::time_point> first_token_;
  Clock::time_point last_token_;
};

}  // namespace spotd::engine
