// The line a training run keeps up to date on a terminal, or prints now and then into a log.
#pragma once

#include <chrono>

#include "runtime/distill/trainer.h"

namespace spotd::distill {

class Progress {
 public:
  // `first_step`: where this run starts (resuming), so that rates and ETA are its own.
  Progress(int64_t first_step, int64_t tokens_per_step);
  void Show(const StepReport& report);
  void Finish();

 private:
  double Elapsed() const;

  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point shown_;
  int64_t first_step_;
  int64_t tokens_per_step_;
  bool terminal_;
};

}  // namespace spotd::distill
