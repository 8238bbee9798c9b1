#include "server/running_calls.h"

#include <algorithm>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"

namespace spotd::server {
namespace {

int32_t TenantLimit(const UploadLimits& limits) {
  if (limits.all == 0) return 0;
  return static_cast<int32_t>(
      std::max<int64_t>(int64_t{limits.all} * limits.tenant_percent / 100, 1));
}

absl::Status TooMany(const char* reason, std::string_view whose, int32_t limit) {
  return engine::MakeError(absl::StatusCode::kResourceExhausted,
                           Concat(limit, whose, " calls are sending their input, as many as may"),
                           {.reason = reason,
                            .metadata = {{"limit", std::to_string(limit)}},
                            .retry_after = std::chrono::seconds(1)});
}

}  // namespace

RunningCalls::RunningCalls(const UploadLimits& limits)
    : limits_(limits), tenant_limit_(TenantLimit(limits)) {}

RunningCalls::Handle& RunningCalls::Handle::operator=(Handle&& other) noexcept {
  if (this == &other) return *this;
  if (calls_ != nullptr) calls_->Remove(key_);
  calls_ = std::exchange(other.calls_, nullptr);
  key_ = other.key_;
  return *this;
}

RunningCalls::Handle::~Handle() {
  if (calls_ != nullptr) calls_->Remove(key_);
}

void RunningCalls::Handle::Heard() {
  if (calls_ != nullptr) calls_->Heard(key_);
}

RunningCalls::~RunningCalls() {
  const std::lock_guard lock(mutex_);
  SPOTD_CHECK(calls_.empty());
}

RunningCalls::Handle RunningCalls::Add(Names names, std::shared_ptr<engine::CancelToken> cancel,
                                       std::function<void()> on_end) {
  const std::lock_guard lock(mutex_);
  calls_[next_key_] = {std::move(names), std::move(cancel), std::move(on_end),
                       engine::Clock::now()};
  return Handle(this, next_key_++);
}

void RunningCalls::Heard(uint64_t key) {
  const std::lock_guard lock(mutex_);
  calls_.at(key).heard = engine::Clock::now();
}

void RunningCalls::Remove(uint64_t key) {
  const std::lock_guard lock(mutex_);
  calls_.erase(key);
}

template <typename Matches>
int32_t RunningCalls::EndIf(const Matches& matches, void (engine::CancelToken::*end)()) {
  std::vector<std::function<void()>> told;
  int32_t ended = 0;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, call] : calls_) {
      if (!matches(call)) continue;
      ((*call.cancel).*end)();
      if (call.on_end != nullptr) told.push_back(call.on_end);
      ++ended;
    }
  }
  for (const auto& on_end : told) on_end();
  return ended;
}

void RunningCalls::DrainUploads() {
  {
    const std::lock_guard lock(mutex_);
    drains_uploads_ = true;
  }
  EndIf([](const Running& call) { return call.on_end != nullptr; }, &engine::CancelToken::Drain);
}

bool RunningCalls::drains_uploads() const {
  const std::lock_guard lock(mutex_);
  return drains_uploads_;
}

void RunningCalls::EndStalledUploads(engine::Clock::time_point before) {
  EndIf([before](const Running& call) { return call.on_end != nullptr && call.heard < before; },
        &engine::CancelToken::Stall);
}

void RunningCalls::DrainAll() {
  EndIf([](const Running&) { return true; }, &engine::CancelToken::Drain);
}

int32_t RunningCalls::AbortCall(const std::string& tenant, const std::string& call_id) {
  return EndIf(
      [&](const Running& call) {
        return call.names.tenant == tenant && call.names.call_id == call_id;
      },
      &engine::CancelToken::Abort);
}

int32_t RunningCalls::AbortSession(const std::string& tenant, const std::string& session) {
  return EndIf(
      [&](const Running& call) {
        return call.names.tenant == tenant && call.names.session == session;
      },
      &engine::CancelToken::Abort);
}

absl::Status RunningCalls::EnterUpload(const std::string& tenant) {
  const std::lock_guard lock(mutex_);
  if (limits_.all > 0 && uploads_ >= limits_.all) {
    return TooMany(engine::reason::kUploadLimit, "", limits_.all);
  }
  const auto held = uploads_by_tenant_.find(tenant);
  if (tenant_limit_ > 0 && held != uploads_by_tenant_.end() && held->second >= tenant_limit_) {
    return TooMany(engine::reason::kTenantUploadLimit, " of your", tenant_limit_);
  }
  ++uploads_by_tenant_[tenant];
  ++uploads_;
  return absl::OkStatus();
}

void RunningCalls::LeaveUpload(const std::string& tenant) {
  const std::lock_guard lock(mutex_);
  --uploads_;
  const auto held = uploads_by_tenant_.find(tenant);
  if (--held->second == 0) uploads_by_tenant_.erase(held);
}

int32_t RunningCalls::uploads() const {
  const std::lock_guard lock(mutex_);
  return uploads_;
}

}  // namespace spotd::server
