#include "runtime/engine/submit_queue.h"

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "runtime/engine/sequence.h"

namespace spotd::engine {
namespace {

constexpr std::chrono::milliseconds kRetryQueue{1000};

absl::Status Full(const char* reason, std::string_view message, int64_t limit) {
  return MakeError(absl::StatusCode::kResourceExhausted, message,
                   {.reason = reason,
                    .metadata = {{"limit", std::to_string(limit)}},
                    .retry_after = kRetryQueue});
}

}  // namespace

absl::Status QueuePlace::Hold(int64_t tokens) {
  SPOTD_RETURN_IF_ERROR(queue_->Hold(tokens));
  tokens_ += tokens;
  return absl::OkStatus();
}

void QueuePlace::Begin() {
  if (queue_ != nullptr) queue_->Begin(std::exchange(tokens_, 0));
}

void QueuePlace::Leave() {
  if (queue_ == nullptr) return;
  Begin();
  std::exchange(queue_, nullptr)->Leave(tenant_);
}

SubmitQueue::SubmitQueue(const QueueLimits& limits) : limits_(limits) {}

SubmitQueue::~SubmitQueue() = default;

absl::StatusOr<QueuePlace> SubmitQueue::Enter(const std::string& tenant) {
  const std::lock_guard lock(mutex_);
  if (requests_ >= limits_.requests) {
    return Full(reason::kQueueFull,
                Concat(requests_, " requests are in the server, as many as may"), limits_.requests);
  }
  int32_t& held = by_tenant_[tenant];
  if (limits_.requests_per_tenant > 0 && held >= limits_.requests_per_tenant) {
    return Full(reason::kTenantRequestLimit,
                Concat(held, " of your requests are in the server, as many as may"),
                limits_.requests_per_tenant);
  }
  QueuePlace place(this, tenant);  // first: it may find no memory
  ++held;
  ++requests_;
  return place;
}

void SubmitQueue::Leave(const std::string& tenant) {
  const std::lock_guard lock(mutex_);
  --requests_;
  const auto held = by_tenant_.find(tenant);
  if (--held->second == 0) by_tenant_.erase(held);
}

absl::Status SubmitQueue::Hold(int64_t tokens) {
  const std::lock_guard lock(mutex_);
  const bool full = limits_.waiting_tokens > 0 && waiting_tokens_ > 0 &&
                    waiting_tokens_ + tokens > limits_.waiting_tokens;
  if (full) {
    return Full(
        reason::kQueueFull,
        Concat(waiting_tokens_, " prompt tokens are waiting; ", tokens, " more would be too many"),
        limits_.waiting_tokens);
  }
  waiting_tokens_ += tokens;
  return absl::OkStatus();
}

void SubmitQueue::Begin(int64_t tokens) {
  const std::lock_guard lock(mutex_);
  waiting_tokens_ -= tokens;
}

int64_t SubmitQueue::waiting_tokens() const {
  const std::lock_guard lock(mutex_);
  return waiting_tokens_;
}

bool SubmitQueue::Put(Item item) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    items_.push_back(std::move(item));
  }
  changed_.notify_one();
  return true;
}

std::vector<SubmitQueue::Item> SubmitQueue::Take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(items_, {});
}

void SubmitQueue::Wait(std::optional<std::chrono::microseconds> timeout) {
  std::unique_lock lock(mutex_);
  const auto woken = [this] { return closed_ || !items_.empty(); };
  if (timeout) {
    changed_.wait_for(lock, *timeout, woken);
  } else {
    changed_.wait(lock, woken);
  }
}

void SubmitQueue::Close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_one();
}

bool SubmitQueue::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

}  // namespace spotd::engine
