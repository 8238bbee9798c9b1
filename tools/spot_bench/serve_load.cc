#include "tools/spot_bench/serve_load.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#include "google/rpc/code.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "kernels/core/status.h"
#include "spotd/v1/inference.grpc.pb.h"
#include "spotd/v1/models.grpc.pb.h"

namespace spotd::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxMessageBytes = 16 << 20;
// A user of the closed loop who was refused comes back after this long, as a person would.
constexpr double kBackoffSeconds = 0.1;

std::string OutcomeOf(const grpc::Status& status) {
  if (status.ok()) return "OK";
  std::string outcome = google::rpc::Code_Name(static_cast<google::rpc::Code>(status.error_code()));
  google::rpc::Status rich;
  google::rpc::ErrorInfo info;
  rich.ParseFromString(status.error_details());
  for (const auto& detail : rich.details()) {
    if (detail.UnpackTo(&info)) outcome += " " + info.reason();
  }
  return outcome;
}

std::shared_ptr<grpc::Channel> Connect(const LoadOptions& options, int index) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt("spotd.bench.connection", index);  // else gRPC shares one connection
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto credentials =
      options.tls_ca.empty()
          ? grpc::InsecureChannelCredentials()
          : grpc::SslCredentials(
                {.pem_root_certs = options.tls_ca, .pem_private_key = "", .pem_cert_chain = ""});
  return grpc::CreateCustomChannel(options.address, credentials, arguments);
}

void Authorize(const LoadOptions& options, grpc::ClientContext* context) {
  if (!options.token.empty()) context->AddMetadata("authorization", "Bearer " + options.token);
}

absl::StatusOr<v1::PolicyKind> PolicyKindOf(const std::string& name) {
  std::string value = "POLICY_KIND_";
  for (char c : name) value += static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  if (value == "POLICY_KIND_TOPK") value = "POLICY_KIND_TOP_K";
  v1::PolicyKind kind = v1::POLICY_KIND_UNSPECIFIED;
  if (!v1::PolicyKind_Parse(value, &kind)) return InvalidArgument("--policy: unknown ", name);
  return kind;
}

class Load;

// One request; owns itself until gRPC is done with it.
class Stream final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Stream(Load* load, v1::GenerateRequest request, double due);
  void Start(v1::InferenceService::Stub* stub);
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  Load* load_;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateResponse response_;
  RequestRecord record_;
  double last_token_ = 0;
};

class Load {
 public:
  Load(const LoadOptions& options, int32_t vocab, v1::PolicyKind policy)
      : options_(options), vocab_(vocab), policy_(policy), random_(options.seed) {
    for (const RequestShape& shape : options.mix) weights_.push_back(shape.weight);
    for (int i = 0; i < options.connections; ++i) {
      stubs_.push_back(v1::InferenceService::NewStub(Connect(options, i)));
    }
  }

  LoadResult Run() {
    std::thread health([this] { ProbeHealth(); });
    if (options_.rate > 0) {
      RunOpen();
    } else {
      RunClosed();
    }
    result_.seconds = Now();
    {
      std::unique_lock lock(mutex_);
      accepting_ = false;
      if (!idle_.wait_for(lock, options_.grace, [this] { return running_.empty(); })) {
        for (Stream* stream : running_) stream->Cancel();
        idle_.wait(lock, [this] { return running_.empty(); });
      }
    }
    probing_.store(false);
    health.join();
    return std::move(result_);
  }

  double Now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  const LoadOptions& options() const { return options_; }

  // A closed loop starts the next request where one ended well.
  void Ended(Stream* stream, RequestRecord record) {
    std::unique_ptr<Stream> next;
    {
      std::lock_guard lock(mutex_);
      const bool refused = record.outcome != "OK";
      result_.requests.push_back(std::move(record));
      if (accepting_ && options_.rate == 0) {
        if (refused) {
          returns_.push_back(Now() + kBackoffSeconds);
        } else {
          next = NewStream(Now());
        }
      }
      running_.erase(stream);
      if (next != nullptr) running_.insert(next.get());
      if (running_.empty()) idle_.notify_all();
    }
    if (next != nullptr) next.release()->Start(NextStub());
  }

