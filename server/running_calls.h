// The calls that are in the server, so that another call can end them, and how many of them are
// sending their input: uploads, whose number is bounded, of each tenant too, and which end when
// their client sends nothing any more.
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

#include "absl/status/status.h"
#include "runtime/engine/request.h"

namespace spotd::server {

// How many calls may send their input at a time.
struct UploadLimits {
  int32_t all = 0;               // 0 = any number
  int32_t tenant_percent = 100;  // of `all`, that one tenant's may be; at least one
};

class RunningCalls {
 public:
  explicit RunningCalls(const UploadLimits& limits = {});
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
    // The client has sent something.
    void Heard();

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
  // Ends the calls that still send their input and have sent nothing since `before`.
  void EndStalledUploads(engine::Clock::time_point before);
  // Ends every call: the server waits no longer.
  void DrainAll();

  // RESOURCE_EXHAUSTED (UPLOAD_LIMIT, TENANT_UPLOAD_LIMIT) when as many uploads are going on as
  // may; else LeaveUpload must follow.
  absl::Status EnterUpload(const std::string& tenant);
  void LeaveUpload(const std::string& tenant);
  int32_t uploads() const;

 private:
  struct Running {
    Names names;
    std::shared_ptr<engine::CancelToken> cancel;
    std::function<void()> on_end;
    engine::Clock::time_point heard;  // when the client last sent something
  };
  // `matches` is asked about each Running.
  template <typename Matches>
  int32_t EndIf(const Matches& matches, void (engine::CancelToken::*end)());
  void Heard(uint64_t key);
  void Remove(uint64_t key);

  const UploadLimits limits_;
  const int32_t tenant_limit_;  // 0 = none
  mutable std::mutex mutex_;
  // Guarded by mutex_:
  bool drains_uploads_ = false;
  std::map<uint64_t, Running> calls_;
  uint64_t next_key_ = 0;
  int32_t uploads_ = 0;
  std::map<std::string, int32_t> uploads_by_tenant_;
};

}  // namespace spotd::server
