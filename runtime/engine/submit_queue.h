// What other threads hand to the engine thread: requests, bounded in number and in tokens, and
// commands.
//
// A request holds a QueuePlace from before it is prepared until its outcome is known, so the bound
// counts everything between arrival and end. Once its length is known the place also holds its
// tokens, until the engine has begun to compute them. Commands (session operations) are not
// bounded: their callers wait for them.
//
// Thread-safe. Order: items are taken in the order they were put in.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace spotd::engine {

class Sequence;
class SubmitQueue;

struct QueueLimits {
  int32_t requests = 0;             // running and waiting
  int32_t requests_per_tenant = 0;  // 0 = no limit of its own
  int64_t waiting_tokens = 0;       // of requests not yet begun; 0 = no limit
};

// One of the places for requests. Move-only; gives the place back.
class QueuePlace {
 public:
  QueuePlace() = default;
  QueuePlace(QueuePlace&& other) noexcept
      : queue_(std::exchange(other.queue_, nullptr)),
        tenant_(std::move(other.tenant_)),
        tokens_(std::exchange(other.tokens_, 0)) {}
  QueuePlace& operator=(QueuePlace&&) = delete;
  ~QueuePlace() { Leave(); }

  // Takes `tokens` of what may wait, until Begin or Leave. RESOURCE_EXHAUSTED (QUEUE_FULL) when
  // that is more than is left, unless nothing else waits.
  absl::Status Hold(int64_t tokens);
  void Begin();
  void Leave();

 private:
  friend class SubmitQueue;
  QueuePlace(SubmitQueue* queue, std::string tenant) : queue_(queue), tenant_(std::move(tenant)) {}
  SubmitQueue* queue_ = nullptr;
  std::string tenant_;
  int64_t tokens_ = 0;
};

class SubmitQueue {
 public:
  using Command = std::function<void()>;
  using Item = std::variant<std::unique_ptr<Sequence>, Command>;

  explicit SubmitQueue(const QueueLimits& limits);
  ~SubmitQueue();

  // RESOURCE_EXHAUSTED (QUEUE_FULL, TENANT_REQUEST_LIMIT) when all places are taken.
  absl::StatusOr<QueuePlace> Enter(const std::string& tenant);
  // Tokens of requests that have not begun.
  int64_t waiting_tokens() const;
  // False, and the item is dropped, once the queue is closed.
  bool Put(Item item);
  // Everything put in so far.
  std::vector<Item> Take();
  // Sleeps until there is something to take, the queue is closed, or `timeout` has passed; without
  // one, for ever.
  void Wait(std::optional<std::chrono::microseconds> timeout);
  void Close();
  bool closed() const;

 private:
  friend class QueuePlace;
  absl::Status Hold(int64_t tokens);
  void Begin(int64_t tokens);
  void Leave(const std::string& tenant);

  const QueueLimits limits_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  std::vector<Item> items_;
  int32_t requests_ = 0;
  std::map<std::string, int32_t> by_tenant_;  // requests
  int64_t waiting_tokens_ = 0;
  bool closed_ = false;
};

}  // namespace spotd::engine
