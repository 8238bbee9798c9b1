#include <cstdio>
#include <string>

#include "grpc/health/v1/health.grpc.pb.h"
#include "tools/spotctl/commands.h"
#include "tools/spotctl/terminal.h"

namespace spotd::spotctl {
namespace {

void ShowModel(const v1::Model& model) {
  std::printf("name        %s\n", model.name().c_str());
  std::printf("model       %s (%s)\n", model.display_name().c_str(), model.architecture().c_str());
  std::printf("geometry    %d layers, hidden %d, %d query heads, %d KV heads of %d\n",
              model.layer_count(), model.hidden_size(), model.query_head_count(),
              model.kv_head_count(), model.head_size());
  std::printf("vocabulary  %d tokens\n", model.vocab_size());
  std::printf("context     %d tokens (trained for %d)\n", model.context_length(),
              model.trained_context_length());
  std::printf("policies   ");
  for (int kind : model.supported_policies()) {
    std::printf(" %s", PolicyName(static_cast<v1::PolicyKind>(kind)).c_str());
  }
  std::printf(" (default %s)\n", PolicyName(model.default_policy().kind()).c_str());
  std::printf("backend     %s\n", model.backend().c_str());
}

int Models(const Client& client, const CommandLine&) {
  v1::ListModelsResponse response;
  Client::Context context(client);
  const grpc::Status status = client.models().ListModels(context.get(), {}, &response);
  if (!status.ok()) return client.Fail(status);
  for (const v1::Model& model : response.models()) {
    if (client.json()) {
      PrintJson(model);
    } else {
      ShowModel(model);
    }
  }
  return kOk;
}

int Tokenize(const Client& client, const CommandLine& line) {
  v1::TokenizeRequest request;
  request.set_text(line.positional()[0]);
  request.set_parse_special(line.Has("parse-special"));
  v1::TokenizeResponse response;
  Client::Context context(client);
  const grpc::Status status = client.models().Tokenize(context.get(), request, &response);
  if (!status.ok()) return client.Fail(status);
  if (client.json()) {
    PrintJson(response);
    return kOk;
  }
  for (int i = 0; i < response.ids_size(); ++i)
    std::printf("%s%d", i == 0 ? "" : " ", response.ids(i));
  std::printf("\n");
  return kOk;
}

int Detokenize(const Client& client, const CommandLine& line) {
  v1::DetokenizeRequest request;
  for (const std::string& text : line.positional()) {
    const absl::StatusOr<int32_t> id = ParseInt<int32_t>(text);
    if (!id.ok()) return UsageError(id.status());
    request.add_ids(*id);
  }
  request.set_keep_special(true);
  v1::DetokenizeResponse response;
  Client::Context context(client);
  const grpc::Status status = client.models().Detokenize(context.get(), request, &response);
  if (!status.ok()) return client.Fail(status);
  if (client.json()) {
    PrintJson(response);
  } else {
    std::printf("%s\n", response.text().c_str());
  }
  return kOk;
}

int Health(const Client& client, const CommandLine& line) {
  grpc::health::v1::HealthCheckRequest request;
  if (!line.positional().empty()) request.set_service(line.positional()[0]);
  grpc::health::v1::HealthCheckResponse response;
  Client::Context context(client);
  const auto stub = grpc::health::v1::Health::NewStub(client.channel());
  const grpc::Status status = stub->Check(context.get(), request, &response);
  if (!status.ok()) return client.Fail(status);
  if (client.json()) {
    PrintJson(response);
  } else {
    using Response = grpc::health::v1::HealthCheckResponse;
    std::printf("%s\n", Response::ServingStatus_Name(response.status()).c_str());
  }
  return response.status() == grpc::health::v1::HealthCheckResponse::SERVING ? kOk : kRpcError;
}

}  // namespace

std::vector<Command> ModelCommands() {
  return {
      {"models", "", "Show the model that is served", 0, 0, {}, &Models},
      {"tokenize",
       "TEXT",
       "Convert text to token ids",
       1,
       1,
       {{"parse-special", nullptr, "control tokens in the text become their ids"}},
       &Tokenize},
      {"detokenize", "ID ...", "Convert token ids to text", 1, 1 << 20, {}, &Detokenize},
      {"health", "[SERVICE]", "Check health; exit code 0 means SERVING", 0, 1, {}, &Health},
  };
}

}  // namespace spotd::spotctl
