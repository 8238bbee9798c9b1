#include "tools/spot_bench/layer_caches.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/core/selector_key.h"

namespace spotd::bench {
namespace {

constexpr size_t kSeedHalves = size_t{4} << 20;

}  // namespace

LayerCaches::LayerCaches(OperationTimer* timer, const model::ModelConfig& model,
                         const CacheShape& shape)
    : timer_(*timer),
      model_(model),
      shape_(shape),
      blocks_((shape.context + shape.block_tokens - 1) / shape.block_tokens),
      selector_dim_(model.head_dim),
      scale_(1.0f / std::sqrt(static_cast<float>(model.head_dim))) {
  MakeBatch();
  const kernels::Buffer seed = timer_.PutHalves(kSeedHalves, 1);
  const auto pool = static_cast<size_t>(blocks_) * static_cast<size_t>(shape.batch);
  const auto fill = [&](double block_bytes) {
    kernels::Buffer buffer = timer_.Make(pool * static_cast<size_t>(block_bytes));
    const size_t seeded = std::min(seed.bytes(), buffer.bytes());
    timer_.backend().Copy(buffer.data(), seed.data(), seeded);
    timer_.Replicate(buffer, seeded);
    return buffer;
  };
  for (int32_t i = 0; i < shape.layers; ++i) {
    kv_.push_back(fill(kv_block_bytes()));
    keys_.push_back(timer_.Make(pool * static_cast<size_t>(key_block_bytes())));
    SeedKeys(keys_.back());
    if (shape.summaries) summaries_.push_back(fill(summary_block_bytes()));
  }
}

double LayerCaches::kv_block_bytes() const {
  return 4.0 * model_.kv_heads * shape_.block_tokens * model_.head_dim;
}

double LayerCaches::key_block_bytes() const {
  return static_cast<double>(shape_.block_tokens) *
         static_cast<double>(kernels::SelectorKeyBytes(shape_.keys, selector_dim_));
}

double LayerCaches::summary_block_bytes() const {
  return 4.0 * model_.kv_heads * model_.head_dim;
}

void LayerCaches::MakeBatch() {
  const int32_t pool = blocks_ * shape_.batch;
  const auto rows = static_cast<size_t>(shape_.batch);
  std::vector<int32_t> table(static_cast<size_t>(pool));
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), timer_.random());
  tables_ = timer_.Put(table);
  lengths_ = timer_.Put(std::vector<int32_t>(rows, shape_.context));
  std::vector<int32_t> starts(rows + 1);
  std::iota(starts.begin(), starts.end(), 0);
  row_start_ = timer_.Put(starts);
  batch_ = {shape_.batch, shape_.batch,           shape_.context,          tables_.as<int32_t>(),
            blocks_,      lengths_.as<int32_t>(), row_start_.as<int32_t>()};
  const auto heads = static_cast<size_t>(model_.q_heads);
  const auto groups = static_cast<size_t>(model_.kv_heads);
  q_ = timer_.PutActs(rows * heads * static_cast<size_t>(model_.head_dim), 1);
  out_ = timer_.Make(q_.bytes());
  selector_q_ = timer_.PutActs(rows * kSelectorHeads * static_cast<size_t>(selector_dim_), 1);
  selector_w_ = timer_.PutActs(rows * kSelectorHeads, 2);
  lse_ = timer_.Make(static_cast<size_t>(pool) * groups * 4);
  selected_ = timer_.Make(static_cast<size_t>(pool) * groups * 4);
  counts_ = timer_.Make(rows * groups * 4);
  covered_ = timer_.Make(rows * groups * 4);
}

kernels::KvLayer LayerCaches::Layer(int32_t layer) const {
  const auto at = static_cast<size_t>(layer);
  return {kv_[at].data(),      summaries_.empty() ? nullptr : summaries_[at].data(),
          keys_[at].data(),    blocks_ * shape_.batch,
          shape_.block_tokens, model_.kv_heads,
          model_.head_dim,     selector_dim_,
          shape_.keys};
}

int32_t LayerCaches::SetRule(const kernels::BudgetRule& rule, int32_t groups) {
  rules_ = timer_.Put(std::vector<kernels::BudgetRule>(static_cast<size_t>(shape_.batch), rule));
  Select(groups);
  int32_t count = 0;
  timer_.backend().Download(&count, counts_.data(), sizeof(count));
  Require(timer_.backend().Synchronize());
  return count;
}

kernels::AttendArgs LayerCaches::Attention(int32_t layer) const {
  kernels::AttendArgs args = {};
  args.batch = batch_;
  args.layer = Layer(layer);
  args.q_heads = model_.q_heads;
  args.scale = scale_;
  args.q = q_.data();
  args.groups = 1;
  args.out = out_.data();
  return args;
}

void LayerCaches::AttendAll(int32_t layer) {
  timer_.backend().Attend(Attention(layer));
}

