#include "runtime/engine/candidates.h"

#include <utility>

namespace spotd::engine {

class CandidateGroup::CandidateSink : public TokenSink {
 public:
  CandidateSink(std::shared_ptr<CandidateGroup> group, int32_t index)
      : group_(std::move(group)), index_(index) {}

  void OnPrefill(int32_t done, int32_t total) override { group_->sink_->OnPrefill(done, total); }
  void OnToken(const TokenEvent& event) override {
    TokenEvent labelled = event;
    labelled.candidate = index_;
    group_->sink_->OnToken(labelled);
  }
  bool Ready() override { return group_->sink_->Ready(); }
  void OnDone(absl::StatusOr<GenerateResult> result) override {
    group_->End(index_, std::move(result));
  }

 private:
  std::shared_ptr<CandidateGroup> group_;
  int32_t index_;
};

std::shared_ptr<TokenSink> CandidateGroup::Sink(int32_t index) {
  ++begun_;
  return std::make_shared<CandidateSink>(shared_from_this(), index);
}

void CandidateGroup::End(int32_t index, absl::StatusOr<GenerateResult> result) {
  if (!result.ok() && first_error_.ok()) {
    first_error_ = result.status();
    cancel_->Abort();  // the others are of no use now
  }
  results_[index] = std::move(result);
  if (++ended_ < begun_) return;
  if (!first_error_.ok()) return sink_->OnDone(first_error_);
  GenerateResult all = **results_[0];
  all.usage.generated_tokens = 0;
  for (const auto& candidate : results_) {
    const GenerateResult& one = **candidate;
    all.candidates.push_back({.finish = one.finish,
                              .stop_string = one.stop_string,
                              .generated_tokens = one.usage.generated_tokens,
                              .seed = one.seed});
    all.usage.generated_tokens += one.usage.generated_tokens;
  }
  sink_->OnDone(std::move(all));
}

}  // namespace spotd::engine
