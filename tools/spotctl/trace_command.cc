#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "kernels/core/read_file.h"
#include "kernels/core/status.h"
#include "tools/spotctl/commands.h"
#include "tools/spotctl/trace_data.h"
#include "tools/spotctl/trace_page.h"
#include "tools/spotctl/trace_view.h"

namespace spotd::spotctl {
namespace {

constexpr int kMaxRows = 48;
constexpr int kDefaultWidth = 100;

int TerminalWidth() {
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kDefaultWidth;
  return size.ws_col;
}

grpc::Status ReadTrace(const Client& client, const std::string& session, TraceData* trace) {
  v1::TraceRequest request;
  request.set_session(session);
  Client::Context context(client);
  const auto stream = client.inference().Trace(context.get(), request);
  for (v1::TraceResponse response; stream->Read(&response);) {
    if (client.json()) PrintJson(response);
    if (response.has_header()) trace->Add(response.header());
    if (response.has_step()) trace->Add(response.step());
  }
  return stream->Finish();
}

grpc::Status Detokenize(const Client& client, const std::vector<int32_t>& ids, std::string* bytes) {
  v1::DetokenizeRequest request;
  request.mutable_ids()->Add(ids.begin(), ids.end());
  request.set_keep_special(true);
  v1::DetokenizeResponse response;
  Client::Context context(client);
  const grpc::Status status = client.models().Detokenize(context.get(), request, &response);
  *bytes = response.utf8();
  return status;
}

// Text of the pieces of a token sequence, each piece whole characters: a character that the next
// piece ends belongs to the piece where it begins.
grpc::Status TextOfPieces(const Client& client, const std::vector<std::vector<int32_t>>& pieces,
                          std::vector<std::string>* texts) {
  for (const std::vector<int32_t>& ids : pieces) {
    std::string bytes;
    if (const grpc::Status status = Detokenize(client, ids, &bytes); !status.ok()) return status;
    size_t rest = 0;
    while (rest < bytes.size() && (static_cast<uint8_t>(bytes[rest]) & 0xc0) == 0x80) ++rest;
    if (!texts->empty()) texts->back() += bytes.substr(0, rest);
    texts->push_back(bytes.substr(rest));
  }
  for (std::string& text : *texts) text = ValidUtf8(text);
  return grpc::Status::OK;
}

grpc::Status AddReplyText(const Client& client, TraceData* trace) {
  std::vector<std::vector<int32_t>> pieces;
  for (const TraceData::Step& step : trace->steps) pieces.push_back({step.token_id});
  std::vector<std::string> texts;
  const grpc::Status status = TextOfPieces(client, pieces, &texts);
  for (size_t i = 0; i < texts.size(); ++i) trace->steps[i].text = texts[i];
  return status;
}

// The document's text, block by block. It starts `offset` tokens into the session.
grpc::Status AddDocument(const Client& client, const std::string& document, int64_t offset,
                         TraceData* trace) {
  v1::TokenizeRequest request;
  request.set_text(document);
  request.set_add_special(offset == 0);
  v1::TokenizeResponse response;
  {
    Client::Context context(client);
    const grpc::Status status = client.models().Tokenize(context.get(), request, &response);
    if (!status.ok()) return status;
  }
  std::vector<std::vector<int32_t>> blocks(static_cast<size_t>(trace->block_count()));
  for (int i = 0; i < response.ids_size(); ++i) {
    const auto block = static_cast<size_t>((offset + i) / trace->block_tokens);
    if (block >= blocks.size()) break;
    blocks[block].push_back(response.ids(i));
  }
  while (!blocks.empty() && blocks.back().empty()) blocks.pop_back();
  return TextOfPieces(client, blocks, &trace->block_texts);
}

absl::Status WritePage(const TraceData& trace, const std::string& session,
                       const std::string& path) {
  std::ofstream file(path);
  if (!(file << TracePage(trace, session)) || !file.flush()) {
    return InvalidArgument("--html: cannot write ", path);
  }
  std::fprintf(stderr, "wrote %s\n", path.c_str());
  return absl::OkStatus();
}

int Trace(const Client& client, const CommandLine& line) {
  const auto offset = line.GetInt<int32_t>("document-offset");
  if (!offset.ok()) return UsageError(offset.status());
  std::string document;
  if (const auto path = line.Get("document"); path.has_value()) {
    absl::StatusOr<std::string> content = ReadFile(*path);
    if (!content.ok()) return UsageError(content.status());
    document = *std::move(content);
  }
  const std::string session = SessionName(line.positional()[0]);
  TraceData trace;
  grpc::Status status = ReadTrace(client, session, &trace);
  if (!status.ok()) return client.Fail(status);
  if (client.json()) return kOk;
  status = AddReplyText(client, &trace);
  if (status.ok() && !document.empty()) {
    status = AddDocument(client, document, std::max(0, offset->value_or(0)), &trace);
  }
  if (!status.ok()) return client.Fail(status);
  if (const auto path = line.Get("html"); path.has_value()) {
    const std::string title = line.Get("title").value_or(session);
    if (const absl::Status written = WritePage(trace, title, *path); !written.ok()) {
      return UsageError(written);
    }
    return kOk;
  }
  std::printf("%s",
              RenderTrace(trace, TerminalWidth(), kMaxRows, isatty(STDOUT_FILENO) == 1).c_str());
  return kOk;
}

}  // namespace

std::vector<Command> TraceCommands() {
  return {{"trace",
           "SESSION",
           "Show what each token of the latest reply read (after generate --record-trace)",
           1,
           1,
           {{"html", "FILE", "write a page for a browser instead"},
            {"title", "TEXT", "of the page (default: the session's name)"},
            {"document", "FILE", "the text that the session begins with, to show it"},
            {"document-offset", "N",
             "tokens before it in the session, as a chat template's (default 0)"}},
           &Trace}};
}

}  // namespace spotd::spotctl
