#include "runtime/model/spot_attention.h"

namespace spotd::model {
namespace {

// Works on one contiguous range of rows that share a chooser.
class RangeAttention {
 public:
  RangeAttention(kernels::Backend* backend, const SpotAttentionArgs& args,
                 const ChooserRange& range)
      : backend_(backend),
        args_(args),
        range_(range),
        batch_(SliceBatch(args.batch, range.begin, range.rows)),
        act_bytes_(backend->activation_bytes()) {}

  void Run() {
    if (range_.chooser == Chooser::kSelector) {
      backend_->AttendByScore(SelectorScore(), Select(), Attend());
      return;
    }
    Score();
    if (range_.chooser != Chooser::kDense) backend_->Select(Select());
    backend_->Attend(Attend());
  }

 private:
  size_t begin() const { return static_cast<size_t>(range_.begin); }
  // Row `begin` of an activation of `width` elements a row.
  const void* Rows(const void* base, size_t width) const {
    return static_cast<const char*>(base) + begin() * width * act_bytes_;
  }
  size_t head_width() const {
    return static_cast<size_t>(args_.q_heads) * static_cast<size_t>(args_.layer.head_dim);
  }
  int32_t stride() const { return args_.plan->table_stride(); }
  size_t lists_offset() const {
    return begin() * static_cast<size_t>(args_.layer.kv_heads) * static_cast<size_t>(stride());
  }
  float* block_lse() const { return args_.block_lse + lists_offset(); }
  int32_t* selected() const { return args_.selected + lists_offset(); }
  int32_t* counts() const {
    return args_.counts + args_.plan->ChoiceOffset(args_.layer_index, range_.begin);
  }
  const void* q() const { return Rows(args_.q, head_width()); }

  void Score() {
    switch (range_.chooser) {
      case Chooser::kDense:
      case Chooser::kWindow:
      case Chooser::kSelector:  // scores as it attends
        return;
      case Chooser::kQuest:
        return backend_->QuestScore(
            {batch_, args_.layer, args_.q_heads, args_.scale, q(), block_lse(), stride()});
      case Chooser::kOracle:
      case Chooser::kHeadOracle:
        return backend_->OracleScore({batch_, args_.layer, args_.q_heads, args_.scale, q(),
                                      block_lse(), stride(), range_.groups});
    }
  }

  kernels::SelectorScoreArgs SelectorScore() const {
    const auto heads = static_cast<size_t>(args_.selector_heads);
    const auto dim = static_cast<size_t>(args_.layer.selector_dim);
    kernels::SelectorScoreArgs score = {};
    score.batch = batch_;
    score.layer = args_.layer;
    score.heads = args_.selector_heads;
    score.q = Rows(args_.selector_q, heads * dim);
    score.groups = range_.groups;
    score.w = Rows(args_.selector_w, heads * static_cast<size_t>(range_.groups));
    score.block_lse = block_lse();
    score.lse_stride = stride();
    return score;
  }

  kernels::SelectArgs Select() const {
    kernels::SelectArgs select = {};
    select.batch = batch_;
    select.block_tokens = args_.layer.block_tokens;
    select.groups = range_.groups;
    select.rules = args_.rules + range_.begin;
    select.block_lse = range_.chooser == Chooser::kWindow ? nullptr : block_lse();
    select.lse_stride = stride();
    select.selected = selected();
    select.selected_stride = stride();
    select.counts = counts();
    select.covered_mass =
        args_.covered_mass + args_.plan->ChoiceOffset(args_.layer_index, range_.begin);
    return select;
  }

  kernels::AttendArgs Attend() const {
    kernels::AttendArgs attend = {};
    attend.batch = batch_;
    attend.layer = args_.layer;
    attend.q_heads = args_.q_heads;
    attend.scale = args_.scale;
    attend.q = q();
    attend.groups = range_.groups;
    if (range_.chooser != Chooser::kDense) {
      attend.selected = selected();
      attend.counts = counts();
      attend.selected_stride = stride();
    }
    attend.out = static_cast<char*>(args_.out) + begin() * head_width() * act_bytes_;
    return attend;
  }

  kernels::Backend* backend_;
  const SpotAttentionArgs& args_;
  const ChooserRange& range_;
  kernels::SequenceBatch batch_;
  size_t act_bytes_;
};

}  // namespace

kernels::SequenceBatch SliceBatch(const kernels::SequenceBatch& batch, int32_t begin,
                                  int32_t rows) {
  kernels::SequenceBatch out = batch;
  out.num_seqs = rows;
  out.num_rows = rows;
  out.block_tables += static_cast<size_t>(begin) * static_cast<size_t>(batch.table_stride);
  out.kv_len += begin;
  return out;
}

void SpotAttention(kernels::Backend* backend, const SpotAttentionArgs& args) {
  for (const ChooserRange& range : args.plan->ranges()) RangeAttention(backend, args, range).Run();
}

}  // namespace spotd::model
