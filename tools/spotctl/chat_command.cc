#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <optional>

#include "kernels/core/status.h"
#include "tools/spotctl/commands.h"
#include "tools/spotctl/generate_options.h"
#include "tools/spotctl/generation.h"

namespace spotd::spotctl {
namespace {

void AddMessage(const std::string& role, const std::string& content, v1::GenerateRequest* request) {
  if (request->prompt().empty()) request->add_prompt();
  v1::ChatMessage* message = request->mutable_prompt(0)->mutable_messages()->add_messages();
  message->set_role(role);
  message->set_content(content);
}

bool ReadLine(bool prompt, std::string* text) {
  if (prompt) std::fprintf(stderr, "\n> ");
  return static_cast<bool>(std::getline(std::cin, *text));
}

grpc::Status CreateSession(const Client& client, std::string* name) {
  v1::Session session;
  Client::Context context(client);
  const grpc::Status status = client.sessions().CreateSession(context.get(), {}, &session);
  *name = session.name();
  return status;
}

// A session that goes when the chat ends, by Ctrl-C too.
class OwnSession {
 public:
  OwnSession(const Client& client, const std::string& name) : client_(client), name_(name) {}
  ~OwnSession() { Delete(); }

 private:
  // Not a call that Ctrl-C could cancel.
  void Delete() const {
    if (name_.empty()) return;
    v1::DeleteSessionRequest request;
    request.set_name(name_);
    google::protobuf::Empty reply;
    grpc::ClientContext context;
    client_.Prepare(&context);
    client_.sessions().DeleteSession(&context, request, &reply);
  }

  const Client& client_;
  const std::string& name_;  // empty, or set before the call that makes it is over
  const OnInterrupt on_interrupt_{[this] { Delete(); }};
};

// Talks until the end of input. An answer that was cancelled does not end the chat.
int Talk(const Client& client, const CommandLine& line, v1::GenerateRequest base) {
  const bool prompt = isatty(STDIN_FILENO) == 1 && !client.json();
  std::string system = line.Get("system").value_or("");
  std::string text;
  while (ReadLine(prompt, &text)) {
    if (text.empty()) continue;
    v1::GenerateRequest request = base;
    if (!system.empty()) AddMessage("system", std::exchange(system, ""), &request);
    AddMessage("user", text, &request);
    const GenerationOutcome outcome = StreamGeneration(client, request);
    if (outcome.exit_code != kOk && !outcome.cancelled) return outcome.exit_code;
  }
  if (prompt) std::fprintf(stderr, "\n");
  return kOk;
}

int Chat(const Client& client, const CommandLine& line) {
  v1::GenerateRequest request;
  absl::Status status = FillSampling(line, request.mutable_sampling());
  if (status.ok()) status = FillPolicy(line, [&] { return request.mutable_policy(); });
  if (!status.ok()) return UsageError(status);
  std::string name;
  std::optional<OwnSession> own;
  if (line.Has("session")) {
    name = SessionName(*line.Get("session"));
  } else {
    if (!line.Has("keep")) own.emplace(client, name);
    const grpc::Status created = CreateSession(client, &name);
    if (!created.ok()) return client.Fail(created);
  }
  if (!client.json()) {
    std::fprintf(stderr, "Talking in %s. Ctrl-C stops an answer, Ctrl-D ends the chat.\n",
                 name.c_str());
  }
  request.set_session(name);
  return Talk(client, line, request);
}

}  // namespace

std::vector<Command> ChatCommands() {
  std::vector<OptionSpec> options = {
      {"session", "SESSION", "continue in this session (default: a new one)"},
      {"system", "TEXT", "system message of a new conversation"},
      {"keep", nullptr, "keep the new session when the chat ends"}};
  for (const auto& group : {SamplingOptions(), PolicyOptions()}) {
    options.insert(options.end(), group.begin(), group.end());
  }
  return {{"chat", "", "Talk to the model", 0, 0, options, &Chat}};
}

}  // namespace spotd::spotctl
