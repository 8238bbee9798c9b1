// What people see: a progress bar, figures with units, and the account of a generation. Everything
// goes to stderr, so that stdout holds the answer alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "spotd/v1/inference.pb.h"

namespace spotd::spotctl {

// A bar on a terminal; elsewhere one line at the end.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label) : label_(std::move(label)) {}
  void Update(int64_t done, int64_t total);
  // Leaves the finished bar standing.
  void Finish();

 private:
  void Draw() const;

  std::string label_;
  int64_t done_ = 0;
  int64_t total_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

std::string FormatSeconds(double seconds);  // "0.31 s", "12 ms"
std::string FormatBytes(double bytes);      // "12.3 MiB"
double ToSeconds(const google::protobuf::Duration& duration);
std::string PolicyName(v1::PolicyKind kind);  // "quest"

// Tokens, speed, accounting, density and the blocks the answer was read from.
void PrintAccount(const v1::GenerateResult& result);

}  // namespace spotd::spotctl
