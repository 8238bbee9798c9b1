// A connection to spotd and the way results and errors of its calls are shown.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "google/protobuf/message.h"
#include "spotd/v1/inference.grpc.pb.h"
#include "spotd/v1/models.grpc.pb.h"
#include "spotd/v1/sessions.grpc.pb.h"

namespace spotd::spotctl {

// Exit codes.
inline constexpr int kOk = 0;
inline constexpr int kRpcError = 1;
inline constexpr int kUsageError = 2;

struct ClientOptions {
  std::string address;
  bool json = false;
  std::string tls_ca;    // PEM; empty: plaintext
  std::string tls_cert;  // PEM; empty: none is shown
  std::string tls_key;
  std::string token;                                 // bearer token; empty: none is sent
  std::optional<std::chrono::milliseconds> timeout;  // of each call
};

class Client {
 public:
  explicit Client(const ClientOptions& options);

  v1::SessionService::Stub& sessions() const { return *sessions_; }
  v1::InferenceService::Stub& inference() const { return *inference_; }
  v1::ModelService::Stub& models() const { return *models_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  bool json() const { return options_.json; }

  // Gives a new context the client's timeout and token.
  void Prepare(grpc::ClientContext* context) const;

  // A context as Prepare makes it. While it lives, Ctrl-C cancels it instead of
  // ending spotctl.
  class Context {
   public:
    explicit Context(const Client& client);
    ~Context();
    grpc::ClientContext* get() { return &context_; }

   private:
    grpc::ClientContext context_;
  };

  // Shows why a call failed, on stderr or as one JSON object on stdout; kRpcError.
  int Fail(const grpc::Status& status) const;

 private:
  ClientOptions options_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::SessionService::Stub> sessions_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::ModelService::Stub> models_;
};

// One JSON object on one line of stdout, with the proto's field names; fields at zero are shown.
void PrintJson(const google::protobuf::Message& message);

// Starts the thread that turns Ctrl-C into cancellation of the running call, or where none runs
// ends spotctl, as SIGTERM and a hangup do in any case. Once, before any other thread.
void StartInterruptHandler();

// While this lives, spotctl does `task` before such a signal ends it; a second ends it at once. The
// task is done on a thread where anything may be called, but must use no Client::Context: no call
// can begin meanwhile. One at a time.
class OnInterrupt {
 public:
  explicit OnInterrupt(std::function<void()> task);
  ~OnInterrupt();
  OnInterrupt(const OnInterrupt&) = delete;
  OnInterrupt& operator=(const OnInterrupt&) = delete;
};

// "abc" or "sessions/abc" -> "sessions/abc".
std::string SessionName(const std::string& argument);

}  // namespace spotd::spotctl
