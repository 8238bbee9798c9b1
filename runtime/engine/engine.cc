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
#include "runtime/engine/out_of_memory.h"
#include "runtime/engine/prompt_encoder.h"
#include "runtime/engine/request_check.h"
#include "runtime/engine/session_registry.h"
#include "runtime/engine/submit_queue.h"

namespace spotd::engine {
namespace {

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

// A place in the queue is of no use to a request that cannot be answered in time.
absl::Status CheckDeadline(const Metrics& metrics, int64_t waiting, int64_t own,
                           const std::optional<Clock::time_point>& deadline) {
  const double speed = metrics.prefill_tokens_per_second.load();
  if (!deadline || speed == 0) return absl::OkStatus();
  const double ahead = static_cast<double>(waiting + metrics.prefill_backlog.load()) / speed;
  const double expected = ahead + static_cast<double>(own) / speed;
  const double left = std::chrono::duration<double>(*deadline - Clock::now()).count();
  // One that has passed already is told so in the queue.
  if (left <= 0 || expected <= left) return absl::OkStatus();
  const auto milliseconds = [](double seconds) { return static_cast<int64_t>(seconds * 1000); };
  return MakeError(
      absl::StatusCode::kResourceExhausted,
      Concat("the first token is expected in ", milliseconds(expected),
             " ms, and the deadline is in ", milliseconds(left), " ms"),
      {.reason = reason::kDeadlineTooShort,
       .metadata = {{"expected_ms", std::to_string(milliseconds(expected))}},
       .retry_after = std::chrono::milliseconds(std::max<int64_t>(milliseconds(ahead), 100))});
}

absl::Status CheckOptions(const EngineOptions& options, bool has_selector) {
  if (options.sessions.max_sessions < 1 || options.max_running < 1 || options.max_waiting < 0) {
    return InvalidArgument(
        "max_sessions and max_running must be positive, max_waiting not negative");
  }
  SPOTD_RETURN_IF_ERROR(CheckPolicy(options.default_policy, has_selector));
  return CheckPolicyBounds(options.default_policy, options.policy_bounds);
}

}  // namespace

int64_t UnixMilliseconds() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

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
  absl::StatusOr<SequenceSetup> Prepare(const RequestHead& head, SessionClaim claim,
                                        const std::vector<Input>& inputs, bool generate,
                                        Clock::time_point submitted);
  absl::StatusOr<SubmitQueue::Item> Prepare(AppendRequest* request);
  absl::StatusOr<SubmitQueue::Item> Prepare(GenerateRequest* request);
  absl::StatusOr<SubmitQueue::Item> PrepareNew(GenerateRequest* request, SessionClaim claim,
                                               Clock::time_point submitted);
  GenerationSetup SetupFor(const GenerateRequest& request, const Session& session) const;
  // The answer that the session remembers; null when the request is new. INVALID_ARGUMENT
  // (REQUEST_ID_REUSED) when it was another request's.
  static absl::StatusOr<std::shared_ptr<const AnsweredRequest>> Answered(const Session& session,
                                                                         const RequestHead& head,
                                                                         bool generate);
  absl::Status CheckGenerate(const GenerateRequest& request) const;
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
  std::atomic<uint64_t> arrivals{0};
  const std::shared_ptr<RecordBudget> record_budget;
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
      registry(store.get(), &metrics, options.sessions),
      record_budget(std::make_shared<RecordBudget>(static_cast<int64_t>(options.max_record_bytes))),
      queue({.requests = options.max_running + options.max_waiting,
             .requests_per_tenant = options.sessions.tenant.max_requests,
             .waiting_tokens = options.max_waiting_tokens}),
      loop({.store = store.get(),
            .transformer = transformer.get(),
            .registry = &registry,
            .queue = &queue,
            .metrics = &metrics},
           {.max_running = options.max_running,
            .tenant_kv_share = options.sessions.tenant.max_kv_share,
            .prefix_sharing = options.prefix_sharing,
            .reader_patience = options.reader_patience,
            .tenant_patience = options.tenant_patience,
            .audit = options.audit}),
      thread([this] { loop.Run(); }) {}

Engine::Impl::~Impl() {
  queue.Close();
  thread.join();
}

absl::Status Engine::Impl::CheckRunning() const {
  if (metrics.device_lost.load()) return DeviceLost("");
  if (!draining.load()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kUnavailable, "the server is shutting down",
                   {.reason = reason::kDraining});
}

absl::StatusOr<std::shared_ptr<const AnsweredRequest>> Engine::Impl::Answered(
    const Session& session, const RequestHead& head, bool generate) {
  if (head.request_id.empty()) return nullptr;
  auto answered = session.requests.Find(head.request_id);
  if (answered == nullptr) return nullptr;
  if (answered->fingerprint == head.fingerprint && answered->generated == generate) return answered;
  return MakeError(absl::StatusCode::kInvalidArgument,
                   "request_id belongs to another request that this session has answered",
                   {.reason = reason::kRequestIdReused,
                    .field = "request_id",
                    .metadata = {{"session", session.id}}});
}

absl::StatusOr<SequenceSetup> Engine::Impl::Prepare(const RequestHead& head, SessionClaim claim,
                                                    const std::vector<Input>& inputs, bool generate,
                                                    Clock::time_point submitted) {
  SPOTD_ASSIGN_OR_RETURN(QueuePlace place, queue.Enter(head.tenant));
  const auto length = static_cast<int32_t>(claim->tokens.size());
  const Clock::time_point before = Clock::now();
  SPOTD_ASSIGN_OR_RETURN(EncodedPrompt prompt,
                         encoder.Encode(inputs, claim->conversation, length, generate));
  metrics.tokenization_time.Observe(std::chrono::duration<double>(Clock::now() - before).count());
  if (!generate || length == 0) SPOTD_RETURN_IF_ERROR(CheckNotEmpty(prompt, PromptField(generate)));
  const auto added = static_cast<int64_t>(prompt.tokens.size());
  // A generation needs room for at least one token.
  const int64_t needed = length + added + (generate ? 1 : 0);
  SPOTD_RETURN_IF_ERROR(CheckContext(needed, max_context));
  SPOTD_RETURN_IF_ERROR(registry.HoldTokens(*claim.get(), needed));
  SPOTD_RETURN_IF_ERROR(CheckDeadline(metrics, queue.waiting_tokens(), added, head.deadline));
  SPOTD_RETURN_IF_ERROR(place.Hold(added));
  return SequenceSetup{.claim = std::move(claim),
                       .place = std::move(place),
                       .prompt = std::move(prompt),
                       .submitted = submitted,
                       .metrics = &metrics,
                       .unfinished = &unfinished,
                       .arrival = arrivals.fetch_add(1)};
}

absl::StatusOr<SubmitQueue::Item> Engine::Impl::Prepare(AppendRequest* request) {
  const Clock::time_point submitted = Clock::now();
  SPOTD_RETURN_IF_ERROR(CheckRunning());
  SPOTD_RETURN_IF_ERROR(CheckHead(*request));
  SPOTD_RETURN_IF_ERROR(CheckPromptBytes(request->input, options.max_prompt_bytes));
  SPOTD_ASSIGN_OR_RETURN(
      SessionClaim claim,
      registry.Claim({request->session_id, request->tenant, request->etag}, request->request_id));
  SPOTD_ASSIGN_OR_RETURN(const auto answered, Answered(*claim.get(), *request, false));
  if (answered != nullptr) {
    return SubmitQueue::Command([this, answered, on_done = std::move(request->on_done)] {
      AppendResult result = answered->append;
      result.replayed = true;
      on_done(std::move(result));
      unfinished.fetch_sub(1);
    });
  }
  SPOTD_ASSIGN_OR_RETURN(SequenceSetup setup,
                         Prepare(*request, std::move(claim), request->input, false, submitted));
  return std::make_unique<Sequence>(std::move(*request), std::move(setup));
}

absl::Status Engine::Impl::CheckGenerate(const GenerateRequest& request) const {
  SPOTD_RETURN_IF_ERROR(CheckRunning());
  SPOTD_RETURN_IF_ERROR(CheckHead(request));
  SPOTD_RETURN_IF_ERROR(CheckSampling(request.sampling, transformer->config().vocab));
  SPOTD_RETURN_IF_ERROR(CheckReports(request, options.max_running));
  if (request.policy) {
    SPOTD_RETURN_IF_ERROR(CheckPolicy(*request.policy, transformer->has_selector()));
    SPOTD_RETURN_IF_ERROR(CheckPolicyBounds(*request.policy, options.policy_bounds));
  }
  return CheckPromptBytes(request.prompt, options.max_prompt_bytes);
}

absl::StatusOr<SubmitQueue::Item> Engine::Impl::Prepare(GenerateRequest* request) {
  const Clock::time_point submitted = Clock::now();
  SPOTD_RETURN_IF_ERROR(CheckGenerate(*request));
  if (request->session_id.empty()) {
    return PrepareNew(
        request,
        registry.OneShot(request->tenant, request->policy.value_or(options.default_policy)),
        submitted);
  }
  SPOTD_ASSIGN_OR_RETURN(
      SessionClaim claim,
      registry.Claim({request->session_id, request->tenant, request->etag}, request->request_id));
  SPOTD_ASSIGN_OR_RETURN(const auto answered, Answered(*claim.get(), *request, true));
  if (answered == nullptr) return PrepareNew(request, std::move(claim), submitted);
  return SubmitQueue::Command([this, answered, sink = std::move(request->sink)] {
    answered->Replay(sink.get());
    GenerateResult result = answered->generate;
    result.replayed = true;
    sink->OnDone(std::move(result));
    unfinished.fetch_sub(1);
  });
}

absl::StatusOr<SubmitQueue::Item> Engine::Impl::PrepareNew(GenerateRequest* request,
                                                           SessionClaim claim,
                                                           Clock::time_point submitted) {
  SPOTD_ASSIGN_OR_RETURN(SequenceSetup setup,
                         Prepare(*request, std::move(claim), request->prompt, true, submitted));
  GenerationSetup generation = SetupFor(*request, *setup.claim.get());
  return std::make_unique<Sequence>(std::move(*request), std::move(setup), std::move(generation));
}

GenerationSetup Engine::Impl::SetupFor(const GenerateRequest& request,
                                       const Session& session) const {
  GenerationSetup generation;
  generation.policy = request.policy.value_or(session.policy);
  generation.seed = request.sampling.seed ? *request.sampling.seed : RandomSeed();
  generation.stop_tokens = request.sampling.stop_tokens;
  if (!request.sampling.ignore_eos) {
    generation.stop_tokens.insert(generation.stop_tokens.end(), eos_tokens.begin(),
                                  eos_tokens.end());
  }
  generation.max_context = max_context;
  generation.block_tokens = store->layout().block_tokens;
  generation.tokenizer = tokenizer.get();
  generation.special_text = &encoder.special_text();
  if (request.record_selection) {
    generation.record = std::make_shared<SelectionRecord>(record_budget);
  }
  return generation;
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
  store->KeepPrefixes(
      static_cast<int32_t>(options.prefix_cache_share * store->stats().blocks_total));
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
  const absl::Status status = GuardMemory([&]() -> absl::Status {
    SPOTD_ASSIGN_OR_RETURN(SubmitQueue::Item item, Prepare(&request));
    queue.Put(std::move(item));
    return absl::OkStatus();
  });
  if (status.ok()) return;
  queue.Put([this, status, report = std::move(report)] {
    report(status);
    unfinished.fetch_sub(1);
  });
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
  return GuardMemory([&]() -> absl::StatusOr<SessionInfo> {
    SPOTD_RETURN_IF_ERROR(impl_->CheckRunning());
    SPOTD_RETURN_IF_ERROR(CheckSessionOptions(options));
    const model::Policy policy = options.policy.value_or(impl_->options.default_policy);
    SPOTD_RETURN_IF_ERROR(CheckPolicy(policy, has_selector()));
    if (options.policy) {
      SPOTD_RETURN_IF_ERROR(CheckPolicyBounds(policy, impl_->options.policy_bounds));
    }
    return impl_->registry.Create(options, policy);
  });
}

absl::StatusOr<SessionInfo> Engine::GetSession(const SessionRef& ref) {
  return impl_->registry.Get(ref);
}

std::vector<SessionInfo> Engine::ListSessions(const SessionRef& after, int32_t limit) {
  return impl_->registry.List(after, limit);
}

absl::StatusOr<SessionInfo> Engine::UpdateSession(const SessionRef& ref,
                                                  const SessionUpdate& update) {
  return GuardMemory([&]() -> absl::StatusOr<SessionInfo> {
    SessionOptions changed;
    changed.display_name = update.display_name.value_or("");
    SPOTD_RETURN_IF_ERROR(CheckSessionOptions(changed));
    SessionUpdate checked = update;
    if (update.policy) {
      checked.policy = [&](const model::Policy& now) -> absl::StatusOr<model::Policy> {
        SPOTD_ASSIGN_OR_RETURN(const model::Policy policy, update.policy(now));
        SPOTD_RETURN_IF_ERROR(CheckPolicy(policy, has_selector()));
        SPOTD_RETURN_IF_ERROR(CheckPolicyBounds(policy, impl_->options.policy_bounds));
        return policy;
      };
    }
    SPOTD_ASSIGN_OR_RETURN(SessionInfo info, impl_->registry.Update(ref, checked));
    // An idle engine sleeps until the earliest end that it knew of.
    if (update.expiry) impl_->queue.Put([] {});
    return info;
  });
}

absl::Status Engine::DeleteSession(const SessionRef& ref) {
  Completion done;
  SPOTD_RETURN_IF_ERROR(impl_->registry.Remove(ref, [&](std::shared_ptr<Session> session) {
    impl_->queue.Put([this, done, session = std::move(session)] {
      impl_->loop.DropDeleted(session.get());
      done.Notify();
    });
  }));
  done.Wait();
  return absl::OkStatus();
}

absl::StatusOr<SessionInfo> Engine::ForkSession(const SessionRef& ref,
                                                const SessionOptions& options) {
  return GuardMemory([&]() -> absl::StatusOr<SessionInfo> {
    SPOTD_RETURN_IF_ERROR(impl_->CheckRunning());
    SPOTD_RETURN_IF_ERROR(CheckSessionOptions(options));
    if (options.policy) {
      SPOTD_RETURN_IF_ERROR(CheckPolicy(*options.policy, has_selector()));
      SPOTD_RETURN_IF_ERROR(CheckPolicyBounds(*options.policy, impl_->options.policy_bounds));
    }
    SessionOptions own = options;
    own.tenant = ref.tenant;
    Completion done;
    bool posted = false;
    const auto post = [&](std::shared_ptr<Session> from, std::shared_ptr<Session> to) {
      posted = true;
      impl_->queue.Put([this, done, from = std::move(from), to = std::move(to)] {
        impl_->loop.ForkKv(from.get(), to.get());
        done.Notify();
      });
    };
    SPOTD_ASSIGN_OR_RETURN(const std::string fork, impl_->registry.Fork(ref, own, post));
    if (posted) done.Wait();
    return impl_->registry.Get({fork, ref.tenant});
  });
}

absl::StatusOr<SessionInfo> Engine::RewindSession(const SessionRef& ref, int32_t tokens) {
  return GuardMemory([&]() -> absl::StatusOr<SessionInfo> {
    Completion done;
    const auto post = [&](std::shared_ptr<Session> session) {
      impl_->queue.Put([this, done, tokens, session = std::move(session)] {
        impl_->loop.TruncateKv(session.get(), tokens);
        done.Notify();
      });
    };
    SPOTD_RETURN_IF_ERROR(impl_->registry.Rewind(ref, tokens, *impl_->tokenizer, post));
    done.Wait();
    return impl_->registry.Get({ref.id, ref.tenant});
  });
}

absl::StatusOr<std::shared_ptr<const SelectionRecord>> Engine::Selection(const SessionRef& ref) {
  return impl_->registry.Selection(ref);
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
