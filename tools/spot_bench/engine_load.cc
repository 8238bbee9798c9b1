#include "tools/spot_bench/engine_load.h"

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/core/status.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/errors.h"
#include "runtime/model/selector.h"
#include "runtime/text/byte_alphabet.h"
#include "runtime/text/tokenizer.h"
#include "runtime/text/utf8.h"
#include "tools/common/synthetic_source.h"

namespace spotd::bench {
namespace {

using Clock = std::chrono::steady_clock;
using engine::CancelToken;

constexpr int32_t kMostRunning = 64;
constexpr int32_t kMostWaiting = 1024;
constexpr std::chrono::milliseconds kBackoff{100};  // of a user who was refused

// A token for each byte, and a text of its own for every other id.
text::TokenizerData TokenizerFor(int32_t vocab) {
  text::TokenizerData data;
  for (int32_t id = 0; id < vocab; ++id) {
    std::string entry;
    if (id < 256) {
      text::AppendUtf8(text::AlphabetCharacter(static_cast<uint8_t>(id)), &entry);
    } else {
      entry = Concat("<", id, ">");
    }
    data.vocab.push_back(std::move(entry));
  }
  data.pre_tokenizer.gpt2_pattern = true;
  data.eos = vocab - 1;
  return data;
}

absl::StatusOr<std::unique_ptr<engine::Engine>> MakeEngine(const tools::ModelOptions& options,
                                                           const LoadOptions& load,
                                                           const model::Policy& policy) {
  SPOTD_ASSIGN_OR_RETURN(
      const auto source,
      tools::MakeSyntheticSource(
          std::string_view(options.model).substr(tools::kSyntheticPrefix.size())));
  SPOTD_ASSIGN_OR_RETURN(auto backend, kernels::CreateBackend({options.backend, options.threads}));
  std::unique_ptr<model::SelectorSource> selector;
  if (policy.kind == model::PolicyKind::kDistilled || policy.kind == model::PolicyKind::kTopK) {
    model::SelectorConfig config;
    config.dim = source->config().head_dim;
    selector = model::RandomSelector(source->config(), config, 1);
  }
  const bool has_selector = selector != nullptr;
  int32_t longest = 0;
  for (const RequestShape& shape : load.mix) {
    longest = std::max(longest, shape.prompt_tokens + shape.output_tokens);
  }
  const int32_t running = load.rate > 0 ? kMostRunning : std::min(load.concurrency, kMostRunning);
  model::Limits limits;
  limits.max_batch = running;
  limits.max_prefill_chunk = options.chunk;
  limits.max_context = longest + 1;
  SPOTD_ASSIGN_OR_RETURN(auto transformer, model::Transformer::Load(backend.get(), *source,
                                                                    std::move(selector), limits));
  engine::EngineOptions made;
  made.default_policy = policy;
  made.max_running = running;
  made.max_waiting = kMostWaiting;
  made.selector_format = has_selector ? options.selector_format : kernels::SelectorKeyFormat::kNone;
  const kvstore::KvLayout layout = transformer->KvLayoutFor(made.selector_format);
  const int32_t blocks = (longest + 1) / layout.block_tokens + 2;
  made.kv_memory_bytes =
      static_cast<size_t>(running) * static_cast<size_t>(blocks) * layout.BytesPerBlock();
  SPOTD_ASSIGN_OR_RETURN(auto tokenizer,
                         text::Tokenizer::Create(TokenizerFor(source->config().vocab)));
  return engine::Engine::Create(made, "synthetic", std::move(backend), std::move(transformer),
                                std::move(tokenizer), nullptr);
}

std::string OutcomeOf(const absl::Status& status) {
  if (status.ok()) return "OK";
  return Concat(absl::StatusCodeToString(status.code()), " ",
                engine::GetErrorDetails(status).reason);
}

class EngineLoad {
 public:
  EngineLoad(engine::Engine* engine, const LoadOptions& options)
      : engine_(*engine), options_(options), random_(options.seed) {
    for (const RequestShape& shape : options.mix) weights_.push_back(shape.weight);
  }

  LoadResult Run() {
    options_.rate > 0 ? RunOpen() : RunClosed();
    result_.seconds = Now();
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, options_.grace, [this] { return running_ == 0; })) {
      for (const auto& cancel : cancels_) cancel->Cancel();
      changed_.wait(lock, [this] { return running_ == 0; });
    }
    return std::move(result_);
  }

