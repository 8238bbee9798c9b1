// The operations of the reference backend, by family. Each is the operation of the same name in
// backend.h.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/args.h"
#include "kernels/backend.h"

namespace spotd::kernels::ref {

// ref_dense.cc
absl::StatusOr<std::unique_ptr<Weight>> CreateWeight(const WeightSource& source);
void Embed(const EmbedArgs& args);
void RmsNorm(const RmsNormArgs& args);
void Linear(const LinearArgs& args);
void SwiGlu(const SwiGluArgs& args);

// ref_cache.cc
void AppendKv(const AppendKvArgs& args);
void AppendSelector(const AppendSelectorArgs& args);

// ref_score.cc
void SelectorScore(const SelectorScoreArgs& args);
void QuestScore(const QuestScoreArgs& args);
void OracleScore(const OracleScoreArgs& args);
void Select(const SelectArgs& args);

// ref_attend.cc
void Attend(const AttendArgs& args);
void PrefillAttend(const PrefillAttendArgs& args);
// scale * q . k for each token in [0, tokens) of a sequence. q: [head_dim]
std::vector<double> Scores(const SequenceBatch& batch, const KvLayer& layer, int32_t seq,
                           int32_t kv_head, const float* q, double scale, int32_t tokens);
// log sum exp; -infinity for none.
double LogSumExp(const std::vector<double>& x);

// ref_sample.cc
void Sample(const SampleArgs& args);

}  // namespace spotd::kernels::ref
