#include "runtime/engine/engine.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <random>
#include <thread>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/engine_loop.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "runtime/engine/prompt_encoder.h"
#include "runtime/engine/request_check.h"
#include "runtime/engine/session_registry.h"
#include "runtime/engine/submit_queue.h"

namespace spotd::engine {
namespace {

constexpr std::chrono::milliseconds kRetryQueue{1000};

// The end of a command that somebody waits for. Copies share it, so neither side needs the other to
// be alive.
class Completion {
 public:
  void Notify() const { promise_->set_value(); }
  void Wait() const { promise_->get_future().wait(); }

 private:
  std::shared_ptr<std::promise<void>> promise_ = std::make_shared<std::promise<void>>();
};

absl::Status CheckNotEmpty(const EncodedPrompt& prompt, const char* field) {
  if (!prompt.tokens.empty()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, Concat(field, " has no token"),
                   {.reason = reason::kEmptyPrompt, .field = field});
}

uint64_t RandomSeed() {
  std::random_device random;
  return (uint64_t{random()} << 32) | random();
}

// The model's end-of-sequence tokens, and the tokenizer's.
std::vector<int32_t> EosTokens(const model::ModelConfig& config, const text::Tokenizer& tokenizer) {
  std::vector<int32_t> tokens = config.eos_tokens;
  if (tokenizer.eos() >= 0) tokens.push_back(tokenizer.eos());
  return tokens;
}

absl::Status CheckOptions(const EngineOptions& options, bool has_selector) {
  if (options.max_sessions < 1 || options.max_running < 1 || options.max_waiting < 0) {
    return InvalidArgument(
        "max_sessions and max_running must be positive, max_waiting not negative");
  }
  return CheckPolicy(options.default_policy, has_selector);
}

}  // namespace

// Members are destroyed from the last to the first: block tables before the store, the store before
// the backend.
struct Engine::Impl {
  Impl(const EngineOptions& options_in, std::string model_id_in,
       std::unique_ptr<kernels::Backend> backend_in,
       std::unique_ptr<model::Transformer> transformer_in,
       std::unique_ptr<text::Tokenizer> tokenizer_in,
       std::unique_ptr<text::ChatTemplate> chat_template_in,
       std::unique_ptr<kvstore::KvStore> store_in);
  ~Impl();

  // What both kinds of request need before they can be queued.
  absl::StatusOr<SequenceSetup> Prepare(const std::string& session_id,
                                        const std::vector<Input>& inputs,
                                        const std::optional<model::Policy>& policy, bool generate,
                                        Clock::time_point submitted);
  absl::StatusOr<std::unique_ptr<Sequence>> Prepare(AppendRequest* request);
  absl::StatusOr<std::unique_ptr<Sequence>> Prepare(GenerateRequest* request);
  absl::StatusOr<QueuePlace> Enter();
  absl::Status CheckRunning() const;
  // Prepares the request and queues it; a refusal goes to `report`, on the engine thread as every
  // outcome, because the caller may hold locks.
  template <typename Request, typename Report>
  void Submit(Request request, Report report);