kernels::AttendArgs LayerCaches::ChosenAttention(int32_t layer, int32_t groups) const {
  kernels::AttendArgs args = Attention(layer);
  args.groups = groups;
  args.selected = selected_.as<int32_t>();
  args.counts = counts_.as<int32_t>();
  args.selected_stride = blocks_;
  return args;
}

kernels::SelectorScoreArgs LayerCaches::Scores(int32_t layer) const {
  return {batch_,           Layer(layer), kSelectorHeads, selector_q_.data(), selector_w_.data(),
          lse_.as<float>(), blocks_};
}

kernels::SelectArgs LayerCaches::Choice(int32_t groups) const {
  return {batch_,
          shape_.block_tokens,
          groups,
          rules_.as<kernels::BudgetRule>(),
          lse_.as<float>(),
          blocks_,
          selected_.as<int32_t>(),
          blocks_,
          counts_.as<int32_t>(),
          covered_.as<float>()};
}

void LayerCaches::AttendChosen(int32_t layer, int32_t groups) {
  timer_.backend().Attend(ChosenAttention(layer, groups));
}

void LayerCaches::Score(int32_t layer) {
  timer_.backend().SelectorScore(Scores(layer));
}

void LayerCaches::AttendByScore(int32_t layer) {
  timer_.backend().AttendByScore(Scores(layer), Choice(1), ChosenAttention(layer, 1));
}

void LayerCaches::QuestScore(int32_t layer) {
  timer_.backend().QuestScore(
      {batch_, Layer(layer), model_.q_heads, scale_, q_.data(), lse_.as<float>(), blocks_});
}

void LayerCaches::Select(int32_t groups) {
  timer_.backend().Select(Choice(groups));
}

void LayerCaches::PrefillAttend(const kernels::Buffer& q, const kernels::Buffer& out,
                                const kernels::Buffer& row_start, int32_t rows) {
  kernels::PrefillAttendArgs args = {};
  args.batch = batch_;
  args.batch.num_seqs = 1;
  args.batch.num_rows = rows;
  args.batch.row_start = row_start.as<int32_t>();
  args.layer = Layer(0);
  args.q_heads = model_.q_heads;
  args.scale = scale_;
  args.q = q.data();
  args.out = out.data();
  timer_.backend().PrefillAttend(args);
}

// Keys by the operation itself (the order of bytes is the backend's), a stretch at a time. They
// come from one stretch of random numbers, but from another place in it each time: equal keys would
// make ties, which real ones do not.
void LayerCaches::SeedKeys(const kernels::Buffer& keys) {
  constexpr size_t kShift = 3;
  const int32_t pool = blocks_ * shape_.batch;
  const int32_t at_once = std::min(pool, 16384 / shape_.block_tokens);
  const int32_t tokens = at_once * shape_.block_tokens;
  const int32_t pieces = (pool + at_once - 1) / at_once;
  const auto dim = static_cast<size_t>(selector_dim_);
  std::vector<int32_t> positions(static_cast<size_t>(tokens));
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<float> frequencies;
  for (int32_t i = 0; i < selector_dim_ / 2; ++i) {
    frequencies.push_back(
        std::pow(1e6f, -2.0f * static_cast<float>(i) / static_cast<float>(selector_dim_)));
  }
  const kernels::Buffer starts = timer_.Put(std::vector<int32_t>{0, tokens});
  const kernels::Buffer lengths = timer_.Put(std::vector<int32_t>{tokens});
  const kernels::Buffer where = timer_.Put(positions);
  const kernels::Buffer inv_freq = timer_.Put(frequencies);
  const kernels::Buffer norm = timer_.Put(std::vector<float>(dim, 1.0f));
  const kernels::Buffer k = timer_.PutActs(
      static_cast<size_t>(tokens) * dim + static_cast<size_t>(pieces) * kShift * 8, 1);
  for (int32_t piece = 0; piece < pieces; ++piece) {
    std::vector<int32_t> table(static_cast<size_t>(at_once));
    std::iota(table.begin(), table.end(), std::min(piece * at_once, pool - at_once));
    const kernels::Buffer tables = timer_.Put(table);
    kernels::AppendSelectorArgs args = {};
    args.batch = {1,
                  tokens,
                  tokens,
                  tables.as<int32_t>(),
                  at_once,
                  lengths.as<int32_t>(),
                  starts.as<int32_t>()};
    args.layer = {nullptr,         nullptr,         keys.data(),   pool,       shape_.block_tokens,
                  model_.kv_heads, model_.head_dim, selector_dim_, shape_.keys};
    args.rope = {inv_freq.as<float>(), selector_dim_, 1.0f};
    args.positions = where.as<int32_t>();
    args.heads = kSelectorHeads;
    // Shifted by whole vectors of 16 bytes.
    args.k = k.as<char>() +
             static_cast<size_t>(piece) * kShift * 8 * timer_.backend().activation_bytes();
    args.k_norm = norm.as<float>();
    args.eps = 1e-6f;
    timer_.backend().AppendSelector(args);
    Require(timer_.backend().Synchronize());
  }
}

}  // namespace spotd::bench
