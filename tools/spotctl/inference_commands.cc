#include <cstdio>

#include "kernels/core/status.h"
#include "tools/spotctl/commands.h"
#include "tools/spotctl/generate_options.h"
#include "tools/spotctl/generation.h"
#include "tools/spotctl/terminal.h"

namespace spotd::spotctl {
namespace {

constexpr size_t kChunkBytes = 256 << 10;

// Sends a long text in chunks; anything else in one piece. False when the server has ended the
// call.
bool SendInput(const std::string& session, const v1::Input& input,
               grpc::ClientReaderWriter<v1::AppendRequest, v1::AppendResponse>* stream) {
  v1::AppendRequest request;
  request.set_session(session);
  if (!input.has_text_chunk()) {
    *request.add_input() = input;
    return stream->Write(request);
  }
  const std::string& text = input.text_chunk();
  for (size_t offset = 0; offset < text.size() || offset == 0; offset += kChunkBytes) {
    request.clear_input();
    request.add_input()->set_text_chunk(text.substr(offset, kChunkBytes));
    if (!stream->Write(request)) return false;
    request.clear_session();
  }
  return true;
}

int Append(const Client& client, const CommandLine& line) {
  const absl::StatusOr<v1::Input> input = ReadInput(line);
  if (!input.ok()) return UsageError(input.status());
  Client::Context context(client);
  const auto stream = client.inference().Append(context.get());
  if (SendInput(SessionName(line.positional()[0]), *input, stream.get())) stream->WritesDone();

  ProgressBar bar("Appending");
  v1::AppendResponse response;
  v1::AppendResult result;
  while (stream->Read(&response)) {
    if (client.json()) PrintJson(response);
    if (response.has_result()) result = response.result();
    if (response.has_prefill() && !client.json()) {
      bar.Update(response.prefill().done_tokens(), response.prefill().total_tokens());
    }
  }
  const grpc::Status status = stream->Finish();
  if (!client.json()) bar.Finish();
  if (!status.ok()) return client.Fail(status);
  if (!client.json()) {
    std::fprintf(stderr, "appended %d tokens; the session has %d\n", result.appended_tokens(),
                 result.session_token_count());
  }
  return kOk;
}

// What Generate and Complete have in common.
template <typename Request>
absl::Status FillRequest(const CommandLine& line, Request* request) {
  SPOTD_RETURN_IF_ERROR(FillSampling(line, request->mutable_sampling()));
  SPOTD_RETURN_IF_ERROR(FillPolicy(line, [request] { return request->mutable_policy(); }));
  SPOTD_ASSIGN_OR_RETURN(const std::optional<int32_t> blocks, line.GetInt<int32_t>("top-blocks"));
  if (blocks.has_value()) request->set_top_blocks(*blocks);
  return absl::OkStatus();
}

bool HasInput(const CommandLine& line) {
  return line.Has("text") || line.Has("message") || line.Has("file");
}

absl::StatusOr<v1::GenerateRequest> GenerateRequestOf(const CommandLine& line) {
  v1::GenerateRequest request;
  if (!line.positional().empty()) request.set_session(SessionName(line.positional()[0]));
  if (HasInput(line) || request.session().empty()) {
    SPOTD_ASSIGN_OR_RETURN(*request.add_prompt(), ReadInput(line));
  }
  if (line.Has("record-trace")) request.set_record_trace(true);
  SPOTD_RETURN_IF_ERROR(FillRequest(line, &request));
  return request;
}

int Generate(const Client& client, const CommandLine& line) {
  const absl::StatusOr<v1::GenerateRequest> request = GenerateRequestOf(line);
  if (!request.ok()) return UsageError(request.status());
  return StreamGeneration(client, *request).exit_code;
}

int Complete(const Client& client, const CommandLine& line) {
  v1::CompleteRequest request;
  const absl::StatusOr<v1::Input> input = ReadInput(line);
  absl::Status status = input.status();
  if (status.ok()) {
    *request.add_prompt() = *input;
    status = FillRequest(line, &request);
  }
  if (!status.ok()) return UsageError(status);
  v1::CompleteResponse response;
  Client::Context context(client);
  const grpc::Status rpc = client.inference().Complete(context.get(), request, &response);
  if (!rpc.ok()) return client.Fail(rpc);
  if (client.json()) {
    PrintJson(response);
    return kOk;
  }
  std::printf("%s\n", response.completion().text().c_str());
  std::fflush(stdout);
  PrintAccount(response.result());
  return kOk;
}

std::vector<OptionSpec> GenerationOptions() {
  std::vector<OptionSpec> options = InputOptions();
  for (const auto& group : {SamplingOptions(), PolicyOptions()}) {
    options.insert(options.end(), group.begin(), group.end());
  }
  options.push_back({"top-blocks", "N", "report the N blocks that were read most"});
  return options;
}

std::vector<OptionSpec> GenerateOptions() {
  std::vector<OptionSpec> options = GenerationOptions();
  options.push_back({"record-trace", nullptr, "keep what each token reads, for spotctl trace"});
  return options;
}

}  // namespace

std::vector<Command> InferenceCommands() {
  return {
      {"append", "SESSION", "Append text or a message to a session", 1, 1, InputOptions(), &Append},
      {"generate", "[SESSION]", "Generate and stream, from a session or in one shot", 0, 1,
       GenerateOptions(), &Generate},
      {"complete", "", "Complete a prompt in one shot, without streaming", 0, 0,
       GenerationOptions(), &Complete},
  };
}

}  // namespace spotd::spotctl