  const EngineOptions options;
  const std::string model_id;
  Metrics metrics;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<text::Tokenizer> tokenizer;
  std::unique_ptr<text::ChatTemplate> chat_template;
  std::unique_ptr<model::Transformer> transformer;
  std::unique_ptr<kvstore::KvStore> store;
  const PromptEncoder encoder;
  const std::vector<int32_t> eos_tokens;
  const int32_t max_context;
  const std::string backend_description;
  SessionRegistry registry;
  std::atomic<bool> draining{false};
  std::atomic<int32_t> unfinished{0};  // requests whose outcome has not been reported
  SubmitQueue queue;
  EngineLoop loop;
  std::thread thread;
};

Engine::Impl::Impl(const EngineOptions& options_in, std::string model_id_in,
                   std::unique_ptr<kernels::Backend> backend_in,
                   std::unique_ptr<model::Transformer> transformer_in,
                   std::unique_ptr<text::Tokenizer> tokenizer_in,
                   std::unique_ptr<text::ChatTemplate> chat_template_in,
                   std::unique_ptr<kvstore::KvStore> store_in)
    : options(options_in),
      model_id(std::move(model_id_in)),
      backend(std::move(backend_in)),
      tokenizer(std::move(tokenizer_in)),
      chat_template(std::move(chat_template_in)),
      transformer(std::move(transformer_in)),
      store(std::move(store_in)),
      encoder(tokenizer.get(), chat_template.get(), transformer->config().vocab),
      eos_tokens(EosTokens(transformer->config(), *tokenizer)),
      max_context(static_cast<int32_t>(
          std::min<int64_t>(transformer->limits().max_context,
                            int64_t{store->stats().blocks_total} * store->layout().block_tokens))),
      backend_description(backend->description()),
      registry(store.get(), &metrics, options.max_sessions),
      queue(options.max_running + options.max_waiting),
      loop(store.get(), transformer.get(), &registry, &queue, &metrics, options.max_running),
      thread([this] { loop.Run(); }) {}

Engine::Impl::~Impl() {
  queue.Close();
  thread.join();
}

absl::Status Engine::Impl::CheckRunning() const {
  if (!draining.load()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kUnavailable, "the server is shutting down",
                   {.reason = reason::kDraining});
}

absl::StatusOr<QueuePlace> Engine::Impl::Enter() {
  if (std::optional<QueuePlace> place = queue.Enter()) return std::move(*place);
  return MakeError(absl::StatusCode::kResourceExhausted,
                   Concat(options.max_running, " requests are running and ", options.max_waiting,
                          " waiting, as many as may"),
                   {.reason = reason::kQueueFull, .retry_after = kRetryQueue});
}

absl::StatusOr<SequenceSetup> Engine::Impl::Prepare(const std::string& session_id,
                                                    const std::vector<Input>& inputs,
                                                    const std::optional<model::Policy>& policy,
                                                    bool generate, Clock::time_point submitted) {
  SPOTD_RETURN_IF_ERROR(CheckRunning());
  SPOTD_RETURN_IF_ERROR(CheckPromptBytes(inputs, options.max_prompt_bytes));
  SPOTD_ASSIGN_OR_RETURN(QueuePlace place, Enter());
  const bool one_shot = generate && session_id.empty();
  SPOTD_ASSIGN_OR_RETURN(SessionClaim claim,
                         one_shot ? registry.OneShot(policy.value_or(options.default_policy))
                                  : registry.Claim(session_id));
  const auto length = static_cast<int32_t>(claim->tokens.size());
  SPOTD_ASSIGN_OR_RETURN(EncodedPrompt prompt,
                         encoder.Encode(inputs, claim->conversation, length, generate));
  if (!generate || length == 0) SPOTD_RETURN_IF_ERROR(CheckNotEmpty(prompt, "prompt"));
  // A generation needs room for at least one token.
  SPOTD_RETURN_IF_ERROR(CheckContext(
      int64_t{length} + static_cast<int64_t>(prompt.tokens.size()) + (generate ? 1 : 0),
      max_context));
  return SequenceSetup{.claim = std::move(claim),
                       .place = std::move(place),
                       .prompt = std::move(prompt),
                       .submitted = submitted,
                       .metrics = &metrics,
                       .unfinished = &unfinished};
}

absl::StatusOr<std::unique_ptr<Sequence>> Engine::Impl::Prepare(AppendRequest* request) {
  const Clock::time_point submitted = Clock::now();
  SPOTD_ASSIGN_OR_RETURN(SequenceSetup setup, Prepare(request->session_id, request->input,
                                                      std::nullopt, false, submitted));
  return std::make_unique<Sequence>(std::move(*request), std::move(setup));
}

absl::StatusOr<std::unique_ptr<Sequence>> Engine::Impl::Prepare(GenerateRequest* request) {
  const Clock::time_point submitted = Clock::now();
  SPOTD_RETURN_IF_ERROR(CheckSampling(request->sampling, transformer->config().vocab));
  SPOTD_RETURN_IF_ERROR(CheckReportBlocks(request->report_blocks));
  if (request->policy) {
    SPOTD_RETURN_IF_ERROR(CheckPolicy(*request->policy, transformer->has_selector()));
  }
  SPOTD_ASSIGN_OR_RETURN(SequenceSetup setup, Prepare(request->session_id, request->prompt,
                                                      request->policy, true, submitted));
  GenerationSetup generation;
  generation.policy = request->policy.value_or(setup.claim->policy);
  generation.seed = request->sampling.seed ? *request->sampling.seed : RandomSeed();
  generation.stop_tokens = request->sampling.stop_tokens;
  if (!request->sampling.ignore_eos) {
    generation.stop_tokens.insert(generation.stop_tokens.end(), eos_tokens.begin(),
                                  eos_tokens.end());
  }
  generation.max_context = max_context;
  generation.block_tokens = store->layout().block_tokens;
  generation.tokenizer = tokenizer.get();
  generation.special_text = &encoder.special_text();
  return std::make_unique<Sequence>(std::move(*request), std::move(setup), std::move(generation));
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(
    const EngineOptions& options, std::string model_id, std::unique_ptr<kernels::Backend> backend,
    std::unique_ptr<model::Transformer> transformer, std::unique_ptr<text::Tokenizer> tokenizer,
    std::unique_ptr<text::ChatTemplate> chat_template) {
  // Where this fails, the transformer must go before the backend that its buffers belong to.
  std::unique_ptr<kernels::Backend> device = std::move(backend);
  std::unique_ptr<model::Transformer> model = std::move(transformer);
  SPOTD_RETURN_IF_ERROR(CheckOptions(options, model->has_selector()));
  SPOTD_ASSIGN_OR_RETURN(auto store, kvstore::KvStore::Create(
                                         device.get(), model->KvLayoutFor(options.selector_format),
                                         options.kv_memory_bytes));
  model->AttachStore(store.get());
  EngineOptions actual = options;
  actual.max_running = std::min(options.max_running, model->limits().max_batch);
  return std::unique_ptr<Engine>(new Engine(
      std::make_unique<Impl>(actual, std::move(model_id), std::move(device), std::move(model),
                             std::move(tokenizer), std::move(chat_template), std::move(store))));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Engine::~Engine() = default;

template <typename Request, typename Report>
void Engine::Impl::Submit(Request request, Report report) {
  unfinished.fetch_add(1);
  if (auto sequence = Prepare(&request); sequence.ok()) {
    queue.Put(*std::move(sequence));
  } else {
    queue.Put([this, status = sequence.status(), report = std::move(report)] {
      report(status);
      unfinished.fetch_sub(1);
    });
  }
}

void Engine::Append(AppendRequest request) {
  auto report = request.on_done;
  impl_->Submit(std::move(request), std::move(report));
}

void Engine::Generate(GenerateRequest request) {
  auto report = [sink = request.sink](const absl::Status& status) { sink->OnDone(status); };
  impl_->Submit(std::move(request), std::move(report));
}

absl::StatusOr<SessionInfo> Engine::CreateSession(const SessionOptions& options) {
  SPOTD_RETURN_IF_ERROR(impl_->CheckRunning());
  SPOTD_RETURN_IF_ERROR(CheckDisplayName(options.display_name));
  const model::Policy policy = options.policy.value_or(impl_->options.default_policy);
  SPOTD_RETURN_IF_ERROR(CheckPolicy(policy, has_selector()));
  return impl_->registry.Create(options, policy);
}

absl::StatusOr<SessionInfo> Engine::GetSession(const std::string& id) {
  return impl_->registry.Get(id);
}

std::vector<SessionInfo> Engine::ListSessions(const std::string& after, int32_t limit) {
  return impl_->registry.List(after, limit);
}

absl::Status Engine::DeleteSession(const std::string& id) {
  Completion done;
  SPOTD_RETURN_IF_ERROR(impl_->registry.Remove(id, [&](std::shared_ptr<Session> session) {
    impl_->queue.Put([this, done, session = std::move(session)] {
      impl_->loop.DropDeleted(session.get());
      done.Notify();
    });
  }));
  done.Wait();
  return absl::OkStatus();
}

absl::StatusOr<SessionInfo> Engine::ForkSession(const std::string& id,
                                                const SessionOptions& options) {
  SPOTD_RETURN_IF_ERROR(impl_->CheckRunning());
  SPOTD_RETURN_IF_ERROR(CheckDisplayName(options.display_name));
  if (options.policy) SPOTD_RETURN_IF_ERROR(CheckPolicy(*options.policy, has_selector()));
  Completion done;
  const auto post = [&](std::shared_ptr<Session> from, std::shared_ptr<Session> to) {
    impl_->queue.Put([this, done, from = std::move(from), to = std::move(to)] {
      impl_->loop.ForkKv(from.get(), to.get());
      done.Notify();
    });
  };
  SPOTD_ASSIGN_OR_RETURN(const std::string fork, impl_->registry.Fork(id, options, post));
  done.Wait();
  return impl_->registry.Get(fork);
}

absl::StatusOr<SessionInfo> Engine::RewindSession(const std::string& id, int32_t tokens) {
  Completion done;
  SPOTD_RETURN_IF_ERROR(
      impl_->registry.Rewind(id, tokens, *impl_->tokenizer, [&](std::shared_ptr<Session> session) {
        impl_->queue.Put([this, done, tokens, session = std::move(session)] {
          impl_->loop.TruncateKv(session.get(), tokens);
          done.Notify();
        });
      }));
  done.Wait();
  return impl_->registry.Get(id);
}

void Engine::StartDrain() {
  impl_->draining.store(true);
}

bool Engine::Idle() const {
  return impl_->unfinished.load() == 0;
}

const text::Tokenizer& Engine::tokenizer() const {
  return *impl_->tokenizer;
}
const model::ModelConfig& Engine::model_config() const {
  return impl_->transformer->config();
}
const std::string& Engine::model_id() const {
  return impl_->model_id;
}
const EngineOptions& Engine::options() const {
  return impl_->options;
}
int32_t Engine::max_context() const {
  return impl_->max_context;
}
bool Engine::has_selector() const {
  return impl_->transformer->has_selector();
}
std::string Engine::backend_description() const {
  return impl_->backend_description;
}
Metrics& Engine::metrics() {
  return impl_->metrics;
}

}  // namespace spotd::engine
