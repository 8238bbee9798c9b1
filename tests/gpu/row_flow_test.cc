#include "kernels/cuda/row_flow.h"

#include "tests/gpu/scene.h"

namespace spotd::kernels {
namespace {

struct FlowCase {
  std::vector<int32_t> kv_len;
  int32_t selector_dim = 128;
  std::vector<BudgetKind> kinds;  // of row i: kinds[i % size]
  bool flows = true;              // where the device lets rows flow
};

BudgetRule RuleOf(BudgetKind kind) {
  BudgetRule rule = {};
  rule.kind = kind;
  rule.p_residual = 0.8f;
  rule.p_total = 0.95f;
  rule.fraction = 0.05f;
  rule.k_tokens = 9000;  // everything, of a row that is no longer
  rule.sink_tokens = 128;
  rule.recency_tokens = 256;
  rule.k_min_tokens = 512;
  return rule;
}

SceneShape ShapeOf(const FlowCase& c) {
  SceneShape shape;
  shape.kv_len = c.kv_len;
  shape.q_heads = 4;
  shape.kv_heads = 1;
  shape.head_dim = 64;
  shape.selector_dim = c.selector_dim;
  shape.format = SelectorKeyFormat::kInt4;
  return shape;
}

struct Outcome {
  std::vector<int32_t> selected;  // up to the counts
  std::vector<int32_t> counts;
  std::vector<float> covered;
  std::vector<float> out;
};

// Scores, choice and attention over one scene, with queries that change from turn to turn.
class FlowRig {
 public:
  explicit FlowRig(const FlowCase& c)
      : scene_(Gpu(), ShapeOf(c), 50),
        rows_(c.kv_len.size()),
        stride_(scene_.max_blocks() + 1),
        q_(Gpu().MakePoisonedActs(rows_ * 4 * 64)),
        selector_q_(Gpu().MakePoisonedActs(rows_ * 4 * static_cast<size_t>(c.selector_dim))),
        w_(Gpu().PutActs(RandomActs(rows_ * 4, 53))),
        lse_(Gpu().MakePoisoned(rows_ * static_cast<size_t>(stride_) * 4)) {
    scene_.FillCache(Gpu());
    scene_.FillSelectorKeys(Gpu());
    std::vector<BudgetRule> rules;
    for (size_t i = 0; i < rows_; ++i) rules.push_back(RuleOf(c.kinds[i % c.kinds.size()]));
    rules_ = Gpu().Put(rules);
    Forget();
    score_ = {scene_.batch, scene_.layer,     4,      selector_q_.data(),
              w_.data(),    lse_.as<float>(), stride_};
    select_ = {scene_.batch,
               16,
               1,
               rules_.as<BudgetRule>(),
               lse_.as<float>(),
               stride_,
               selected_.as<int32_t>(),
               stride_,
               counts_.as<int32_t>(),
               covered_.as<float>()};
    attend_.batch = scene_.batch;
    attend_.layer = scene_.layer;
    attend_.q_heads = 4;
    attend_.scale = 0.125f;
    attend_.q = q_.data();
    attend_.selected = selected_.as<int32_t>();
    attend_.counts = counts_.as<int32_t>();
    attend_.groups = 1;
    attend_.selected_stride = stride_;
    attend_.out = out_.data();
  }

  void Ask(uint32_t turn) {
    Renew(q_, rows_ * 4 * 64, 100 + turn);
    Renew(selector_q_, selector_q_.bytes() / 2, 200 + turn);
  }
  void Apart() {
    Gpu()->SelectorScore(score_);
    Gpu()->Select(select_);
    Gpu()->Attend(attend_);
  }
  void Flowing() { Gpu()->AttendByScore(score_, select_, attend_); }
  bool Flows() const {
    uint32_t memory[1];
    return cuda::MakeRowFlow({nullptr, 132, true}, score_, select_, attend_, memory).ready !=
           nullptr;
  }

  Outcome Take() {
    Outcome got = {Gpu().Get<int32_t>(selected_), Gpu().Get<int32_t>(counts_),
                   Gpu().Get<float>(covered_), Gpu().GetActs(out_)};
    for (size_t i = 0; i < rows_; ++i) {
      const auto begin = got.selected.begin() + static_cast<int64_t>(i) * stride_;
      std::fill(begin + std::clamp(got.counts[i], 0, stride_), begin + stride_, -1);
    }
    Wipe();
    return got;
  }

