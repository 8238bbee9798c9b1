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
  // `on_end` is told when the call has been ended through `cancel`, by whoever ends it.
  Handle Add(Names names, std::shared_ptr<engine::CancelToken> cancel,
             std::function<void()> on_end = nullptr);

  // Ends the tenant's calls with this id, or on this session. Returns how many.
  int32_t AbortCall(const std::string& tenant, const std::string& call_id);
  int32_t AbortSession(const std::string& tenant, const std::string& session);
  // Ends every call: the server waits no longer.
  void DrainAll();

  // False when as many uploads are going on as may; else LeaveUpload must follow.
  [[nodiscard]] bool EnterUpload();
  void LeaveUpload();
  int32_t max_uploads() const { return max_uploads_; }

 private:
  struct Running {
    Names names;
    std::shared_ptr<engine::CancelToken> cancel;
    std::function<void()> on_end;
  };
  template <typename Matches>
  int32_t EndIf(const Matches& matches, void (engine::CancelToken::*end)());
  void Remove(uint64_t key);

  const int32_t max_uploads_;
  std::mutex mutex_;
  // Guarded by mutex_:
  std::map<uint64_t, Running> calls_;
  uint64_t next_key_ = 0;
  int32_t uploads_ = 0;
};

}  // namespace spotd::server
