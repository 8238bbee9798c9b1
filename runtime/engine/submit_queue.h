// What other threads hand to the engine thread: requests, bounded in number, and commands.
//
// A request holds a QueuePlace from before it is prepared until its outcome is known, so the bound
// counts everything between arrival and end. Commands (session operations) are not bounded: their
// callers wait for them.
//
// Thread-safe. Order: items are taken in the order they were put in.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

namespace spotd::engine {

class Sequence;
class SubmitQueue;

// One of the places for requests. Move-only; gives the place back.
class QueuePlace {
 public:
  QueuePlace() = default;
  QueuePlace(QueuePlace&& other) noexcept : queue_(std::exchange(other.queue_, nullptr)) {}
  QueuePlace& operator=(QueuePlace&&) = delete;
  ~QueuePlace() { Leave(); }
  void Leave();

 private:
  friend class SubmitQueue;
  explicit QueuePlace(SubmitQueue* queue) : queue_(queue) {}
  SubmitQueue* queue_ = nullptr;
};

class SubmitQueue {
 public:
  using Command = std::function<void()>;
  using Item = std::variant<std::unique_ptr<Sequence>, Command>;

  explicit SubmitQueue(int32_t places);
  ~SubmitQueue();

  // Nothing when all places are taken.
  std::optional<QueuePlace> Enter();
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
  void Leave();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  std::vector<Item> items_;
  int32_t free_places_;
  bool closed_ = false;
};

}  // namespace spotd::engine
