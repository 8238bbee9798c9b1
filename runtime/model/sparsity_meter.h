// What a decode step read, counted exactly from the lengths of the selection lists.
#pragma once

#include <cstdint>
#include <vector>

#include "kvstore/kv_layout.h"
#include "runtime/model/decode_plan.h"
#include "runtime/model/step_arrays.h"
#include "runtime/model/transformer.h"

namespace spotd::model {

class SparsityMeter {
 public:
  SparsityMeter() = default;
  explicit SparsityMeter(const kvstore::KvLayout& layout) : layout_(layout) {}

  // Of row `row` of the step, which lies in `range` and has `kv_len` tokens. `results` are on the
  // host.
  RowSparsity Measure(const DecodePlan& plan, const ChooserRange& range, int32_t row,
                      int32_t kv_len, const StepResults& results) const;

 private:
  struct ChoiceSum {
    int64_t blocks = 0;  // over layers and groups
    double mass = 0;
  };
  ChoiceSum SumChoices(const DecodePlan& plan, const ChooserRange& range, int32_t row,
                       const StepResults& results) const;
  // What one layer's chooser read to make up its mind.
  int64_t ScoringBytes(Chooser chooser, int64_t blocks, int64_t tokens) const;

  kvstore::KvLayout layout_;
};

}  // namespace spotd::model
