// Training a selector of a tiny random model, end to end: it learns, resumes bit for bit, and its
// file is what the runtime loads.
#include "runtime/distill/trainer.h"

#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/distill/checkpoint.h"
#include "tests/runtime/tiny_model.h"

namespace spotd::distill {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

// The same function of tokens as the model above, but the inputs of its attention are eight times
// larger.
class LoudSource final : public spotd::testing::TinySource {
 public:
  using TinySource::TinySource;
  absl::StatusOr<model::TensorView> Tensor(const std::string& name) const override {
    const auto view = TinySource::Tensor(name);
    const float factor = name.ends_with("input_layernorm.weight") ? 8.0f
                         : name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight") ||
                                 name.ends_with("v_proj.weight")
                             ? 0.125f
                             : 1.0f;
    if (!view.ok() || factor == 1.0f) return view;
    const auto* const data = static_cast<const float*>(view->data);
    std::vector<float>& scaled = scaled_[name];
    scaled.assign(data, data + view->bytes / sizeof(float));
    for (float& value : scaled) value *= factor;
    return model::TensorView{DType::kF32, view->shape, scaled.data(), view->bytes};
  }

 private:
  mutable std::map<std::string, std::vector<float>> scaled_;
};

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() /
                 ("spotd_trainer_" + std::to_string(::getpid()) + "_" +
                  ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(directory_);
    for (int i = 0; i < 40; ++i) WriteText("doc" + std::to_string(i) + ".txt", i);
    auto backend = kernels::CreateBackend({"cpu", 2});
    ASSERT_TRUE(backend.ok());
    backend_ = *std::move(backend);
    LoadModel(1);
    auto tokenizer = text::Tokenizer::Create(source_.tokenizer_data());
    ASSERT_TRUE(tokenizer.ok());
    tokenizer_ = *std::move(tokenizer);
    auto corpus = Corpus::Load({{directory_.string()}, kLength, 0.2, 7}, *tokenizer_);
    ASSERT_TRUE(corpus.ok()) << corpus.status();
    corpus_ = std::make_unique<Corpus>(*std::move(corpus));
  }
  void TearDown() override { fs::remove_all(directory_); }

  // A transformer that takes `sequences` in one pass.
  void LoadModel(int32_t sequences) { LoadModel(sequences, source_); }
  void LoadModel(int32_t sequences, const model::ModelSource& source) {
    model::Limits limits;
    limits.max_prefill_chunk = sequences * kLength;
    limits.max_context = kLength;
    limits.max_batch = sequences;
    auto transformer = model::Transformer::Load(backend_.get(), source, nullptr, limits);
    ASSERT_TRUE(transformer.ok()) << transformer.status();
    transformer_ = *std::move(transformer);
    const auto layout = transformer_->KvLayoutFor(kernels::SelectorKeyFormat::kNone);
    auto store = kvstore::KvStore::Create(
        backend_.get(), layout,
        layout.BytesPerBlock() * static_cast<size_t>(sequences * (kLength / 16 + 2)));
    ASSERT_TRUE(store.ok());
    store_ = *std::move(store);
    transformer_->AttachStore(store_.get());
  }

