// A fixed set of worker threads for data-parallel loops.
//
// Only one thread at a time may call ParallelFor (the engine thread owns the pool). Workers spin
// briefly between loops, because a decode step runs hundreds of loops of a few microseconds, then
// sleep.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace spotd {

class ThreadPool {
 public:
  // `threads` counts the caller: 1 means no worker at all. At least 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(thread) once on every thread of the pool, the caller's being 0; returns when all are
  // done.
  void Run(const std::function<void(int thread)>& body);

  // Splits [0, count) into tasks of `grain` indices and calls body(begin, end, thread). Each thread
  // has an equal, contiguous share of the tasks, which it takes in order; threads that finish early
  // take from the others' shares. Which thread runs a task must not change its result.
  void ParallelFor(int64_t count, int64_t grain,
                   const std::function<void(int64_t begin, int64_t end, int thread)>& body);

 private:
  struct Shared;
  int num_threads_;
  std::unique_ptr<Shared> shared_;
};

}  // namespace spotd
