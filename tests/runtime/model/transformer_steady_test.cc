// A decode step in steady state allocates nothing, travels once each way, and keeps its key while
// nothing changes.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <set>
#include <vector>

#include "kernels/forwarding_backend.h"
#include "runtime/model/transformer.h"
#include "tests/runtime/model/model_harness.h"

namespace {
std::atomic<int64_t> g_allocations{0};
}  // namespace

// Counts every allocation of the program.
void* operator new(size_t bytes) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  void* out = std::malloc(bytes == 0 ? 1 : bytes);
  if (out == nullptr) std::abort();
  return out;
}
void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, size_t) noexcept {
  std::free(p);
}

namespace spotd::model {
namespace {

class StepProbe : public kernels::ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  absl::StatusOr<kernels::Buffer> Allocate(size_t bytes) override {
    ++allocations;
    return ForwardingBackend::Allocate(bytes);
  }
  void Upload(void* dst, const void* src, size_t bytes) override {
    ++uploads;
    ForwardingBackend::Upload(dst, src, bytes);
  }
  void Download(void* dst, const void* src, size_t bytes) override {
    ++downloads;
    ForwardingBackend::Download(dst, src, bytes);
  }
  void RunStep(uint64_t key, const std::function<void()>& issue) override {
    keys.push_back(key);
    issue();
  }

  int allocations = 0;
  int uploads = 0;
  int downloads = 0;
  std::vector<uint64_t> keys;
};

class TransformerSteadyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HarnessOptions options;
    options.selector = &selector_;
    options.limits.max_batch = 4;
    options.limits.max_prefill_chunk = 64;
    options.wrap = [this](std::unique_ptr<kernels::Backend> inner) {
      auto probe = std::make_unique<StepProbe>(std::move(inner));
      probe_ = probe.get();
      return probe;
    };
    harness_ = std::make_unique<ModelHarness>(ModelPath("llama3"), options);
    ASSERT_TRUE(harness_->ok()) << harness_->status();
    probe_->keys.reserve(1000);
  }

  // One row of each policy.
  std::vector<DecodeRow> Rows(std::vector<kvstore::BlockTable>* tables) {
    const PolicyKind kinds[] = {PolicyKind::kQuest, PolicyKind::kFull, PolicyKind::kDistilled,
                                PolicyKind::kWindow};
    std::vector<DecodeRow> rows;
    tables->clear();
    for (size_t i = 0; i < std::size(kinds); ++i) tables->push_back(harness_->store().NewTable());
    for (size_t i = 0; i < std::size(kinds); ++i) {
      Policy policy;
      policy.kind = kinds[i];
      policy.sink_tokens = policy.recency_tokens = 16;
      policy.k_min_tokens = policy.dense_below_tokens = 0;
      EXPECT_TRUE(harness_->store().Reserve(&(*tables)[i], 100).ok());
      rows.push_back(ModelHarness::Row(5, &(*tables)[i], policy));
    }
    return rows;
  }
  void Step(std::vector<DecodeRow>& rows, std::vector<DecodeResult>* results) {
    EXPECT_TRUE(harness_->transformer().Decode(rows, *results).ok());
    for (DecodeRow& row : rows) harness_->store().Commit(row.table, 1);
  }

  SelectorConfig selector_;
  StepProbe* probe_ = nullptr;
  std::unique_ptr<ModelHarness> harness_;
};

// The host's part of a step allocates nothing; what `ref` does inside its operations is its own
// affair, so operations are counted on a backend that does none of them.
class NullBackend : public StepProbe {
 public:
  using StepProbe::StepProbe;
  void Embed(const kernels::EmbedArgs&) override {}
  void RmsNorm(const kernels::RmsNormArgs&) override {}
  void Linear(const kernels::LinearArgs&) override {}
  void Logits(const kernels::LinearArgs&) override {}
  void SwiGlu(const kernels::SwiGluArgs&) override {}
  void AppendKv(const kernels::AppendKvArgs&) override {}
  void AppendSelector(const kernels::AppendSelectorArgs&) override {}
  void SelectorScore(const kernels::SelectorScoreArgs&) override {}
  void QuestScore(const kernels::QuestScoreArgs&) override {}
  void Select(const kernels::SelectArgs&) override {}
  void Attend(const kernels::AttendArgs&) override {}
  void Sample(const kernels::SampleArgs&) override {}
};

TEST_F(TransformerSteadyTest, AllocatesNothing) {
  HarnessOptions options;
  options.selector = &selector_;
  options.limits.max_batch = 4;
  NullBackend* probe = nullptr;
  options.wrap = [&](std::unique_ptr<kernels::Backend> inner) {
    auto null = std::make_unique<NullBackend>(std::move(inner));
    probe = null.get();
    return null;
  };
  harness_ = std::make_unique<ModelHarness>(ModelPath("llama3"), options);
  ASSERT_TRUE(harness_->ok()) << harness_->status();
  probe->keys.reserve(1000);
  std::vector<kvstore::BlockTable> tables;
  std::vector<DecodeRow> rows = Rows(&tables);
  const kernels::TokenAdjustment adjustments[] = {{7, 2, 1, 0.0f}, {9, 1, 0, 0.0f}};
  rows[1].adjustments = adjustments;
  std::vector<DecodeResult> results(rows.size());
  Step(rows, &results);
  const int buffers = probe->allocations;
  const int64_t before = g_allocations.load();
  for (int i = 0; i < 20; ++i) Step(rows, &results);
  EXPECT_EQ(g_allocations.load(), before);
  EXPECT_EQ(probe->allocations, buffers);
}

TEST_F(TransformerSteadyTest, OneUploadOneDownload) {
  std::vector<kvstore::BlockTable> tables;
  std::vector<DecodeRow> rows = Rows(&tables);
  std::vector<DecodeResult> results(rows.size());
  probe_->uploads = probe_->downloads = 0;
  for (int i = 0; i < 5; ++i) Step(rows, &results);
  EXPECT_EQ(probe_->uploads, 5);
  EXPECT_EQ(probe_->downloads, 5);
}

TEST_F(TransformerSteadyTest, KeysRepeatWhileNothingChanges) {
  std::vector<kvstore::BlockTable> tables;
  std::vector<DecodeRow> rows = Rows(&tables);
  std::vector<DecodeResult> results(rows.size());
  for (int i = 0; i < 50; ++i) Step(rows, &results);
  EXPECT_EQ(std::set<uint64_t>(probe_->keys.begin(), probe_->keys.end()).size(), 1u);
  const kernels::TokenAdjustment adjustment = {7, 2, 1, 0.0f};
  rows[0].adjustments = {&adjustment, 1};
  Step(rows, &results);
  EXPECT_NE(probe_->keys.back(), probe_->keys.front());
  rows[0].adjustments = {};
  SelectionTrace trace;
  rows[0].trace = &trace;
  Step(rows, &results);
  EXPECT_NE(probe_->keys.back(), probe_->keys.front());
  rows[0].trace = nullptr;
  Step(rows, &results);
  EXPECT_EQ(probe_->keys.back(), probe_->keys.front());
}

}  // namespace
}  // namespace spotd::model
