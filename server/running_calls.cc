#include "server/running_calls.h"

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

RunningCalls::Handle RunningCalls::Add(Names names, std::shared_ptr<engine::CancelToken> cancel) {
  const std::lock_guard lock(mutex_);
  calls_[next_key_] = {std::move(names), std::move(cancel)};
  return Handle(this, next_key_++);
}

void RunningCalls::Remove(uint64_t key) {
  const std::lock_guard lock(mutex_);
  calls_.erase(key);
}

template <typename F>
int32_t RunningCalls::AbortIf(const F& matches) {
  const std::lock_guard lock(mutex_);
  int32_t aborted = 0;
  for (const auto& [key, call] : calls_) {
    if (!matches(call.names)) continue;
    call.cancel->Abort();
    ++aborted;
  }
  return aborted;
}

int32_t RunningCalls::AbortCall(const std::string& tenant, const std::string& call_id) {
  return AbortIf(
      [&](const Names& names) { return names.tenant == tenant && names.call_id == call_id; });
}

int32_t RunningCalls::AbortSession(const std::string& tenant, const std::string& session) {
  return AbortIf(
      [&](const Names& names) { return names.tenant == tenant && names.session == session; });
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

}  // namespace spotd::server
