// The launchers of every CUDA kernel: the one header shared by the host-compiled backend and the
// .cu files, so it holds plain structs only. Each launcher enqueues work on the context's stream
// and returns the launch's error.
//
// The activation type (`Act` in args.h) is bf16 here; the residual stream, logits and masses are
// float.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/args.h"

namespace spotd::kernels::cuda {

// What a launcher needs to know of the device.
struct LaunchContext {
  cudaStream_t stream;
  int sm_count;
  bool hopper;  // sm_90: dependent launch, and the sm_90a kernels are usable
};

// --- dense.cu ---
cudaError_t LaunchEmbed(const LaunchContext& ctx, const void* table, int32_t hidden,
                        const EmbedArgs& args);
cudaError_t LaunchRmsNorm(const LaunchContext& ctx, const RmsNormArgs& args);
cudaError_t LaunchSwiGlu(const LaunchContext& ctx, const SwiGluArgs& args);
// y[rows, dim] += bias[dim]; y is float or bf16.
cudaError_t LaunchAddBias(const LaunchContext& ctx, void* y, bool y_is_float, const float* bias,
                          int32_t rows, int32_t dim);

// --- linear.cu ---
// kSwiGlu: bf16, silu(x weight^T) * (x up^T), both rounded to bf16 first as they are when stored.
enum class OutputKind : uint8_t { kBf16, kFloat, kFloatAccumulate, kSwiGlu };
struct LinearSegment {
  const void* weight;  // [out_dim, in_dim] bf16
  const float* bias;   // nullable
  void* y;             // [rows, out_dim]
  int32_t out_dim;
  int32_t first_strip;  // filled by the launcher
  OutputKind kind;
  const void* up;  // kSwiGlu alone: a second weight
};
struct LinearLaunch {
  const void* x;  // [rows, in_dim] bf16
  int32_t rows;
  int32_t in_dim;
  int32_t num_segments;
  LinearSegment segments[kMaxLinearOutputs];
};
// For few rows: streams the weights once for every 64 rows. A row's arithmetic does not depend on
// `rows`. kSwiGlu needs LinearIsTiled.
bool LinearIsTiled(int32_t in_dim);
cudaError_t LaunchLinear(const LaunchContext& ctx, LinearLaunch launch);

// --- append.cu ---
cudaError_t LaunchAppendKv(const LaunchContext& ctx, const AppendKvArgs& args);
cudaError_t LaunchAppendSelector(const LaunchContext& ctx, const AppendSelectorArgs& args);
// Both in one launch, over the same rows.
cudaError_t LaunchAppend(const LaunchContext& ctx, const AppendKvArgs& kv,
                         const AppendSelectorArgs& keys);

// --- selector_score.cu ---
cudaError_t LaunchSelectorScore(const LaunchContext& ctx, const SelectorScoreArgs& args);

// --- head_mass.cu ---
// Bytes of scratch that the two launchers below need.
size_t HeadMassScratchBytes(const SequenceBatch& batch, int32_t block_tokens, int32_t q_heads);
cudaError_t LaunchQuestScore(const LaunchContext& ctx, const QuestScoreArgs& args, void* scratch);
cudaError_t LaunchOracleScore(const LaunchContext& ctx, const OracleScoreArgs& args, void* scratch);

// --- select.cu ---
// Bytes of device memory that thread blocks share while they select; zero at first, and every call
// leaves them zero.
size_t SelectScratchBytes();
cudaError_t LaunchSelect(const LaunchContext& ctx, const SelectArgs& args, void* scratch);

// --- attend_decode.cu, attend_generic.cu ---
size_t AttendScratchBytes(const LaunchContext& ctx, const AttendArgs& args);
cudaError_t LaunchAttend(const LaunchContext& ctx, const AttendArgs& args, void* scratch);
cudaError_t LaunchAttendGeneric(const LaunchContext& ctx, const AttendArgs& args);
bool AttendIsSpecialised(const KvLayer& layer, int32_t q_heads);

// --- attend_prefill.cu, attend_prefill_sm90.cu ---
cudaError_t LaunchPrefillAttend(const LaunchContext& ctx, const PrefillAttendArgs& args);
cudaError_t LaunchPrefillAttendGeneric(const LaunchContext& ctx, const PrefillAttendArgs& args);

// --- sample.cu ---
size_t SampleScratchBytes(const SampleArgs& args);
cudaError_t LaunchSample(const LaunchContext& ctx, const SampleArgs& args, void* scratch);

}  // namespace spotd::kernels::cuda