  void WriteText(const std::string& name, int seed) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    std::ofstream out(directory_ / name);
    for (int i = 0; i < 900; ++i) out << static_cast<char>('a' + random() % 26);
  }

  static TrainerOptions Options() {
    TrainerOptions options;
    options.selector.heads = 2;
    options.selector.dim = 32;
    options.selector.rope_theta = TinyTheta();
    options.length = kLength;
    options.sequences_per_step = 2;
    options.tokens = int64_t{kLength} * 2 * 12;
    options.learning_rate.peak = 2e-2;
    options.queries = 16;
    options.learning_rate.warmup_steps = 2;
    options.input_rms = 1.0f;
    options.sink_tokens = 16;
    options.recency_tokens = 32;
    options.skip.max_position = 4096;
    return options;
  }
  static double TinyTheta() { return spotd::testing::TinyConfig().rope.theta; }

  std::unique_ptr<Trainer> NewTrainer(const TrainerOptions& options) {
    auto kernels = kernels::CreateDistillKernels(backend_.get(), 2);
    EXPECT_TRUE(kernels.ok());
    auto trainer = Trainer::Create(backend_.get(), transformer_.get(), store_.get(), corpus_.get(),
                                   *std::move(kernels), options);
    EXPECT_TRUE(trainer.ok()) << trainer.status();
    return *std::move(trainer);
  }
  std::string Path(const char* name) const { return (directory_ / name).string(); }
  std::string Contents(const char* name) const {
    std::ifstream file(Path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  static constexpr int32_t kLength = 192;
  spotd::testing::TinySource source_{3};
  fs::path directory_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<model::Transformer> transformer_;
  std::unique_ptr<kvstore::KvStore> store_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::unique_ptr<Corpus> corpus_;
};

TEST_F(TrainerTest, LossFallsAndTheFileLoads) {
  TrainerOptions options = Options();
  options.tokens *= 3;
  const auto trainer = NewTrainer(options);
  const auto before = trainer->Evaluate(2);
  ASSERT_TRUE(before.ok()) << before.status();
  while (!trainer->done()) ASSERT_TRUE(trainer->Step().ok());
  const auto after = trainer->Evaluate(2);
  ASSERT_TRUE(after.ok());
  EXPECT_LT(after->kl, 0.9 * before->kl);
  EXPECT_GT(after->recalled_mass, 0);
  EXPECT_LE(after->recalled_mass, 1.0001);

  ASSERT_TRUE(trainer->SaveSelector(Path("selector.safetensors")).ok());
  const auto loaded = model::OpenSelector(Path("selector.safetensors"), source_.config());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->config().heads, 2);
  EXPECT_EQ((*loaded)->config().training_tokens, options.tokens);
  EXPECT_TRUE((*loaded)->Tensor(1, "q").ok());
}

TEST_F(TrainerTest, TheFileHasTheThetaThatWasTrainedWith) {
  TrainerOptions options = Options();
  options.selector.rope_theta = 283461213.0;  // of a checkpoint for 262,144 tokens
  ASSERT_TRUE(NewTrainer(options)->SaveSelector(Path("selector")).ok());
  const auto selector = model::OpenSelector(Path("selector"), source_.config());
  ASSERT_TRUE(selector.ok()) << selector.status();
  EXPECT_EQ((*selector)->config().rope_theta, options.selector.rope_theta);
}

TEST_F(TrainerTest, AChoiceForEachKvHeadIsLearntAndResumed) {
  TrainerOptions options = Options();
  options.tokens *= 3;
  options.selector.groups = source_.config().kv_heads;
  ASSERT_GT(options.selector.groups, 1);
  const auto trainer = NewTrainer(options);
  const auto before = trainer->Evaluate(2);
  ASSERT_TRUE(before.ok()) << before.status();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(trainer->Step().ok());
  ASSERT_TRUE(trainer->SaveCheckpoint(Path("half")).ok());
  while (!trainer->done()) ASSERT_TRUE(trainer->Step().ok());
  const auto after = trainer->Evaluate(2);
  ASSERT_TRUE(after.ok());
  EXPECT_LT(after->kl, 0.9 * before->kl);
  ASSERT_TRUE(trainer->SaveSelector(Path("whole")).ok());
  const auto loaded = model::OpenSelector(Path("whole"), source_.config());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->config().groups, options.selector.groups);

  const auto resumed = NewTrainer(options);
  ASSERT_TRUE(resumed->LoadCheckpoint(Path("half")).ok());
  while (!resumed->done()) ASSERT_TRUE(resumed->Step().ok());
  ASSERT_TRUE(resumed->SaveSelector(Path("resumed")).ok());
  EXPECT_EQ(Contents("whole"), Contents("resumed"));
  options.selector.groups = 1;
  const absl::Status other = NewTrainer(options)->LoadCheckpoint(Path("half"));
  EXPECT_THAT(std::string(other.message()), HasSubstr("groups"));
}

