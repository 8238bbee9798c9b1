#include "tools/spotctl/terminal.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace spotd::spotctl {
namespace {

constexpr int kBarWidth = 32;
constexpr int kShownBlocks = 8;

bool OnTerminal() {
  return isatty(STDERR_FILENO) == 1;
}

const char* FinishText(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP_TOKEN:
      return "end of text";
    case v1::FINISH_REASON_STOP_TEXT:
      return "stop text";
    case v1::FINISH_REASON_MAX_TOKENS:
      return "token limit";
    case v1::FINISH_REASON_CONTEXT_FULL:
      return "context full";
    default:
      return "unknown";
  }
}

void PrintSparsity(const v1::Sparsity& sparsity) {
  if (sparsity.steps() == 0) return;
  std::fprintf(stderr, "  density %.1f %% (%s): decode read %s of %s of KV",
               sparsity.density() * 100, PolicyName(sparsity.policy()).c_str(),
               FormatBytes(sparsity.kv_bytes_read()).c_str(),
               FormatBytes(sparsity.kv_bytes_dense_equivalent()).c_str());
  if (sparsity.dense_steps() < sparsity.steps()) {
    std::fprintf(stderr, ", %.0f tokens a step, mass covered %.1f %%",
                 sparsity.mean_selected_tokens(), sparsity.mean_covered_mass() * 100);
  }
  std::fprintf(stderr, "\n");
  if (sparsity.top_blocks().empty()) return;
  std::fprintf(stderr, "  read from tokens");
  for (int i = 0; i < std::min(sparsity.top_blocks_size(), kShownBlocks); ++i) {
    const v1::BlockShare& block = sparsity.top_blocks(i);
    std::fprintf(stderr, "%s %d-%d (%.0f %%)", i == 0 ? "" : ",", block.first_token(),
                 block.first_token() + block.token_count() - 1, block.share() * 100);
  }
  std::fprintf(stderr, "\n");
}

}  // namespace

void ProgressBar::Update(int64_t done, int64_t total) {
  done_ = done;
  total_ = total;
  if (OnTerminal()) Draw();
}

void ProgressBar::Finish() {
  if (total_ == 0) return;
  Draw();
  std::fprintf(stderr, "\n");
}

void ProgressBar::Draw() const {
  const double share = total_ == 0 ? 0 : static_cast<double>(done_) / total_;
  const int full = static_cast<int>(share * kBarWidth);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
  const double rate = elapsed.count() > 0 ? done_ / elapsed.count() : 0;
  const double left = rate > 0 ? (total_ - done_) / rate : 0;
  const std::string bar = std::string(full, '#') + std::string(kBarWidth - full, '.');
  std::fprintf(stderr, "%s%s [%s] %3.0f %%  %lld/%lld tokens  %.0f tokens/s  %s %s ",
               OnTerminal() ? "\r" : "", label_.c_str(), bar.c_str(), share * 100,
               static_cast<long long>(done_), static_cast<long long>(total_), rate,
               done_ < total_ ? "left" : "took",
               FormatSeconds(done_ < total_ ? left : elapsed.count()).c_str());
  std::fflush(stderr);
}

std::string FormatSeconds(double seconds) {
  char out[32];
  if (seconds < 0.1) {
    std::snprintf(out, sizeof(out), "%.0f ms", seconds * 1e3);
  } else {
    std::snprintf(out, sizeof(out), seconds < 10 ? "%.2f s" : "%.0f s", seconds);
  }
  return out;
}

std::string FormatBytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1024 && unit < 4) {
    bytes /= 1024;
    ++unit;
  }
  char out[32];
  std::snprintf(out, sizeof(out), unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
  return out;
}

double ToSeconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
}

std::string PolicyName(v1::PolicyKind kind) {
  switch (kind) {
    case v1::POLICY_KIND_FULL:
      return "full";
    case v1::POLICY_KIND_DISTILLED:
      return "distilled";
    case v1::POLICY_KIND_QUEST:
      return "quest";
    case v1::POLICY_KIND_TOP_K:
      return "topk";
    case v1::POLICY_KIND_WINDOW:
      return "window";
    case v1::POLICY_KIND_ORACLE:
      return "oracle";
    default:
      return "unspecified";
  }
}

void PrintAccount(const v1::GenerateResult& result) {
  const v1::Usage& usage = result.usage();
  const double decode = ToSeconds(result.timings().decode());
  std::fprintf(stderr, "\n  %d tokens in %s, the first after %s", usage.generated_tokens(),
               FormatSeconds(ToSeconds(result.timings().total())).c_str(),
               FormatSeconds(ToSeconds(result.timings().time_to_first_token())).c_str());
  if (usage.generated_tokens() > 1 && decode > 0) {
    std::fprintf(stderr, ", then %.1f tokens/s", (usage.generated_tokens() - 1) / decode);
  }
  std::fprintf(stderr, " (%s)\n", FinishText(result.finish_reason()));
  std::fprintf(stderr, "  context %d tokens: %d computed, %d from the session",
               usage.prompt_tokens(), usage.computed_tokens(), usage.session_tokens());
  if (usage.prefix_tokens() > 0) {
    std::fprintf(stderr, ", %d found by their content", usage.prefix_tokens());
  }
  if (usage.restored_tokens() > 0) {
    std::fprintf(stderr, ", %d computed again", usage.restored_tokens());
  }
  std::fputc('\n', stderr);
  PrintSparsity(result.sparsity());
}

}  // namespace spotd::spotctl
