// Threads for the parts of a call that take time (tokenising, waiting for the engine between two
// steps), so that gRPC's own few threads never block.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace spotd::server {

// Thread-safe. Tasks start in the order they were submitted.
class CallExecutor {
 public:
  CallExecutor(int threads, size_t max_queued);
  ~CallExecutor();  // runs what is queued
  CallExecutor(const CallExecutor&) = delete;
  CallExecutor& operator=(const CallExecutor&) = delete;

  // False, and nothing happens, when max_queued tasks are waiting.
  [[nodiscard]] bool Submit(std::function<void()> task);

 private:
  void Work();

  const size_t max_queued_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace spotd::server