TEST_F(TrainerTest, TheNumberOfGroupsMustBeTheModels) {
  TrainerOptions options = Options();
  options.selector.groups = source_.config().kv_heads + 1;
  const auto trainer =
      Trainer::Create(backend_.get(), transformer_.get(), store_.get(), corpus_.get(),
                      *kernels::CreateDistillKernels(backend_.get(), 1), options);
  EXPECT_EQ(trainer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(trainer.status().message()), HasSubstr("--groups"));
}

// Kernels of a device that takes so much.
class LimitedKernels final : public kernels::DistillKernels {
 public:
  explicit LimitedKernels(kernels::DistillLimits limits) : limits_(limits) {}
  kernels::DistillLimits limits(int32_t /*block_tokens*/) const override { return limits_; }
  void Accumulate(const kernels::DistillArgs& /*args*/) override {}
  absl::StatusOr<kernels::DistillStats> TakeStats() override { return kernels::DistillStats{}; }
  void Zero(float* /*values*/, int64_t /*count*/) override {}
  double SumOfSquares(const float* /*values*/, int64_t /*count*/) override { return 0; }
  void AdamW(const kernels::AdamWArgs& /*args*/) override {}

 private:
  kernels::DistillLimits limits_;
};

TEST_F(TrainerTest, WhatTheDeviceCannotTakeIsRefusedAtTheStart) {
  const auto create = [&](int32_t q_heads, int32_t rows) {
    return Trainer::Create(backend_.get(), transformer_.get(), store_.get(), corpus_.get(),
                           std::make_unique<LimitedKernels>(kernels::DistillLimits{q_heads, rows}),
                           Options())
        .status();
  };
  const int32_t heads = source_.config().q_heads;
  EXPECT_TRUE(create(heads, kLength).ok());
  const absl::Status model = create(heads - 1, kLength);
  EXPECT_EQ(model.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(model.message()), HasSubstr("has 4 query heads"));
  EXPECT_THAT(std::string(model.message()), HasSubstr("at most 3"));
  const absl::Status length = create(heads, kLength - 1);
  EXPECT_EQ(length.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(length.message()), HasSubstr("--length must be at most 191"));
}

TEST_F(TrainerTest, OnlyDimsThatASelectorFileMayHaveAreTrained) {
  for (const int32_t dim : {0, 16, 48, 288}) {
    TrainerOptions options = Options();
    options.selector.dim = dim;
    const auto trainer =
        Trainer::Create(backend_.get(), transformer_.get(), store_.get(), corpus_.get(),
                        *kernels::CreateDistillKernels(backend_.get(), 1), options);
    ASSERT_FALSE(trainer.ok()) << dim;
    EXPECT_THAT(std::string(trainer.status().message()), HasSubstr("--dim")) << dim;
  }
}

