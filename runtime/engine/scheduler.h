// What the next step does: pure functions of numbers, so that every rule is a row in a table of a
// test.
//
// Tenants share the engine: whoever has been served least goes first. A tenant's own requests go
// by priority, then as below.
//
// Decode: every sequence that has its next token, a reader that keeps up, and KV for one more
// token. KV is granted in order of admission; a sequence that gets none waits while others make
// progress, and keeps its KV.
//
// Prefill: one chunk of one sequence a step, beside the decodes. The sequence with the least left
// to compute goes first; each `kAgingSteps` steps that a sequence is passed over count as one chunk
// less, so a long prompt is delayed by short ones of its tenant and priority for at most
// kAgingSteps times its own number of chunks.
//
// Admission: by tenant and priority, then in order of arrival. A request is admitted when the KV of
// its whole prompt can be granted at once and refused when it cannot (free KV plus what idle
// sessions hold); it waits only for a place among the running. What is granted can be revoked: a
// running sequence that must make room goes back to the queue and is never refused for KV again.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace spotd::engine {

inline constexpr int32_t kAgingSteps = 4;

enum class Admission : uint8_t {
  kAdmit,
  kWait,    // all places among the running are taken
  kRefuse,  // KV memory cannot hold it
};

// A waiting sequence as the scheduler sees it.
struct WaitingView {
  int32_t tenant_running = 0;  // sequences that its tenant has running
  int64_t tenant_served = 0;   // see FairShare
  int32_t priority = 0;
  uint64_t arrival = 0;
};
// Whether `a` should be admitted before `b`.
bool GoesFirst(const WaitingView& a, const WaitingView& b);

struct AdmissionState {
  int32_t taken = 0;          // places among the running
  int32_t max_running = 0;    // places that there are
  int32_t places = 1;         // that the request takes
  int32_t blocks_needed = 0;  // by the request
  // Free, or held by idle sessions other than the request's own, and not owed to a running reply
  // that waits for KV.
  int32_t blocks_available = 0;
  bool preempted = false;  // it ran before: it waits rather than being refused
};
Admission Admit(const AdmissionState& state);

// A running sequence as the scheduler sees it.
struct RunningView {
  bool prefilling = false;
  int32_t prefill_left = 0;  // tokens, while prefilling
  int32_t passed_over = 0;   // steps in which another sequence was prefilled instead
  bool ready = true;         // its reader keeps up
  int64_t tenant_served = 0;
  int32_t priority = 0;
  int32_t blocks_needed = 0;  // to decode one more token
};

// Indices into the span given to PlanStep.
struct StepPlan {
  std::vector<int32_t> decode;
  std::optional<int32_t> prefill;
  std::vector<int32_t> starved;  // would decode, but for KV
  // Where nothing can run for want of KV: whose KV to take so that others go on. One whose reader
  // is behind, else one of `starved`; of several the one with the lowest priority, then the one
  // admitted last. While some sequence only waits for its reader this is put off until nothing has
  // run for a while.
  std::optional<int32_t> preempt;
};

struct StepState {
  int32_t blocks_available = 0;  // free, or held by sessions on which nothing runs
  int32_t prefill_chunk = 0;
  bool stalled = false;  // nothing has run for a while
};

// `running` is in order of admission.
StepPlan PlanStep(std::span<const RunningView> running, const StepState& state);

}  // namespace spotd::engine
