#include "tools/spotctl/generation.h"

#include <cstdio>

#include "tools/spotctl/terminal.h"

namespace spotd::spotctl {
namespace {

// A prompt shorter than this is computed before a bar could be read.
constexpr int kBarFromTokens = 1024;

}  // namespace

GenerationOutcome StreamGeneration(const Client& client, const v1::GenerateRequest& request) {
  Client::Context context(client);
  const auto stream = client.inference().Generate(context.get(), request);
  ProgressBar bar("Reading the prompt");
  bool bar_shown = false;
  v1::GenerateResponse response;
  v1::GenerateResult result;
  while (stream->Read(&response)) {
    if (client.json()) {
      PrintJson(response);
    } else if (response.has_prefill() && response.prefill().total_tokens() >= kBarFromTokens) {
      bar_shown = true;
      bar.Update(response.prefill().done_tokens(), response.prefill().total_tokens());
    } else if (response.has_delta()) {
      if (std::exchange(bar_shown, false)) bar.Finish();
      std::fwrite(response.delta().text().data(), 1, response.delta().text().size(), stdout);
      std::fflush(stdout);
    } else if (response.has_result()) {
      result = response.result();
    }
  }
  const grpc::Status status = stream->Finish();
  if (!client.json()) {
    std::printf("\n");
    std::fflush(stdout);
  }
  if (status.error_code() == grpc::StatusCode::CANCELLED && status.error_details().empty()) {
    std::fprintf(stderr, "  stopped\n");  // by Ctrl-C: the server's own reasons carry details
    return {kRpcError, true};
  }
  if (!status.ok()) return {client.Fail(status), false};
  if (!client.json()) PrintAccount(result);
  return {};
}

}  // namespace spotd::spotctl