TEST_F(TrainerTest, OptionsOutOfRangeAreRefusedByName) {
  const double nan = std::nan("");
  const auto refused = [&](const char* option, const std::function<void(TrainerOptions&)>& change) {
    TrainerOptions options = Options();
    change(options);
    const auto trainer =
        Trainer::Create(backend_.get(), transformer_.get(), store_.get(), corpus_.get(),
                        *kernels::CreateDistillKernels(backend_.get(), 1), options);
    EXPECT_EQ(trainer.status().code(), absl::StatusCode::kInvalidArgument) << option;
    EXPECT_THAT(std::string(trainer.status().message()), HasSubstr(std::string(option) + " must"));
  };
  refused("--heads", [](TrainerOptions& o) { o.selector.heads = 0; });
  refused("--heads", [](TrainerOptions& o) { o.selector.heads = model::kMaxSelectorHeads + 1; });
  refused("--queries", [](TrainerOptions& o) { o.queries = 2'000'000'000; });
  refused("--sequences", [](TrainerOptions& o) { o.sequences_per_step = 2'000'000'000; });
  refused("--tokens", [](TrainerOptions& o) { o.tokens = 0; });
  refused("--lr", [&](TrainerOptions& o) { o.learning_rate.peak = nan; });
  refused("--lr", [](TrainerOptions& o) { o.learning_rate.peak = -1; });
  refused("--warmup", [](TrainerOptions& o) { o.learning_rate.warmup_steps = -1; });
  refused("--input_rms", [&](TrainerOptions& o) { o.input_rms = static_cast<float>(nan); });
  refused("--clip", [](TrainerOptions& o) { o.clip_norm = -1; });
  refused("--full_weight", [](TrainerOptions& o) { o.full_weight = -1; });
  refused("--residual_weight", [](TrainerOptions& o) { o.residual_weight = HUGE_VALF; });
  refused("--teacher_power", [&](TrainerOptions& o) { o.teacher_power = static_cast<float>(nan); });
  refused("--group_power", [](TrainerOptions& o) { o.group_power = -1; });
  refused("--sparse_stage", [](TrainerOptions& o) { o.sparse_stage = 2; });
  refused("--sparse_fraction", [](TrainerOptions& o) { o.sparse_fraction = 0; });
  refused("--round_keys", [&](TrainerOptions& o) { o.rounding_stage = nan; });
  refused("--sink_tokens", [](TrainerOptions& o) { o.sink_tokens = -1; });
  refused("--recency_tokens", [](TrainerOptions& o) { o.recency_tokens = -1; });
  refused("--recency_tokens", [](TrainerOptions& o) { o.recency_tokens = 2'000'000'000; });
  refused("--skip", [](TrainerOptions& o) { o.skip.probability = 7; });
  refused("--cuts", [](TrainerOptions& o) { o.skip.most_cuts = 0; });
  refused("--gap_power", [](TrainerOptions& o) { o.skip.gap_power = -1; });
  refused("--serve_length", [](TrainerOptions& o) { o.skip.max_position = -4; });
}

TEST_F(TrainerTest, MoreReservedTokensThanASequenceHasTrainWithoutAResidual) {
  TrainerOptions options = Options();
  options.sink_tokens = 1'000'000'000;
  options.recency_tokens = 1'000'000'000;
  options.tokens = int64_t{kLength} * options.sequences_per_step;
  const auto report = NewTrainer(options)->Step();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->residual_kl, 0);
}

TEST_F(TrainerTest, ResumingContinuesBitForBit) {
  const auto whole = NewTrainer(Options());
  while (!whole->done()) ASSERT_TRUE(whole->Step().ok());
  ASSERT_TRUE(whole->SaveCheckpoint(Path("whole")).ok());

  const auto first = NewTrainer(Options());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(first->Step().ok());
  ASSERT_TRUE(first->SaveCheckpoint(Path("half")).ok());
  const auto second = NewTrainer(Options());
  ASSERT_TRUE(second->LoadCheckpoint(Path("half")).ok());
  EXPECT_EQ(second->next_step(), 5);
  while (!second->done()) ASSERT_TRUE(second->Step().ok());
  ASSERT_TRUE(second->SaveCheckpoint(Path("resumed")).ok());
  EXPECT_EQ(Contents("whole"), Contents("resumed"));
}

TEST_F(TrainerTest, SeveralSequencesInAPassTeachTheSame) {
  TrainerOptions options = Options();
  options.sequences_per_step = 5;
  options.tokens = int64_t{kLength} * 5 * 4;
  const auto train = [&] {
    const auto trainer = NewTrainer(options);
    std::vector<StepReport> reports;
    while (!trainer->done()) {
      const auto report = trainer->Step();
      EXPECT_TRUE(report.ok()) << report.status();
      reports.push_back(*report);
    }
    return reports;
  };
  const std::vector<StepReport> one = train();
  LoadModel(2);
  const std::vector<StepReport> two = train();
  ASSERT_EQ(one.size(), two.size());
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_NEAR(two[i].loss, one[i].loss, 1e-3 * one[i].loss);
    EXPECT_NEAR(two[i].gradient_norm, one[i].gradient_norm, 1e-2 * one[i].gradient_norm);
  }
}

TEST_F(TrainerTest, TheScaleOfAModelsInputsDoesNotMatter) {
  TrainerOptions options = Options();
  const auto train = [&] {
    const auto trainer = NewTrainer(options);
    const auto before = trainer->Evaluate(2);
    EXPECT_TRUE(before.ok()) << before.status();
    while (!trainer->done()) EXPECT_TRUE(trainer->Step().ok());
    const auto after = trainer->Evaluate(2);
    EXPECT_TRUE(after.ok()) << after.status();
    return std::pair(before->kl, after->kl);
  };
  const LoudSource loud(3);
  const auto [start, end] = train();
  LoadModel(1, loud);
  const auto [loud_start, loud_end] = train();
  EXPECT_NEAR(loud_start, start, 1e-3 * start);
  EXPECT_NEAR(loud_end, end, 0.02 * end);
  options.input_rms = 0;  // scores grow with the square of the inputs
  EXPECT_GT(train().first, 2 * start);
}

TEST_F(TrainerTest, ACheckpointOfOtherOptionsIsRefusedByName) {
  const auto trainer = NewTrainer(Options());
  ASSERT_TRUE(trainer->SaveCheckpoint(Path("checkpoint")).ok());
  TrainerOptions other = Options();
  other.residual_weight = 2;
  const absl::Status status = NewTrainer(other)->LoadCheckpoint(Path("checkpoint"));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("residual_weight"));
}

TEST_F(TrainerTest, ACheckpointOfOtherTextIsRefused) {
  ASSERT_TRUE(NewTrainer(Options())->SaveCheckpoint(Path("checkpoint")).ok());
  WriteText("a.txt", 99);
  auto corpus = Corpus::Load({{directory_.string()}, kLength, 0.2, 7}, *tokenizer_);
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  *corpus_ = *std::move(corpus);
  const absl::Status status = NewTrainer(Options())->LoadCheckpoint(Path("checkpoint"));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("corpus"));
}

TEST_F(TrainerTest, TheSeedOrdersTheText) {
  std::set<const int32_t*> starts;
  for (const uint64_t seed : {1, 2, 3, 4}) {
    starts.insert(corpus_->TrainingSequence(seed, 0).data());
    EXPECT_EQ(corpus_->TrainingSequence(seed, 0).data(), corpus_->TrainingSequence(seed, 0).data());
  }
  EXPECT_EQ(starts.size(), 4u);
}

TEST_F(TrainerTest, APathThatCannotBeWrittenIsAnError) {
  const auto trainer = NewTrainer(Options());
  EXPECT_FALSE(trainer->SaveSelector("/dev/full/selector").ok());
  EXPECT_FALSE(trainer->SaveSelector(Path("absent/selector")).ok());
}

TEST_F(TrainerTest, ALossThatIsNoNumberStopsAndKeepsTheLastGoodCheckpoint) {
  TrainerOptions options = Options();
  options.clip_norm = 1e30;
  options.learning_rate.peak = 1e38;  // times a layer's scale no float
  options.input_rms = 1e6f;
  const auto trainer = NewTrainer(options);
  ASSERT_TRUE(trainer->SaveCheckpoint(Path("checkpoint")).ok());
  const std::string good = Contents("checkpoint");
  absl::Status status;
  while (status.ok() && !trainer->done()) {
    status = trainer->Step().status();
    if (status.ok()) trainer->SaveCheckpoint(Path("checkpoint")).IgnoreError();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("step 1: the loss is not a number"));
  EXPECT_TRUE(Contents("checkpoint") == good);
  EXPECT_TRUE(NewTrainer(options)->LoadCheckpoint(Path("checkpoint")).ok());
}

TEST_F(TrainerTest, AFullDiskLeavesTheOldFile) {
  const auto trainer = NewTrainer(Options());
  ASSERT_TRUE(trainer->SaveSelector(Path("selector")).ok());
  ASSERT_TRUE(trainer->Step().ok());
  const std::string old = Contents("selector");
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit full = {1000, limit.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &full), 0);
  const absl::Status status = trainer->SaveSelector(Path("selector"));
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, handler);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("selector"));
  EXPECT_TRUE(Contents("selector") == old);
}

