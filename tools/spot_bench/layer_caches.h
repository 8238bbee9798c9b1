// A batch of equal contexts over the caches of several layers of one geometry, filled with random
// numbers: what the attention operations of a decode step are timed on.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/args.h"
#include "runtime/model/model_config.h"
#include "tools/spot_bench/operation_timer.h"

namespace spotd::bench {

inline constexpr int32_t kSelectorHeads = 4;  // of the selector that is timed

struct CacheShape {
  int32_t batch = 1;
  int32_t context = 0;  // tokens of each sequence
  int32_t layers = 1;
  int32_t block_tokens = 16;
  kernels::SelectorKeyFormat keys = kernels::SelectorKeyFormat::kInt4;
  bool summaries = false;  // the bounds that quest reads
};

class LayerCaches {
 public:
  LayerCaches(OperationTimer* timer, const model::ModelConfig& model, const CacheShape& shape);

  // Each issues one operation of a decode step on one layer. Choices go to a list that
  // AttendChosen reads.
  void AttendAll(int32_t layer);
  void Score(int32_t layer);
  void QuestScore(int32_t layer);
  // `groups`: 1, or for quest's scores the KV heads.
  void Select(int32_t groups);
  void AttendChosen(int32_t layer, int32_t groups);
  // Score, Select(1) and AttendChosen as a decode step issues them.
  void AttendByScore(int32_t layer);
  // Causal attention of a prompt's last `rows` tokens over the first sequence.
  void PrefillAttend(const kernels::Buffer& q, const kernels::Buffer& out,
                     const kernels::Buffer& row_start, int32_t rows);

  // What Select chooses by from now on, and how many blocks of the first row it then chose.
  int32_t SetRule(const kernels::BudgetRule& rule, int32_t groups);

  const CacheShape& shape() const { return shape_; }
  int32_t blocks() const { return blocks_; }  // of a sequence
  double kv_block_bytes() const;              // of a layer
  double key_block_bytes() const;
  double summary_block_bytes() const;

 private:
  kernels::KvLayer Layer(int32_t layer) const;
  kernels::AttendArgs Attention(int32_t layer) const;
  kernels::AttendArgs ChosenAttention(int32_t layer, int32_t groups) const;
  kernels::SelectorScoreArgs Scores(int32_t layer) const;
  kernels::SelectArgs Choice(int32_t groups) const;
  void MakeBatch();
  void SeedKeys(const kernels::Buffer& keys);

  OperationTimer& timer_;
  const model::ModelConfig& model_;
  CacheShape shape_;
  int32_t blocks_;
  int32_t selector_dim_;
  float scale_;
  kernels::SequenceBatch batch_ = {};
  kernels::Buffer tables_, lengths_, row_start_, q_, selector_q_, selector_w_, out_, lse_,
      selected_, counts_, covered_, rules_;
  std::vector<kernels::Buffer> kv_, keys_, summaries_;  // by layer
};

}  // namespace spotd::bench
