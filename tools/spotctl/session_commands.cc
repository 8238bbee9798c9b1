#include <google/protobuf/util/time_util.h>

#include <cstdio>

#include "tools/spotctl/commands.h"
#include "tools/spotctl/generate_options.h"
#include "tools/spotctl/terminal.h"

namespace spotd::spotctl {
namespace {

void ShowSession(const Client& client, const v1::Session& session) {
  if (client.json()) {
    PrintJson(session);
    return;
  }
  std::printf("name        %s\n", session.name().c_str());
  if (!session.display_name().empty()) {
    std::printf("title       %s\n", session.display_name().c_str());
  }
  std::printf("tokens      %d (%d in the cache)\n", session.token_count(),
              session.cached_token_count());
  std::printf("cache       %d blocks, %s\n", session.kv_block_count(),
              FormatBytes(static_cast<double>(session.kv_bytes())).c_str());
  std::printf("policy      %s\n", PolicyName(session.policy().kind()).c_str());
  std::printf("state       %s\n", session.state() == v1::Session::STATE_ACTIVE ? "active" : "idle");
  using google::protobuf::util::TimeUtil;
  std::printf("created     %s\n", TimeUtil::ToString(session.create_time()).c_str());
  std::printf("updated     %s\n", TimeUtil::ToString(session.update_time()).c_str());
}

int Show(const Client& client, const CommandLine& line) {
  v1::GetSessionRequest request;
  request.set_name(SessionName(line.positional()[0]));
  v1::Session session;
  Client::Context context(client);
  const grpc::Status status = client.sessions().GetSession(context.get(), request, &session);
  if (!status.ok()) return client.Fail(status);
  ShowSession(client, session);
  return kOk;
}

// Prints the name alone, so that a script can keep it.
int ShowNew(const Client& client, const grpc::Status& status, const v1::Session& session) {
  if (!status.ok()) return client.Fail(status);
  if (client.json()) {
    PrintJson(session);
  } else {
    std::printf("%s\n", session.name().c_str());
  }
  return kOk;
}

absl::Status FillSession(const CommandLine& line, v1::Session* session) {
  session->set_display_name(line.Get("title").value_or(""));
  return FillPolicy(line, [session] { return session->mutable_policy(); });
}

int Create(const Client& client, const CommandLine& line) {
  v1::CreateSessionRequest request;
  if (const absl::Status status = FillSession(line, request.mutable_session()); !status.ok()) {
    return UsageError(status);
  }
  v1::Session session;
  Client::Context context(client);
  const grpc::Status status = client.sessions().CreateSession(context.get(), request, &session);
  return ShowNew(client, status, session);
}

int Fork(const Client& client, const CommandLine& line) {
  v1::ForkSessionRequest request;
  request.set_name(SessionName(line.positional()[0]));
  if (const absl::Status status = FillSession(line, request.mutable_session()); !status.ok()) {
    return UsageError(status);
  }
  v1::Session session;
  Client::Context context(client);
  const grpc::Status status = client.sessions().ForkSession(context.get(), request, &session);
  return ShowNew(client, status, session);
}

int Rewind(const Client& client, const CommandLine& line) {
  const absl::StatusOr<int32_t> tokens = ParseInt<int32_t>(line.positional()[1]);
  if (!tokens.ok()) return UsageError(tokens.status());
  v1::RewindSessionRequest request;
  request.set_name(SessionName(line.positional()[0]));
  request.set_token_count(*tokens);
  v1::Session session;
  Client::Context context(client);
  const grpc::Status status = client.sessions().RewindSession(context.get(), request, &session);
  if (!status.ok()) return client.Fail(status);
  ShowSession(client, session);
  return kOk;
}

int Delete(const Client& client, const CommandLine& line) {
  for (const std::string& name : line.positional()) {
    v1::DeleteSessionRequest request;
    request.set_name(SessionName(name));
    google::protobuf::Empty reply;
    Client::Context context(client);
    const grpc::Status status = client.sessions().DeleteSession(context.get(), request, &reply);
    if (!status.ok()) return client.Fail(status);
    if (!client.json()) std::fprintf(stderr, "deleted %s\n", request.name().c_str());
  }
  return kOk;
}

int List(const Client& client, const CommandLine&) {
  v1::ListSessionsRequest request;
  int shown = 0;
  do {
    v1::ListSessionsResponse page;
    Client::Context context(client);
    const grpc::Status status = client.sessions().ListSessions(context.get(), request, &page);
    if (!status.ok()) return client.Fail(status);
    for (const v1::Session& session : page.sessions()) {
      if (client.json()) {
        PrintJson(session);
        continue;
      }
      if (shown++ == 0) {
        std::printf("%-36s %8s %10s  %-9s %-6s %s\n", "NAME", "TOKENS", "CACHE", "POLICY", "STATE",
                    "TITLE");
      }
      std::printf("%-36s %8d %10s  %-9s %-6s %s\n", session.name().c_str(), session.token_count(),
                  FormatBytes(static_cast<double>(session.kv_bytes())).c_str(),
                  PolicyName(session.policy().kind()).c_str(),
                  session.state() == v1::Session::STATE_ACTIVE ? "active" : "idle",
                  session.display_name().c_str());
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return kOk;
}

}  // namespace

std::vector<Command> SessionCommands() {
  std::vector<OptionSpec> create = PolicyOptions();
  create.push_back({"title", "TEXT", "a name for people"});
  return {
      {"sessions list", "", "List sessions", 0, 0, {}, &List},
      {"sessions show", "SESSION", "Show one session", 1, 1, {}, &Show},
      {"sessions create", "", "Create a session and print its name", 0, 0, create, &Create},
      {"sessions fork", "SESSION", "Fork a session and print the new one's name", 1, 1, create,
       &Fork},
      {"sessions rewind", "SESSION TOKENS", "Keep only the first TOKENS tokens", 2, 2, {}, &Rewind},
      {"sessions delete", "SESSION ...", "Delete sessions", 1, 1000, {}, &Delete},
  };
}

}  // namespace spotd::spotctl