TEST_F(TrainerTest, CalibrationIsAddedToAFileAndNothingElseChanges) {
  const auto trainer = NewTrainer(Options());
  ASSERT_TRUE(trainer->SaveSelector(Path("selector")).ok());
  ASSERT_TRUE(RewriteSelector(Path("selector"), Path("selector"),
                              {{"calibration", "1.5,0.5"},
                               {"budget_p_residual", "0.5,1"},
                               {"budget_p_total", "1,1"},
                               {"budget_k_min_tokens", "0,0"}})
                  .ok());
  const auto loaded = model::OpenSelector(Path("selector"), source_.config());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->config().score_scales, (std::vector<float>{1.5f, 0.5f}));
  EXPECT_EQ((*loaded)->config().budget.at(0).p_residual, 0.5f);
  ASSERT_TRUE(trainer->SaveSelector(Path("again")).ok());
  const auto fresh = model::OpenSelector(Path("again"), source_.config());
  ASSERT_TRUE(fresh.ok());
  for (const char* part : {"q", "k", "w", "k_norm"}) {
    const auto a = (*loaded)->Tensor(1, part);
    const auto b = (*fresh)->Tensor(1, part);
    ASSERT_TRUE(a.ok() && b.ok());
    ASSERT_EQ(a->bytes, b->bytes);
    EXPECT_EQ(std::memcmp(a->data, b->data, a->bytes), 0) << part;
  }
}

