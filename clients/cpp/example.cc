// Reads a document into a session, asks about it, and shows what the answer cost.
//
//   spotd-example [--address HOST:PORT] [--tls-ca FILE] [--max-tokens N] DOCUMENT QUESTION
//
// The bearer token, where the server wants one, is in SPOTD_TOKEN.
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "spotd/v1/inference.grpc.pb.h"
#include "spotd/v1/sessions.grpc.pb.h"

namespace {

namespace v1 = spotd::v1;

constexpr size_t kChunkBytes = 256 * 1024;
constexpr int kMaxMessageBytes = 16 << 20;

// The file's content, or nothing, with a word on stderr.
std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (file && file.peek() != EOF) content << file.rdbuf();
  if (!file.bad() && file.is_open()) return content.str();
  std::fprintf(stderr, "cannot read %s\n", path.c_str());
  return std::nullopt;
}

std::shared_ptr<grpc::Channel> Connect(const std::string& address, bool tls,
                                       const std::string& authorities) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // Pings keep proxies from closing the connection during a long prefill; one every 10 s is
  // permitted.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  const auto credentials =
      tls ? grpc::SslCredentials(
                {.pem_root_certs = authorities, .pem_private_key = "", .pem_cert_chain = ""})
          : grpc::InsecureChannelCredentials();
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

void Authorize(grpc::ClientContext* context) {
  const char* token = std::getenv("SPOTD_TOKEN");
  if (token != nullptr) context->AddMetadata("authorization", std::string("Bearer ") + token);
}

// Code, message and the machine-readable reason ("SESSION_NOT_FOUND").
std::string Explain(const grpc::Status& status) {
  std::string text = status.error_message();
  google::rpc::Status rich;
  google::rpc::ErrorInfo info;
  rich.ParseFromString(status.error_details());
  for (const auto& detail : rich.details()) {
    if (detail.UnpackTo(&info)) text += " (" + info.reason() + ")";
  }
  return text;
}

class Example {
 public:
  explicit Example(const std::shared_ptr<grpc::Channel>& channel)
      : sessions_(v1::SessionService::NewStub(channel)),
        inference_(v1::InferenceService::NewStub(channel)) {}

  grpc::Status CreateSession(std::string* name) {
    grpc::ClientContext context;
    Authorize(&context);
    v1::Session session;
    const grpc::Status status = sessions_->CreateSession(&context, {}, &session);
    *name = session.name();
    return status;
  }

  // Streams the document in chunks that may be cut anywhere; half-closing makes it count.
  grpc::Status Append(const std::string& session, const std::string& document) {
    grpc::ClientContext context;
    Authorize(&context);
    const auto stream = inference_->Append(&context);
    v1::AppendRequest request;
    request.set_session(session);
    bool open = stream->Write(request);
    for (size_t at = 0; open && at < document.size(); at += kChunkBytes) {
      request.Clear();
      request.add_input()->set_text_chunk(document.substr(at, kChunkBytes));
      open = stream->Write(request);
    }
    stream->WritesDone();
    for (v1::AppendResponse response; stream->Read(&response);) {
      if (response.has_prefill()) {
        std::fprintf(stderr, "\rread %d of %d tokens", response.prefill().done_tokens(),
                     response.prefill().total_tokens());
      }
    }
    std::fprintf(stderr, "\n");
    return stream->Finish();
  }

  // Prints the answer as it arrives. The last message holds the account.
  grpc::Status Generate(const std::string& session, const std::string& question, int max_tokens) {
    v1::GenerateRequest request;
    request.set_session(session);
    v1::ChatMessage* message = request.add_prompt()->mutable_messages()->add_messages();
    message->set_role("user");
    message->set_content(question);
    request.mutable_sampling()->set_max_tokens(max_tokens);
    grpc::ClientContext context;
    Authorize(&context);
    const auto stream = inference_->Generate(&context, request);
    v1::GenerateResult result;
    for (v1::GenerateResponse response; stream->Read(&response);) {
      std::printf("%s", response.delta().text().c_str());
      std::fflush(stdout);
      if (response.has_result()) result = response.result();
    }
    std::printf("\n");
    const grpc::Status status = stream->Finish();
    if (status.ok()) {
      std::fprintf(stderr,
                   "%d tokens; context %d tokens, %d of them from the session; density %.1f%%\n",
                   result.usage().generated_tokens(), result.usage().prompt_tokens(),
                   result.usage().session_tokens(), 100 * result.sparsity().density());
    }
    return status;
  }

  void DeleteSession(const std::string& session) {
    grpc::ClientContext context;
    Authorize(&context);
    v1::DeleteSessionRequest request;
    request.set_name(session);
    google::protobuf::Empty empty;
    sessions_->DeleteSession(&context, request, &empty);
  }

 private:
  std::unique_ptr<v1::SessionService::Stub> sessions_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
};

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, std::string> options = {
      {"--address", "127.0.0.1:50051"}, {"--tls-ca", ""}, {"--max-tokens", "64"}};
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    const auto option = options.find(argv[i]);
    if (option != options.end() && i + 1 < argc) {
      option->second = argv[++i];
    } else {
      arguments.emplace_back(argv[i]);
    }
  }
  if (arguments.size() != 2) {
    std::fprintf(stderr, "usage: spotd-example [options] DOCUMENT QUESTION\n");
    return 2;
  }
  const bool tls = !options["--tls-ca"].empty();
  const auto authorities = tls ? ReadFile(options["--tls-ca"]) : std::string();
  const auto document = ReadFile(arguments[0]);
  if (!authorities || !document) return 1;
  Example example(Connect(options["--address"], tls, *authorities));
  std::string session;
  grpc::Status status = example.CreateSession(&session);
  if (status.ok()) status = example.Append(session, *document);
  if (status.ok()) {
    status = example.Generate(session, arguments[1], std::atoi(options["--max-tokens"].c_str()));
  }
  if (!session.empty()) example.DeleteSession(session);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", Explain(status).c_str());
  return 1;
}