 private:
  void Forget() {
    selected_ = Gpu().MakePoisoned(rows_ * static_cast<size_t>(stride_) * 4);
    counts_ = Gpu().MakePoisoned(rows_ * 4);
    covered_ = Gpu().MakePoisoned(rows_ * 4);
    out_ = Gpu().MakePoisonedActs(rows_ * 4 * 64);
  }
  void Wipe() {
    for (Buffer* buffer : {&selected_, &counts_, &covered_, &out_}) {
      const std::vector<uint8_t> poison(buffer->bytes(), 0xff);
      Gpu()->Upload(buffer->data(), poison.data(), poison.size());
    }
  }
  static void Renew(const Buffer& buffer, size_t count, uint32_t seed) {
    std::vector<Bf16> values;
    for (const float value : RandomActs(count, seed, 1.5f)) values.push_back(ToBf16(value));
    Gpu()->Upload(buffer.data(), values.data(), values.size() * sizeof(Bf16));
  }

  Scene scene_;
  size_t rows_;
  int32_t stride_;
  Buffer q_, selector_q_, w_, lse_, rules_, selected_, counts_, covered_, out_;
  SelectorScoreArgs score_ = {};
  SelectArgs select_ = {};
  AttendArgs attend_ = {};
};

void ExpectSame(FlowRig& rig, const Outcome& expected, const std::string& what) {
  const Outcome actual = rig.Take();
  EXPECT_EQ(actual.counts, expected.counts) << what;
  EXPECT_EQ(actual.selected == expected.selected, true) << what;
  EXPECT_TRUE(SameBits(actual.covered, expected.covered)) << what;
  EXPECT_TRUE(SameBits(actual.out, expected.out)) << what;
}

// Rows that flow get what they get one operation after the other, bit for bit: issued at once, as a
// step that is replayed, and several layers in a row.
void ExpectFlowChangesNothing(const FlowCase& c, uint64_t key) {
  FlowRig rig(c);
  EXPECT_EQ(rig.Flows(), c.flows);
  for (uint32_t turn = 0; turn < 4; ++turn) {
    rig.Ask(turn);
    rig.Apart();
    const Outcome expected = rig.Take();
    const std::string what =
        std::to_string(c.kv_len.size()) + " rows, turn " + std::to_string(turn);
    rig.Flowing();
    ExpectSame(rig, expected, what);
    Gpu()->RunStep(key, [&] {
      for (int layer = 0; layer < 5; ++layer) rig.Flowing();
    });
    ExpectSame(rig, expected, what + " as a step");
  }
}

using enum BudgetKind;

TEST(RowFlowTest, RaggedRowsOfEveryRule) {
  ExpectFlowChangesNothing(
      {{20000, 8201, 1, 12345, 33000, 17, 16384, 9000},
       128,
       {kFixedFraction, kFixedTokens, kDualTopP, kReservedOnly, kDualTopP, kFixedFraction}},
      42);
}

TEST(RowFlowTest, NoRowIsScored) {
  ExpectFlowChangesNothing(
      {{300, 9000, 8000, 8192, 40}, 64, {kReservedOnly, kFixedTokens, kReservedOnly}}, 43);
}

TEST(RowFlowTest, LongRowsMoreThanClustersFit) {
  FlowCase c = {{}, 128, {kFixedFraction, kDualTopP}};
  for (int32_t row = 0; row < 8; ++row) c.kv_len.push_back(131072 - 16 * 517 * row);
  ExpectFlowChangesNothing(c, 44);
}

TEST(RowFlowTest, ManyRows) {
  FlowCase c = {{}, 64, {kDualTopP, kFixedFraction, kFixedTokens}};
  for (int32_t row = 0; row < 16; ++row) c.kv_len.push_back(8192 + 517 * row);
  ExpectFlowChangesNothing(c, 45);
}

TEST(RowFlowTest, OthersGoTogether) {
  FlowCase c = {{}, 128, {kFixedFraction}, false};
  for (int32_t row = 0; row < 17; ++row) c.kv_len.push_back(8192 + row);
  ExpectFlowChangesNothing(c, 46);
  ExpectFlowChangesNothing({{4000, 64, 65, 66, 67}, 128, {kDualTopP}, false}, 47);
  ExpectFlowChangesNothing({{70000}, 128, {kFixedFraction}, false}, 48);
  ExpectFlowChangesNothing({{20000, 300, 8193}, 64, {kDualTopP, kReservedOnly}, false}, 49);
}

}  // namespace
}  // namespace spotd::kernels