 private:
  void RunOpen() {
    std::exponential_distribution<double> gap(options_.rate);
    const double end = std::chrono::duration<double>(options_.duration).count();
    for (double due = gap(random_); due < end;) {
      std::this_thread::sleep_until(
          start_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(due)));
      Launch(due);
      std::lock_guard lock(mutex_);
      due += gap(random_);
    }
    std::this_thread::sleep_until(start_ + options_.duration);
  }

  void RunClosed() {
    for (int i = 0; i < options_.concurrency; ++i) Launch(Now());
    constexpr auto kTick = std::chrono::milliseconds(10);
    for (auto now = Clock::now(); now < start_ + options_.duration; now = Clock::now()) {
      for (int count = TakeReturns(); count > 0; --count) Launch(Now());
      std::this_thread::sleep_until(std::min(now + kTick, start_ + options_.duration));
    }
  }

  // How many refused users are back.
  int TakeReturns() {
    std::lock_guard lock(mutex_);
    int count = 0;
    for (; !returns_.empty() && returns_.front() <= Now(); ++count) returns_.pop_front();
    return count;
  }

  void Launch(double due) {
    std::unique_ptr<Stream> stream;
    {
      std::lock_guard lock(mutex_);
      stream = NewStream(due);
      running_.insert(stream.get());
      result_.peak_streams = std::max(result_.peak_streams, static_cast<int32_t>(running_.size()));
    }
    stream.release()->Start(NextStub());
  }

  // mutex_ held.
  std::unique_ptr<Stream> NewStream(double due) {
    std::discrete_distribution<size_t> pick(weights_.begin(), weights_.end());
    const RequestShape& shape = options_.mix[pick(random_)];
    v1::GenerateRequest request;
    v1::TokenList* tokens = request.add_prompt()->mutable_tokens();
    std::uniform_int_distribution<int32_t> id(0, vocab_ - 1);
    for (int i = 0; i < shape.prompt_tokens; ++i) tokens->add_ids(id(random_));
    request.mutable_sampling()->set_max_tokens(shape.output_tokens);
    request.mutable_sampling()->set_ignore_eos(true);
    if (policy_ != v1::POLICY_KIND_UNSPECIFIED) request.mutable_policy()->set_kind(policy_);
    return std::make_unique<Stream>(this, std::move(request), due);
  }

  v1::InferenceService::Stub* NextStub() {
    return stubs_[next_stub_.fetch_add(1) % stubs_.size()].get();
  }

  void ProbeHealth() {
    if (options_.health_interval.count() == 0) return;
    const auto stub = grpc::health::v1::Health::NewStub(Connect(options_, options_.connections));
    while (probing_.load()) {
      grpc::ClientContext context;
      Authorize(options_, &context);
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
      grpc::health::v1::HealthCheckResponse response;
      const auto begin = Clock::now();
      const bool ok = stub->Check(&context, {}, &response).ok() &&
                      response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
      if (ok) {
        result_.health_seconds.push_back(
            std::chrono::duration<double>(Clock::now() - begin).count());
      } else {
        ++result_.health_failures;
      }
      std::this_thread::sleep_until(begin + options_.health_interval);
    }
  }

  const LoadOptions options_;
  const int32_t vocab_;
  const v1::PolicyKind policy_;
  const Clock::time_point start_ = Clock::now();
  std::vector<double> weights_;
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs_;
  std::atomic<size_t> next_stub_{0};
  std::atomic<bool> probing_{true};
  std::mutex mutex_;
  std::condition_variable idle_;
  std::mt19937_64 random_;      // guarded by mutex_ once requests run
  std::set<Stream*> running_;   // guarded by mutex_
  std::deque<double> returns_;  // when refused users come back; guarded by mutex_
  bool accepting_ = true;       // guarded by mutex_
  LoadResult result_;           // requests and peak guarded by mutex_; health is the prober's
};

Stream::Stream(Load* load, v1::GenerateRequest request, double due)
    : load_(load), request_(std::move(request)) {
  record_.due = due;
  record_.prompt_tokens = request_.prompt(0).tokens().ids_size();
}

void Stream::Start(v1::InferenceService::Stub* stub) {
  Authorize(load_->options(), &context_);
  if (load_->options().deadline.count() > 0) {
    context_.set_deadline(std::chrono::system_clock::now() + load_->options().deadline);
  }
  stub->async()->Generate(&context_, &request_, this);
  StartRead(&response_);
  StartCall();
}

void Stream::OnReadDone(bool ok) {
  if (!ok) return;
  const int32_t tokens = response_.delta().token_ids_size();
  if (tokens > 0) {
    const double now = load_->Now();
    if (record_.tokens == 0) {
      record_.first_token = now;
      record_.gaps.assign(static_cast<size_t>(tokens - 1), 0.0f);
    } else {
      record_.gaps.insert(record_.gaps.end(), static_cast<size_t>(tokens),
                          static_cast<float>((now - last_token_) / tokens));
    }
    record_.tokens += tokens;
    last_token_ = now;
  }
  StartRead(&response_);
}

void Stream::OnDone(const grpc::Status& status) {
  record_.end = load_->Now();
  record_.outcome = OutcomeOf(status);
  load_->Ended(this, std::move(record_));
  delete this;
}

}  // namespace

absl::StatusOr<std::vector<RequestShape>> ParseMix(const std::string& text) {
  std::vector<RequestShape> mix;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    RequestShape shape;
    char slash = 0, at = '@';
    std::istringstream fields(part);
    fields >> shape.prompt_tokens >> slash >> shape.output_tokens;
    const bool whole =
        !fields.fail() && (fields.eof() || (fields >> at >> shape.weight && fields.eof()));
    if (!whole || slash != '/' || at != '@' || shape.prompt_tokens < 1 || shape.output_tokens < 1 ||
        !(shape.weight > 0)) {
      return InvalidArgument("--mix: \"", part, "\" is not PROMPT/OUTPUT or PROMPT/OUTPUT@WEIGHT");
    }
    mix.push_back(shape);
  }
  if (mix.empty()) return InvalidArgument("--mix is empty");
  return mix;
}

absl::StatusOr<LoadResult> RunLoad(const LoadOptions& options) {
  v1::PolicyKind policy = v1::POLICY_KIND_UNSPECIFIED;
  if (!options.policy.empty()) {
    SPOTD_ASSIGN_OR_RETURN(policy, PolicyKindOf(options.policy));
  }
  const auto models = v1::ModelService::NewStub(Connect(options, 0));
  grpc::ClientContext context;
  Authorize(options, &context);
  v1::ListModelsResponse response;
  const grpc::Status status = models->ListModels(&context, {}, &response);
  if (!status.ok() || response.models().empty()) {
    return absl::UnavailableError(
        Concat(options.address, ": ", OutcomeOf(status), ": ", status.error_message()));
  }
  return Load(options, response.models(0).vocab_size(), policy).Run();
}

}  // namespace spotd::bench
