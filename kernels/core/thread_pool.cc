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

// Of one loop, so that a ticket holds their numbers.
constexpr int64_t kMaxTasks = 0xffff;

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

// One loop at a time is open. Its tasks are dealt out in equal, contiguous shares, one a thread; a
// thread works through its own share first and then helps with the others'. So a thread keeps to
// the same part of the data from loop to loop, which leaves that in its cache, and yet one that is
// late or was not scheduled holds nobody up.
//
// A share's ticket holds the loop's number, the next unclaimed task and the end of the share. A
// thread owns a task when its compare-exchange of the ticket succeeds. That proves that the loop
// whose fields it has read is still open, because a loop stays open, and its fields unchanged,
// until every task of every share is claimed and done.
struct ThreadPool::Shared {
  using Body = std::function<void(int64_t, int64_t, int)>;

  // Tickets: 32 bits of loop number, 16 of next task, 16 of end.
  static uint64_t MakeTicket(uint32_t loop, uint32_t next, uint32_t end) {
    return (static_cast<uint64_t>(loop) << 32) | (next << 16) | end;
  }
  static uint32_t LoopOf(uint64_t t) { return static_cast<uint32_t>(t >> 32); }
  static uint32_t NextOf(uint64_t t) { return static_cast<uint32_t>(t >> 16) & 0xffffu; }
  static uint32_t EndOf(uint64_t t) { return static_cast<uint32_t>(t) & 0xffffu; }
  static constexpr uint64_t kOneTask = uint64_t{1} << 16;

  struct alignas(64) Share {
    std::atomic<uint64_t> ticket{0};
  };

  explicit Shared(int threads) : shares(static_cast<size_t>(threads)) {}

  alignas(64) std::atomic<uint32_t> newest_loop{0};
  std::atomic<const Body*> body{nullptr};
  std::atomic<int64_t> count{0};
  std::atomic<int64_t> grain{1};
  std::atomic<bool> share_only{false};  // no helping: every thread runs its own share
  alignas(64) std::atomic<uint32_t> unfinished{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<Share> shares;
  std::vector<std::thread> workers;

  // Runs tasks of one share of loop `loop` until none is left; how many.
  uint32_t WorkOn(Share& share, uint32_t loop, int thread) {
    uint32_t done = 0;
    uint64_t t = share.ticket.load(std::memory_order_acquire);
    while (LoopOf(t) == loop && NextOf(t) < EndOf(t)) {
      const Body* const run = body.load(std::memory_order_acquire);
      const int64_t n = count.load(std::memory_order_acquire);
      const int64_t step = grain.load(std::memory_order_acquire);
      if (!share.ticket.compare_exchange_strong(t, t + kOneTask, std::memory_order_acq_rel)) {
        continue;
      }
      const int64_t begin = static_cast<int64_t>(NextOf(t)) * step;
      (*run)(begin, std::min(n, begin + step), thread);
      ++done;
      t = share.ticket.load(std::memory_order_acquire);
    }
    return done;
  }

  void Work(uint32_t loop, int thread) {
    const auto threads = static_cast<int>(shares.size());
    uint32_t done = 0;
    for (int i = 0; i < threads; ++i) {
      done += WorkOn(shares[static_cast<size_t>((thread + i) % threads)], loop, thread);
      if (share_only.load(std::memory_order_acquire)) break;
    }
    if (done > 0) unfinished.fetch_sub(done, std::memory_order_release);
  }

  void Worker(int thread) {
    uint32_t seen = 0;
    const auto next_loop = [&] {
      return newest_loop.load(std::memory_order_seq_cst) != seen ||
             stop.load(std::memory_order_relaxed);
    };
    while (!stop.load(std::memory_order_relaxed)) {
      if (!SpinUntil(next_loop, kYieldTime)) Sleep(next_loop);
      seen = newest_loop.load(std::memory_order_acquire);
      Work(seen, thread);
    }
  }

  // The sleeper announces itself before it looks for a loop a last time, and RunLoop publishes the
  // loop before it looks for sleepers; both sequentially consistent, so one of them sees the other.
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

  void RunLoop(int64_t n, int64_t step, bool only_own, const Body& run) {
    const auto tasks = static_cast<uint32_t>((n + step - 1) / step);
    SPOTD_CHECK(tasks <= kMaxTasks);
    const uint32_t loop = newest_loop.load(std::memory_order_relaxed) + 1;
    body.store(&run, std::memory_order_release);
    count.store(n, std::memory_order_release);
    grain.store(step, std::memory_order_release);
    share_only.store(only_own, std::memory_order_release);
    unfinished.store(tasks, std::memory_order_relaxed);
    const auto threads = static_cast<uint32_t>(shares.size());
    for (uint32_t i = 0; i < threads; ++i) {
      shares[i].ticket.store(MakeTicket(loop, tasks * i / threads, tasks * (i + 1) / threads),
                             std::memory_order_release);
    }
    newest_loop.store(loop, std::memory_order_seq_cst);
    WakeSleepers();
    Work(loop, 0);
    while (
        !SpinUntil([&] { return unfinished.load(std::memory_order_acquire) == 0; }, kYieldTime)) {
    }
  }
};

ThreadPool::ThreadPool(int threads)
    : num_threads_(threads), shared_(std::make_unique<Shared>(threads)) {
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
  if ((count + grain - 1) / grain <= kMaxTasks) return shared_->RunLoop(count, grain, false, body);
  const int64_t part = kMaxTasks * grain;
  for (int64_t first = 0; first < count; first += part) {
    shared_->RunLoop(
        std::min(part, count - first), grain, false,
        [&](int64_t begin, int64_t end, int thread) { body(first + begin, first + end, thread); });
  }
}

}  // namespace spotd
