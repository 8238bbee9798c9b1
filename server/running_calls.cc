#include "server/running_calls.h"

#include <vector>

#include "kernels/core/check.h"

namespace spotd::server {

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

RunningCalls::~RunningCalls() {
  const std::lock_guard lock(mutex_);
  SPOTD_CHECK(calls_.empty());
}

RunningCalls::Handle RunningCalls::Add(Names names, std::shared_ptr<engine::CancelToken> cancel,
                                       std::function<void()> on_end) {
  const std::lock_guard lock(mutex_);
  calls_[next_key_] = {std::move(names), std::move(cancel), std::move(on_end)};
  return Handle(this, next_key_++);
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

bool RunningCalls::EnterUpload() {
  const std::lock_guard lock(mutex_);
  if (max_uploads_ > 0 && uploads_ >= max_uploads_) return false;
  ++uploads_;
  return true;
}

void RunningCalls::LeaveUpload() {
  const std::lock_guard lock(mutex_);
  --uploads_;
}

int32_t RunningCalls::uploads() const {
  const std::lock_guard lock(mutex_);
  return uploads_;
}

}  // namespace spotd::server
