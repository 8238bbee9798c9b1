#include "tools/spotctl/client.h"

#include <google/protobuf/util/json_util.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "google/rpc/code.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace spotd::spotctl {
namespace {

constexpr int kMaxMessageBytes = 16 << 20;
constexpr int kSignalled = 128;  // and the signal's number, as shells report it

std::mutex interrupt_mutex;
grpc::ClientContext* running_call = nullptr;  // guarded by interrupt_mutex, like all below
std::function<void()> before_the_end;         // null: nothing

google::rpc::Status RichStatus(const grpc::Status& status) {
  google::rpc::Status rich;
  if (status.error_details().empty() || !rich.ParseFromString(status.error_details())) {
    rich.set_code(status.error_code());
    rich.set_message(status.error_message());
  }
  return rich;
}

std::string Reason(const google::rpc::Status& rich) {
  google::rpc::ErrorInfo info;
  for (const auto& detail : rich.details()) {
    if (detail.UnpackTo(&info)) return info.reason();
  }
  return "";
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  return status.ok() ? json : "{}";
}

std::shared_ptr<grpc::ChannelCredentials> Credentials(const ClientOptions& options) {
  if (options.tls_ca.empty()) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({.pem_root_certs = options.tls_ca,
                               .pem_private_key = options.tls_key,
                               .pem_cert_chain = options.tls_cert});
}

}  // namespace

Client::Client(const ClientOptions& options) : options_(options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  channel_ = grpc::CreateCustomChannel(options.address, Credentials(options), arguments);
  sessions_ = v1::SessionService::NewStub(channel_);
  inference_ = v1::InferenceService::NewStub(channel_);
  models_ = v1::ModelService::NewStub(channel_);
}

void Client::Prepare(grpc::ClientContext* context) const {
  if (options_.timeout.has_value()) {
    context->set_deadline(std::chrono::system_clock::now() + *options_.timeout);
  }
  if (!options_.token.empty()) {
    context->AddMetadata("authorization", "Bearer " + options_.token);
  }
}

Client::Context::Context(const Client& client) {
  client.Prepare(&context_);
  std::lock_guard lock(interrupt_mutex);
  running_call = &context_;
}

Client::Context::~Context() {
  std::lock_guard lock(interrupt_mutex);
  running_call = nullptr;
}

int Client::Fail(const grpc::Status& status) const {
  const google::rpc::Status rich = RichStatus(status);
  const std::string& code = google::rpc::Code_Name(static_cast<google::rpc::Code>(rich.code()));
  if (options_.json) {
    std::printf("{\"error\":%s}\n", ToJson(rich).c_str());
    return kRpcError;
  }
  const std::string reason = Reason(rich);
  std::fprintf(stderr, "spotctl: %s: %s%s\n", code.c_str(), rich.message().c_str(),
               reason.empty() ? "" : (" (" + reason + ")").c_str());
  return kRpcError;
}

void PrintJson(const google::protobuf::Message& message) {
  std::printf("%s\n", ToJson(message).c_str());
  std::fflush(stdout);
}

void StartInterruptHandler() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  // Where nohup set it aside it stays so: a blocked signal would come through.
  struct sigaction hangup = {};
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN)
    sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals] {
    for (int signal = 0; sigwait(&signals, &signal) == 0;) {
      std::lock_guard lock(interrupt_mutex);
      if (running_call != nullptr && signal == SIGINT) {
        running_call->TryCancel();
        continue;
      }
      // From here on the system ends spotctl where a signal comes again.
      pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
      if (before_the_end != nullptr) before_the_end();
      std::_Exit(kSignalled + signal);
    }
  }).detach();
}

OnInterrupt::OnInterrupt(std::function<void()> task) {
  std::lock_guard lock(interrupt_mutex);
  before_the_end = std::move(task);
}

OnInterrupt::~OnInterrupt() {
  std::lock_guard lock(interrupt_mutex);
  before_the_end = nullptr;
}

std::string SessionName(const std::string& argument) {
  return argument.rfind("sessions/", 0) == 0 ? argument : "sessions/" + argument;
}

}  // namespace spotd::spotctl
