// Who of the waiting begins to run, and who of the running has to wait again.

#include <algorithm>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/engine_loop.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"

namespace spotd::engine {
namespace {

constexpr std::chrono::milliseconds kRetryKv{2000};

}  // namespace

absl::Status KvExhausted(std::string_view what) {
  return MakeError(absl::StatusCode::kResourceExhausted,
                   Concat("KV memory is full of running requests: ", what),
                   {.reason = reason::kKvExhausted, .retry_after = kRetryKv});
}

void EngineLoop::AdmitWaiting() {
  owed_ = 0;
  if (waiting_.empty()) return;
  std::vector<Sequence*> left;
  for (const auto& sequence : waiting_) {
    // Who lost its place to a slow reader waits for that reader.
    if (!sequence->preempted() || sequence->ReaderReady()) left.push_back(sequence.get());
  }
  PreemptForgotten(left.size());
  while (!left.empty()) {
    Sequence* const first = TakeFirst(&left);
    Entry entry = TryAdmit(first);
    if (entry == Entry::kNoPlace && MakePlaceFor(*first)) entry = TryAdmit(first);
    // Nobody overtakes a request that waits for places.
    if (entry == Entry::kNoPlace) break;
    // One whose KV is all there has ended at once, and holds no place.
    RemoveEnded();
  }
}

int32_t EngineLoop::PlacesTaken() const {
  int32_t places = 0;
  for (const auto& sequence : running_) places += sequence->places();
  return places;
}

Sequence* EngineLoop::TakeFirst(std::vector<Sequence*>* left) {
  const auto view = [this](const Sequence& sequence) {
    return WaitingView{.tenant_running = share_.running(sequence.tenant()),
                       .tenant_served = share_.served(sequence.tenant()),
                       .priority = sequence.head().priority,
                       .arrival = sequence.arrival()};
  };
  const auto first = std::min_element(
      left->begin(), left->end(),
      [&](const Sequence* a, const Sequence* b) { return GoesFirst(view(*a), view(*b)); });
  Sequence* const sequence = *first;
  left->erase(first);
  return sequence;
}

EngineLoop::Entry EngineLoop::TryAdmit(Sequence* sequence) {
  Session& session = sequence->session();
  AdmissionState state;
  state.taken = PlacesTaken();
  state.max_running = options_.max_running;
  state.places = sequence->places();
  state.preempted = sequence->preempted();
  if (Admit(state) == Admission::kWait) return Entry::kNoPlace;

  // The newest token is pending: its KV, if a rewind left it, is written again when it is decoded.
  int32_t cached = std::min(session.table.num_tokens(), sequence->length() - 1);
  store_->Truncate(&session.table, cached);
  session.last_used = ++uses_;
  reclaimer_.Pin(&session);
  int32_t from_prefix = 0;
  if (options_.prefix_sharing) {
    const std::vector<int32_t> tokens = sequence->AllTokens();
    from_prefix = store_->AdoptPrefix(&session.table, session.tenant,
                                      std::span(tokens).first(sequence->length() - 1));
    cached += from_prefix;
  }
  const int32_t tokens = std::max(sequence->kv_end() - cached, 0);
  state.blocks_needed = reclaimer_.BlocksNeeded(session.table, tokens);
  state.blocks_available = reclaimer_.AvailableBlocks() - starved_ - owed_;
  const Admission admission = Admit(state);
  if (admission == Admission::kWait) {
    owed_ += state.blocks_needed;
    store_->Truncate(&session.table, 0);
    reclaimer_.Unpin(&session);
    return Entry::kNoKv;
  }
  absl::Status status =
      KvExhausted(Concat("the prompt needs ", state.blocks_needed, " more blocks, ",
                         state.blocks_available, " can be had"));
  if (admission == Admission::kAdmit) {
    if (const absl::Status tenant = CheckTenantKv(*sequence, state.blocks_needed); tenant.ok()) {
      reclaimer_.MakeRoom(session.table, tokens);
      if (store_->Reserve(&session.table, tokens).ok()) {
        Begin(sequence, cached, from_prefix);
        return Entry::kEntered;
      }
    } else {
      status = tenant;
    }
  }
  End(sequence, status);
  return Entry::kEntered;
}

void EngineLoop::Begin(Sequence* sequence, int32_t cached, int32_t from_prefix) {
  const auto place =
      std::find_if(waiting_.begin(), waiting_.end(),
                   [sequence](const auto& waiting) { return waiting.get() == sequence; });
  running_.push_back(std::move(*place));
  waiting_.erase(place);
  share_.Begin(sequence->tenant());
  if (options_.prefix_sharing && !sequence->preempted()) {
    metrics_->prefix_lookup_tokens.fetch_add(sequence->length() - 1 - (cached - from_prefix));
  }
  sequence->Admit(cached, from_prefix);
  progressed_ = true;
  BeginSiblings(sequence);
  if (sequence->complete()) End(sequence, absl::OkStatus());
}

absl::Status EngineLoop::CheckTenantKv(const Sequence& sequence, int32_t blocks) {
  if (options_.tenant_kv_share >= 1 || sequence.preempted() || blocks == 0) {
    return absl::OkStatus();
  }
  const auto limit = static_cast<int32_t>(options_.tenant_kv_share * store_->stats().blocks_total);
  const int32_t pinned = reclaimer_.PinnedBlocks(sequence.tenant());
  if (pinned + blocks > limit) {
    return MakeError(absl::StatusCode::kResourceExhausted,
                     Concat("your requests hold ", pinned, " KV blocks; with ", blocks,
                            " more they would exceed your limit of ", limit),
                     {.reason = reason::kTenantKvLimit,
                      .metadata = {{"limit", std::to_string(limit)}},
                      .retry_after = kRetryKv});
  }
  reclaimer_.ShrinkTenant(sequence.tenant(), limit - blocks);
  return absl::OkStatus();
}

void EngineLoop::BeginSiblings(Sequence* sequence) {
  for (std::unique_ptr<Sequence>& sibling : sequence->Siblings(registry_)) {
    Session& session = sibling->session();
    session.table = store_->Fork(sequence->session().table);
    session.last_used = ++uses_;
    reclaimer_.Pin(&session);
    share_.Enter(session.tenant);
    share_.Begin(session.tenant);
    sibling->Admit(session.table.num_tokens(), 0);
    running_.push_back(std::move(sibling));
  }
}

void EngineLoop::PreemptForgotten(size_t most) {
  if (PlacesTaken() < options_.max_running) return;
  const Clock::time_point before = Clock::now() - options_.reader_patience;
  std::vector<Sequence*> forgotten;
  for (const auto& sequence : running_) {
    const auto& since = sequence->paused_since();
    if (forgotten.size() == most) break;
    if (since && *since <= before && !sequence->ReaderReady()) forgotten.push_back(sequence.get());
  }
  for (Sequence* sequence : forgotten) Preempt(sequence);
}

bool EngineLoop::MakePlaceFor(const Sequence& sequence) {
  if (share_.running(sequence.tenant()) > 0) return false;
  if (Clock::now() - sequence.submitted() < options_.tenant_patience) return false;
  Sequence* victim = nullptr;
  const auto rank = [this](const Sequence& one) {
    return std::pair(share_.running(one.tenant()), -one.head().priority);
  };
  // Of equals the one admitted last.
  for (const auto& running : running_) {
    if (victim == nullptr || rank(*running) >= rank(*victim)) victim = running.get();
  }
  if (victim == nullptr || share_.running(victim->tenant()) < 2) return false;
  Preempt(victim);
  return true;
}

void EngineLoop::Preempt(Sequence* sequence) {
  Session& session = sequence->session();
  session.had_kv = std::max(session.had_kv, session.table.num_tokens());
  store_->Truncate(&session.table, 0);
  reclaimer_.Unpin(&session);
  registry_->PublishKv(session);
  share_.Stop(session.tenant);
  sequence->Preempt();
  const auto place =
      std::find_if(running_.begin(), running_.end(),
                   [sequence](const auto& running) { return running.get() == sequence; });
  waiting_.push_back(std::move(*place));
  running_.erase(place);
}

}  // namespace spotd::engine
