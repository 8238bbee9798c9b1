// The operations of the CPU backend, by family, each the operation of the same name in backend.h.
// Linear and Embed are in linear.h.
//
// Every one divides its work by rows, heads and fixed stretches of tokens, never by threads, and
// merges in a fixed order: a row's result is the same bits for every batch and number of threads.
// The scratch structs hold working memory between calls, so that a steady state allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/args.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/rope_table.h"

namespace spotd::kernels::cpu {

// Makes room for n elements; never shrinks, so that a steady state neither allocates nor clears.
template <typename T>
void Grow(std::vector<T>& v, size_t n) {
  if (v.size() < n) v.resize(n);
}

// norm.cc
void RmsNorm(const RmsNormArgs& args, ThreadPool& pool);
void SwiGlu(const SwiGluArgs& args, ThreadPool& pool);

// append.cc
void AppendKv(const AppendKvArgs& args, ThreadPool& pool, RopeTable& rope);
void AppendSelector(const AppendSelectorArgs& args, ThreadPool& pool, RopeTable& rope);

// selector_score.cc
struct SelectorScratch {
  std::vector<std::byte> queries;  // [rows], each as RowScores::q
  std::vector<float> weights;      // [rows, groups, heads]
};
// What scoring some blocks of a row needs.
struct RowScores {
  const int32_t* table;  // the row's blocks
  const std::byte* q;  // [heads, dim] float for bf16 keys, else [key groups, heads] rounded to int8
  const float* w;      // [groups, heads]
  int heads;           // a multiple of 4
  int groups;
  int32_t kv_len;
  float* lse;  // [groups, lse_stride]
  int64_t lse_stride;
};
void SelectorScore(const SelectorScoreArgs& args, ThreadPool& pool, SelectorScratch& scratch);

// head_mass.cc
struct HeadMassScratch {
  std::vector<float> queries;  // [rows, q_heads, head_dim], scaled
  std::vector<float> lse;      // [rows, q_heads, stride] of each block
};
void QuestScore(const QuestScoreArgs& args, ThreadPool& pool, HeadMassScratch& scratch);
void OracleScore(const OracleScoreArgs& args, ThreadPool& pool, HeadMassScratch& scratch);

// select.cc
struct SelectScratch {
  std::vector<uint32_t> mass;  // [threads, selected_stride]
};
void Select(const SelectArgs& args, ThreadPool& pool, SelectScratch& scratch);

// attend_decode.cc
struct AttendScratch {
  std::vector<int32_t> unit_start;  // [rows * kv_heads + 1]
  std::vector<float> queries;       // [threads, group, head_dim]
  std::vector<float> acc;           // [units, group, head_dim]
  std::vector<float> max;           // [units, group], natural log
  std::vector<float> sum;           // [units, group]
};
void Attend(const AttendArgs& args, ThreadPool& pool, AttendScratch& scratch);

// attend_prefill.cc
// Rows [row, row + rows) of one sequence; the first sees `visible` tokens, each further one more.
struct PrefillUnit {
  int32_t seq;
  int32_t kv_head;
  int32_t row;
  int32_t rows;
  int32_t visible;
};
class PrefillScratch {
 public:
  // At least `bytes`, aligned to 64, uninitialised.
  std::byte* Reserve(size_t bytes);

  std::vector<PrefillUnit> units;

 private:
  struct Line {
    alignas(64) std::byte bytes[64];
  };
  std::vector<Line> lines_;
};
void PrefillAttend(const PrefillAttendArgs& args, ThreadPool& pool, PrefillScratch& scratch);

// sample.cc
struct SampleRowScratch {
  std::vector<float> before;    // logits of the adjusted tokens
  std::vector<int32_t> tokens;  // candidates
  std::vector<float> p;         // of the candidates, relative to the best
};
using SampleScratch = std::vector<SampleRowScratch>;  // per thread
void Sample(const SampleArgs& args, ThreadPool& pool, SampleScratch& scratch);

}  // namespace spotd::kernels::cpu