TEST_F(TrainerTest, ConversationsHaveTheModelsControlTokens) {
  const std::string text = "<|im_start|>user\nhello<|im_end|>" + std::string(500, 'x');
  std::ofstream(Path("talk.chat.txt")) << text;
  std::ofstream(Path("plain.txt")) << text;
  const auto first_token = [&](const char* name) {
    const auto corpus = Corpus::Load({{Path(name)}, kLength, 0.1, 1}, *tokenizer_);
    EXPECT_TRUE(corpus.ok()) << corpus.status();
    return corpus->LongDocuments(kLength, 1).at(0).front();
  };
  EXPECT_EQ(first_token("talk.chat.txt"), spotd::testing::kImStart);
  EXPECT_EQ(first_token("plain.txt"), '<');
}

TEST_F(TrainerTest, BadCorporaAreRefusedByName) {
  const auto load = [&](const std::string& name, const std::string& text) {
    std::ofstream(Path(name.c_str()), std::ios::binary) << text;
    return std::string(
        Corpus::Load({{Path(name.c_str())}, kLength, 0.1, 1}, *tokenizer_).status().message());
  };
  EXPECT_THAT(load("empty.txt", ""), HasSubstr("empty.txt is empty"));
  EXPECT_THAT(load("binary.txt", std::string("a\0b", 3)), HasSubstr("binary.txt is binary"));
  EXPECT_THAT(load("latin.txt", "caf\xe9 " + std::string(2000, 'x')), HasSubstr("latin.txt"));
  EXPECT_THAT(load("short.txt", "too short"), HasSubstr("too few"));
  EXPECT_THAT(
      std::string(
          Corpus::Load({{Path("none.txt")}, kLength, 0.1, 1}, *tokenizer_).status().message()),
      HasSubstr("none.txt"));
}

}  // namespace
}  // namespace spotd::distill
