// What serving adds to the engine: the same requests (same tokens, greedy, one batch) given to one
// engine directly and over gRPC on a loopback port, in turns, in one process, after one round of
// each to warm up. What is added is the median of the differences between neighbouring rounds, so
// that a machine that becomes slower does not count. The clients share the machine's cores with the
// engine, so the figures are an upper bound of the server's own cost.
//
//   serving_cost MODEL [SEQUENCES [PROMPT [OUTPUT [ROUNDS [OPTION...]]]]]
//
// OPTIONs are spotd's (--threads=1).
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "kernels/core/check.h"
#include "server/config.h"
#include "server/grpc_server.h"
#include "server/log.h"
#include "server/model_loader.h"
#include "spotd/v1/inference.grpc.pb.h"

namespace spotd {
namespace {

using Clock = std::chrono::steady_clock;

struct Shape {
  int sequences = 8;
  int prompt = 256;
  int output = 128;
};

// What one round saw.
struct Round {
  double seconds = 0;
  std::vector<double> gaps;  // between neighbouring tokens of a sequence
};

// Counts requests down; the round is over at zero.
class Finish {
 public:
  explicit Finish(int count) : left_(count) {}
  void One() {
    std::lock_guard lock(mutex_);
    if (--left_ == 0) done_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  int left_;
};

// When the tokens of one sequence arrived.
struct Arrivals {
  void Add(int tokens) {
    const Clock::time_point now = Clock::now();
    if (seen) {
      const double gap = std::chrono::duration<double>(now - last).count() / tokens;
      gaps.insert(gaps.end(), static_cast<size_t>(tokens), gap);
    }
    seen = true;
    last = now;
  }

  bool seen = false;
  Clock::time_point last;
  std::vector<double> gaps;
};

std::vector<int32_t> Prompt(const Shape& shape, int sequence) {
  std::vector<int32_t> ids;
  for (int i = 0; i < shape.prompt; ++i) ids.push_back(1 + (i * 31 + sequence * 17) % 200);
  return ids;
}

class Sink final : public engine::TokenSink {
 public:
  explicit Sink(Finish* finish) : finish_(finish) {}
  void OnPrefill(int32_t /*done*/, int32_t /*total*/) override {}
  void OnToken(const engine::TokenEvent& /*event*/) override { arrivals.Add(1); }
  bool Ready() override { return true; }
  void OnDone(absl::StatusOr<engine::GenerateResult> result) override {
    SPOTD_CHECK(result.ok());
    finish_->One();
  }

  Arrivals arrivals;

 private:
  Finish* finish_;
};

Round RunDirect(engine::Engine* engine, const Shape& shape) {
  Finish finish(shape.sequences);
  std::vector<std::shared_ptr<Sink>> sinks;
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < shape.sequences; ++i) {
    sinks.push_back(std::make_shared<Sink>(&finish));
    engine::GenerateRequest request;
    request.prompt.push_back(Prompt(shape, i));
    request.sampling.max_tokens = shape.output;
    request.sampling.ignore_eos = true;
    request.cancel = std::make_shared<engine::CancelToken>();
    request.sink = sinks.back();
    engine->Generate(std::move(request));
  }
  finish.Wait();
  Round round;
  round.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  for (const auto& sink : sinks) {
    round.gaps.insert(round.gaps.end(), sink->arrivals.gaps.begin(), sink->arrivals.gaps.end());
  }
  return round;
}

class Reader final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Reader(v1::InferenceService::Stub* stub, const Shape& shape, int sequence, Finish* finish)
      : finish_(finish) {
    const std::vector<int32_t> ids = Prompt(shape, sequence);
    request_.add_prompt()->mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
    request_.mutable_sampling()->set_max_tokens(shape.output);
    request_.mutable_sampling()->set_ignore_eos(true);
    stub->async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.delta().token_ids_size() > 0) arrivals.Add(response_.delta().token_ids_size());
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    SPOTD_CHECK(status.ok());
    finish_->One();
  }

  Arrivals arrivals;

 private:
  Finish* finish_;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateResponse response_;
};

Round RunServed(v1::InferenceService::Stub* stub, const Shape& shape) {
  Finish finish(shape.sequences);
  std::vector<std::unique_ptr<Reader>> readers;
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < shape.sequences; ++i) {
    readers.push_back(std::make_unique<Reader>(stub, shape, i, &finish));
  }
  finish.Wait();
  Round round;
  round.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  for (const auto& reader : readers) {
    round.gaps.insert(round.gaps.end(), reader->arrivals.gaps.begin(), reader->arrivals.gaps.end());
  }
  return round;
}

double Quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

// Of one round, or of what one round adds to another.
struct Summary {
  double tokens_per_second = 0;
  double p50 = 0;  // between tokens, in milliseconds
  double p99 = 0;
};

Summary Summarize(const Shape& shape, const Round& round) {
  return {shape.sequences * shape.output / round.seconds, 1e3 * Quantile(round.gaps, 0.5),
          1e3 * Quantile(round.gaps, 0.99)};
}

double MedianOf(const std::vector<Summary>& rounds, double Summary::*member) {
  std::vector<double> values;
  for (const Summary& round : rounds) values.push_back(round.*member);
  return Quantile(std::move(values), 0.5);
}

void Print(const char* name, const std::vector<Summary>& rounds) {
  std::printf("%-8s %9.1f tokens/s   between tokens: p50 %.3f ms, p99 %.3f ms\n", name,
              MedianOf(rounds, &Summary::tokens_per_second), MedianOf(rounds, &Summary::p50),
              MedianOf(rounds, &Summary::p99));
}

void PrintAdded(const std::vector<Summary>& direct, const std::vector<Summary>& served) {
  std::vector<Summary> added;
  for (size_t i = 0; i < direct.size(); ++i) {
    added.push_back({100 * (served[i].tokens_per_second / direct[i].tokens_per_second - 1),
                     served[i].p50 - direct[i].p50, served[i].p99 - direct[i].p99});
  }
  std::printf("%-8s %+9.2f %%          between tokens: p50 %+.3f ms, p99 %+.3f ms\n", "added",
              MedianOf(added, &Summary::tokens_per_second), MedianOf(added, &Summary::p50),
              MedianOf(added, &Summary::p99));
}

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (!value.ok()) std::cerr << value.status() << std::endl;
  SPOTD_CHECK(value.ok());
  return *std::move(value);
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr,
                 "usage: serving_cost MODEL [SEQUENCES [PROMPT [OUTPUT [ROUNDS [OPTION...]]]]]\n");
    return 2;
  }
  const auto number = [&](int index, int otherwise) {
    return argc > index ? std::atoi(argv[index]) : otherwise;
  };
  const Shape shape = {number(2, 8), number(3, 256), number(4, 128)};
  const int count = number(5, 7);
  server::ConfigureLog(server::LogFormat::kText, server::LogLevel::kWarning);
  const std::string model = std::string("--model=") + argv[1];
  std::vector<const char*> flags = {model.c_str()};
  for (int i = 6; i < argc; ++i) flags.push_back(argv[i]);
  const server::ServerConfig config =
      ValueOrDie(server::ParseConfig(flags, [](const char*) -> const char* { return nullptr; }));
  const auto engine =
      ValueOrDie(server::LoadEngine(config, ValueOrDie(config.DefaultPolicy(false))));
  server::RpcMetrics metrics;
  server::RunningCalls calls;
  server::CallExecutor workers(4, 1024), writers(1, SIZE_MAX);
  server::ServiceContext context;
  context.calls = &calls;
  context.engine = engine.get();
  context.workers = &workers;
  context.writers = &writers;
  context.metrics = &metrics;
  const auto server = ValueOrDie(server::GrpcServer::Start({.listen = "127.0.0.1:0"}, context));
  const auto stub = v1::InferenceService::NewStub(grpc::CreateChannel(
      "127.0.0.1:" + std::to_string(server->port()), grpc::InsecureChannelCredentials()));

  RunDirect(engine.get(), shape);
  RunServed(stub.get(), shape);
  std::vector<Summary> direct, served;
  for (int i = 0; i < count; ++i) {
    direct.push_back(Summarize(shape, RunDirect(engine.get(), shape)));
    served.push_back(Summarize(shape, RunServed(stub.get(), shape)));
  }
  std::printf("%d sequences, %d prompt tokens, %d generated; medians of %d rounds\n",
              shape.sequences, shape.prompt, shape.output, count);
  Print("engine", direct);
  Print("served", served);
  PrintAdded(direct, served);
  return 0;
}

}  // namespace
}  // namespace spotd

int main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return spotd::Main(argc, argv);
}
