// A cache full of plausible contents in little time, and the instrument that tells waiting from
// working.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "kernels/forwarding_backend.h"
#include "tools/common/loaded_model.h"

namespace spotd::bench {

// Tokens that FillByCopies prefills; the store must have room for them.
inline constexpr int32_t kStretchTokens = 8192;

// Prefills a stretch of random tokens and copies its blocks over the whole store. Every table that
// is reserved afterwards holds such blocks, each sequence its own.
absl::Status FillByCopies(tools::LoadedModel& model);

// Counts the time spent waiting for the device, and remembers its memory at first.
class WaitMeter final : public kernels::ForwardingBackend {
 public:
  explicit WaitMeter(std::unique_ptr<kernels::Backend> backend)
      : ForwardingBackend(std::move(backend)), free_at_first_(memory().free) {}
  void Download(void* dst, const void* src, size_t bytes) override;
  absl::Status Synchronize() override;
  void AttendByScore(const kernels::SelectorScoreArgs& score, const kernels::SelectArgs& select,
                     const kernels::AttendArgs& attend) override {
    inner().AttendByScore(score, select, attend);
  }

  const double& waited() const { return waited_; }  // seconds
  size_t free_at_first() const { return free_at_first_; }

 private:
  double waited_ = 0;
  size_t free_at_first_;
};

}  // namespace spotd::bench
