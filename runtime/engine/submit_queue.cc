#include "runtime/engine/submit_queue.h"

#include "runtime/engine/sequence.h"

namespace spotd::engine {

void QueuePlace::Leave() {
  if (queue_ != nullptr) std::exchange(queue_, nullptr)->Leave();
}

SubmitQueue::SubmitQueue(int32_t places) : free_places_(places) {}

SubmitQueue::~SubmitQueue() = default;

std::optional<QueuePlace> SubmitQueue::Enter() {
  const std::lock_guard lock(mutex_);
  if (free_places_ == 0) return std::nullopt;
  --free_places_;
  return QueuePlace(this);
}

void SubmitQueue::Leave() {
  const std::lock_guard lock(mutex_);
  ++free_places_;
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