  double Now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  // Engine thread.
  void Ended(RequestRecord record) {
    const std::lock_guard lock(mutex_);
    refused_ |= record.outcome != "OK";
    result_.requests.push_back(std::move(record));
    --running_;
    changed_.notify_all();
  }

 private:
  void Launch(double due);

  void RunOpen() {
    std::exponential_distribution<double> gap(options_.rate);
    const double end = std::chrono::duration<double>(options_.duration).count();
    for (double due = gap(random_); due < end; due += gap(random_)) {
      std::this_thread::sleep_until(
          start_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(due)));
      Launch(due);
    }
    std::this_thread::sleep_until(start_ + options_.duration);
  }

  void RunClosed() {
    while (Clock::now() < start_ + options_.duration) {
      bool back_off = false;
      int32_t missing = 0;
      {
        std::unique_lock lock(mutex_);
        changed_.wait_until(lock, start_ + options_.duration,
                            [this] { return running_ < options_.concurrency; });
        missing = options_.concurrency - running_;
        back_off = std::exchange(refused_, false);
      }
      if (back_off) std::this_thread::sleep_for(kBackoff);
      if (Clock::now() >= start_ + options_.duration) return;
      for (; missing > 0; --missing) Launch(Now());
    }
  }

  engine::Engine& engine_;
  const LoadOptions& options_;
  const Clock::time_point start_ = Clock::now();
  std::vector<double> weights_;
  std::mt19937_64 random_;  // the launching thread's
  std::mutex mutex_;
  std::condition_variable changed_;
  int32_t running_ = 0;                                // guarded by mutex_, as is what follows
  bool refused_ = false;                               // since the last look
  std::vector<std::shared_ptr<CancelToken>> cancels_;  // of every request
  LoadResult result_;
};

class RecordingSink final : public engine::TokenSink {
 public:
  RecordingSink(EngineLoad* load, RequestRecord record)
      : load_(*load), record_(std::move(record)) {}
  void OnPrefill(int32_t, int32_t) override {}
  void OnToken(const engine::TokenEvent&) override {
    const double now = load_.Now();
    if (record_.tokens++ == 0) {
      record_.first_token = now;
    } else {
      record_.gaps.push_back(static_cast<float>(now - last_token_));
    }
    last_token_ = now;
  }
  bool Ready() override { return true; }
  void OnDone(absl::StatusOr<engine::GenerateResult> result) override {
    record_.end = load_.Now();
    record_.outcome = OutcomeOf(result.status());
    load_.Ended(std::move(record_));
  }

 private:
  EngineLoad& load_;
  RequestRecord record_;
  double last_token_ = 0;
};

void EngineLoad::Launch(double due) {
  std::discrete_distribution<size_t> pick(weights_.begin(), weights_.end());
  const RequestShape& shape = options_.mix[pick(random_)];
  std::uniform_int_distribution<int32_t> id(0, engine_.model_config().vocab - 1);
  engine::TokenInput prompt(static_cast<size_t>(shape.prompt_tokens));
  for (int32_t& token : prompt) token = id(random_);
  engine::GenerateRequest request;
  request.prompt.emplace_back(std::move(prompt));
  request.sampling.max_tokens = shape.output_tokens;
  request.sampling.ignore_eos = true;
  request.cancel = std::make_shared<CancelToken>();
  if (options_.deadline.count() > 0) request.deadline = Clock::now() + options_.deadline;
  RequestRecord record;
  record.due = due;
  record.prompt_tokens = shape.prompt_tokens;
  request.sink = std::make_shared<RecordingSink>(this, std::move(record));
  {
    const std::lock_guard lock(mutex_);
    cancels_.push_back(request.cancel);
    result_.peak_streams = std::max(result_.peak_streams, ++running_);
  }
  engine_.Generate(std::move(request));
}

}  // namespace

absl::StatusOr<LoadResult> RunEngineLoad(const LoadOptions& options,
                                         const tools::ModelOptions& model,
                                         const model::Policy& policy) {
  if (!model.model.starts_with(tools::kSyntheticPrefix)) {
    return InvalidArgument("--model: serve takes a geometry here, ", tools::kSyntheticPrefix,
                           "qwen3-8b for example; a checkpoint is served by spotd: --address");
  }
  SPOTD_ASSIGN_OR_RETURN(const auto made, MakeEngine(model, options, policy));
  return EngineLoad(made.get(), options).Run();
}

}  // namespace spotd::bench
