// How much one rendering may do. Templates come from model files: they must not be able to occupy a
// server.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/core/status.h"

namespace spotd::text::jinja {

class Budget {
 public:
  // `max_work` bounds the values and bytes made or walked over.
  explicit Budget(size_t max_work) : work_left_(max_work) {}

  absl::Status Spend(size_t work) {
    if (work > work_left_) return InvalidArgument("the template does too much work");
    work_left_ -= work;
    return absl::OkStatus();
  }
  size_t left() const { return work_left_; }

  // One more expression or block is being worked on; it counts for as long as this object lives.
  class Frame {
   public:
    explicit Frame(Budget* budget) : budget_(budget) { ++budget_->depth_; }
    ~Frame() { --budget_->depth_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;
    bool too_deep() const { return budget_->depth_ > kMaxFrames; }

   private:
    Budget* budget_;
  };

 private:
  static constexpr int kMaxFrames = 600;  // some hundred KiB of stack

  size_t work_left_;
  int depth_ = 0;
};

}  // namespace spotd::text::jinja
