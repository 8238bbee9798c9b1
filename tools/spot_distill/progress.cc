#include "tools/spot_distill/progress.h"

#include <unistd.h>

#include <cstdio>
#include <string>

namespace spotd::distill {
namespace {

constexpr int kBarWidth = 24;
constexpr std::chrono::milliseconds kTerminalInterval{200};
constexpr std::chrono::seconds kLogInterval{10};

std::string Bar(double share) {
  const int filled = static_cast<int>(share * kBarWidth);
  return std::string(static_cast<size_t>(filled), '#') +
         std::string(static_cast<size_t>(kBarWidth - filled), '.');
}

}  // namespace

Progress::Progress(int64_t first_step, int64_t tokens_per_step)
    : start_(std::chrono::steady_clock::now()),
      first_step_(first_step),
      tokens_per_step_(tokens_per_step),
      terminal_(::isatty(STDERR_FILENO) != 0) {}

double Progress::Elapsed() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Progress::Show(const StepReport& report) {
  const auto now = std::chrono::steady_clock::now();
  const bool last = report.step == report.steps;
  if (!last && now - shown_ < (terminal_ ? kTerminalInterval : kLogInterval)) return;
  shown_ = now;
  const double seconds_per_step = Elapsed() / static_cast<double>(report.step - first_step_);
  const auto eta =
      static_cast<long>(seconds_per_step * static_cast<double>(report.steps - report.step));
  std::fprintf(stderr,
               "%s[%s] step %lld/%lld  KL %.4f  residual %.4f  mass@10%% %.3f  |g| %.3f  lr %.1e  "
               "%.0f tok/s  "
               "ETA %ld:%02ld:%02ld%s",
               terminal_ ? "\r\033[K" : "",
               Bar(static_cast<double>(report.step) / static_cast<double>(report.steps)).c_str(),
               static_cast<long long>(report.step), static_cast<long long>(report.steps), report.kl,
               report.residual_kl, report.recalled_mass, report.gradient_norm, report.learning_rate,
               static_cast<double>(tokens_per_step_) / seconds_per_step, eta / 3600, eta / 60 % 60,
               eta % 60, terminal_ ? "" : "\n");
}

void Progress::Finish() {
  if (terminal_) std::fputc('\n', stderr);
}

}  // namespace spotd::distill
