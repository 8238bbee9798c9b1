#include "kernels/core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/core/check.h"

namespace spotd {
namespace {

// How long an idle thread burns its core: first without, then with giving way to other runnable
// threads.
constexpr std::chrono::microseconds kSpinTime(20);
constexpr std::chrono::microseconds kYieldTime(100);
constexpr int kPausesPerClockRead = 32;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits for `done`, at most `limit` where one is given. Yields after a while, so that on an
// oversubscribed machine the thread waited for gets a core.
template <typename Condition>
bool SpinUntil(const Condition& done, std::chrono::microseconds limit) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (done()) return true;
      Pause();
    }
    const auto elapsed = std::chrono::steady_clock::now() - start;
    if (elapsed > limit) return done();
    if (elapsed > kSpinTime) std::this_thread::yield();
  }
}

}  // namespace

// One loop at a time is open. `ticket` holds the loop's number (upper half) and its next unclaimed
// task (lower half, or kClosed). A thread owns a task when its compare-exchange of the ticket
// succeeds, which proves that the loop whose fields it has read is still open: the fields change
// only behind a closed ticket. So a worker that was not scheduled in time is not waited for: others
// take its tasks, and it finds the ticket gone when it comes.
struct ThreadPool::Shared {
  using Body = std::function<void(int64_t, int64_t, int)>;

  alignas(64) std::atomic<uint64_t> ticket{0};
  std::atomic<const Body*> body{nullptr};
  std::atomic<int64_t> count{0};
  std::atomic<int64_t> grain{1};
  std::atomic<uint32_t> tasks{0};
  std::atomic<bool> once_per_thread{false};
  alignas(64) std::atomic<uint32_t> unfinished{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;

  static constexpr uint32_t kClosed = 0xffffffffu;

  static uint32_t LoopOf(uint64_t t) { return static_cast<uint32_t>(t >> 32); }

  // Takes and runs tasks of loop `loop` until none is left.
  void Work(uint32_t loop, int thread) {
    for (;;) {
      uint64_t t = ticket.load(std::memory_order_acquire);
      const Body* const run = body.load(std::memory_order_acquire);
      const int64_t n = count.load(std::memory_order_acquire);
      const int64_t step = grain.load(std::memory_order_acquire);
      const uint32_t limit = tasks.load(std::memory_order_acquire);
      const bool once = once_per_thread.load(std::memory_order_acquire);
      const auto task = static_cast<uint32_t>(t);
      if (LoopOf(t) != loop || task >= limit) return;
      if (!ticket.compare_exchange_strong(t, t + 1, std::memory_order_acq_rel)) continue;
      const int64_t begin = static_cast<int64_t>(task) * step;
      (*run)(begin, std::min(n, begin + step), thread);
      unfinished.fetch_sub(1, std::memory_order_release);
      if (once) return;
    }
  }

  void Worker(int thread) {
    uint32_t seen = 0;
    const auto next_loop = [&] {
      return LoopOf(ticket.load(std::memory_order_seq_cst)) != seen ||
             stop.load(std::memory_order_relaxed);
    };
    while (!stop.load(std::memory_order_relaxed)) {
      if (!SpinUntil(next_loop, kYieldTime)) Sleep(next_loop);
      seen = LoopOf(ticket.load(std::memory_order_acquire));
      Work(seen, thread);
    }
  }

  // The sleeper announces itself before it looks at the ticket a last time, and RunLoop publishes
  // the ticket before it looks for sleepers; both sequentially consistent, so one of them sees the
  // other.
  template <typename Condition>
  void Sleep(const Condition& awake) {
    std::unique_lock<std::mutex> lock(mutex);
    sleepers.fetch_add(1, std::memory_order_seq_cst);
    wake.wait(lock, awake);
    sleepers.fetch_sub(1, std::memory_order_relaxed);
  }

  void WakeSleepers() {
    if (sleepers.load(std::memory_order_seq_cst) == 0) return;
    { const std::lock_guard<std::mutex> lock(mutex); }
    wake.notify_all();
  }

  void RunLoop(int64_t n, int64_t step, bool once, const Body& run) {
    SPOTD_CHECK((n + step - 1) / step < kClosed);
    const auto limit = static_cast<uint32_t>((n + step - 1) / step);
    const uint32_t loop = LoopOf(ticket.load(std::memory_order_relaxed)) + 1;
    ticket.fetch_or(kClosed, std::memory_order_acq_rel);
    body.store(&run, std::memory_order_release);
    count.store(n, std::memory_order_release);
    grain.store(step, std::memory_order_release);
    tasks.store(limit, std::memory_order_release);
    once_per_thread.store(once, std::memory_order_release);
    unfinished.store(limit, std::memory_order_relaxed);
    ticket.store(static_cast<uint64_t>(loop) << 32, std::memory_order_seq_cst);
    WakeSleepers();
    Work(loop, 0);
    while (
        !SpinUntil([&] { return unfinished.load(std::memory_order_acquire) == 0; }, kYieldTime)) {
    }
  }
};

ThreadPool::ThreadPool(int threads) : num_threads_(threads), shared_(std::make_unique<Shared>()) {
  SPOTD_CHECK(threads >= 1);
  for (int i = 1; i < threads; ++i) {
    shared_->workers.emplace_back([shared = shared_.get(), i] { shared->Worker(i); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->stop.store(true);
  }
  shared_->wake.notify_all();
  for (std::thread& worker : shared_->workers) worker.join();
}

void ThreadPool::Run(const std::function<void(int)>& body) {
  if (num_threads_ == 1) return body(0);
  shared_->RunLoop(num_threads_, 1, true, [&](int64_t, int64_t, int thread) { body(thread); });
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain,
                             const std::function<void(int64_t, int64_t, int)>& body) {
  SPOTD_CHECK(grain >= 1);
  if (count <= 0) return;
  if (num_threads_ == 1 || count <= grain) {
    for (int64_t begin = 0; begin < count; begin += grain) {
      body(begin, std::min(count, begin + grain), 0);
    }
    return;
  }
  shared_->RunLoop(count, grain, false, body);
}

}  // namespace spotd
