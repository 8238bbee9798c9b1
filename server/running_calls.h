// The calls that are in the server, so that another call can end them, and how many of them are
// sending their input.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "runtime/engine/request.h"

namespace spotd::server {

class RunningCalls {
 public:
  // 0 = any number of uploads at a time.
  explicit RunningCalls(int32_t max_uploads = 0) : max_uploads_(max_uploads) {}
  // Every handle must be gone. A call's last owner may be a task of the writer thread, long after
  // gRPC is done with the call: the executors end first.
  ~RunningCalls();
  RunningCalls(const RunningCalls&) = delete;
  RunningCalls& operator=(const RunningCalls&) = delete;

  struct Names {
    std::string tenant;
    std::string call_id;
    std::string session;  // "sessions/{id}"; empty: none
  };
  // The call is known by its names as long as the caller keeps the handle.
  class Handle {
   public:
    Handle() = default;
    Handle(Handle&& other) noexcept
        : calls_(std::exchange(other.calls_, nullptr)), key_(other.key_) {}
    Handle& operator=(Handle&& other) noexcept;
    ~Handle();

   private:
    friend class RunningCalls;
    Handle(RunningCalls* calls, uint64_t key) : calls_(calls), key_(key) {}
    RunningCalls* calls_ = nullptr;
    uint64_t key_ = 0;
  };
  // `on_end` of a call that still sends its input: told when the call has been ended through
  // `cancel`, by whoever ends it.
  Handle Add(Names names, std::shared_ptr<engine::CancelToken> cancel,
             std::function<void()> on_end = nullptr);

  // Ends the tenant's calls with this id, or on this session. Returns how many.
  int32_t AbortCall(const std::string& tenant, const std::string& call_id);
  int32_t AbortSession(const std::string& tenant, const std::string& session);
  // Ends the calls that still send their input, from now on: no work is begun any more, and what
  // they would add to goes with the server.
  void DrainUploads();
  bool drains_uploads() const;
  // Ends every call: the server waits no longer.
  void DrainAll();

  // False when as many uploads are going on as may; else LeaveUpload must follow.
  [[nodiscard]] bool EnterUpload();
  void LeaveUpload();
  int32_t uploads() const;
  int32_t max_uploads() const { return max_uploads_; }

 private:
  struct Running {
    Names names;
    std::shared_ptr<engine::CancelToken> cancel;
    std::function<void()> on_end;
  };
  // `matches` is asked about each Running.
  template <typename Matches>
  int32_t EndIf(const Matches& matches, void (engine::CancelToken::*end)());
  void Remove(uint64_t key);

  const int32_t max_uploads_;
  mutable std::mutex mutex_;
  // Guarded by mutex_:
  bool drains_uploads_ = false;
  std::map<uint64_t, Running> calls_;
  uint64_t next_key_ = 0;
  int32_t uploads_ = 0;
};

}  // namespace spotd::server
