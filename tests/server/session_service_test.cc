#include <gtest/gtest.h>

#include <set>
#include <thread>
#include <vector>

#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

class SessionServiceTest : public ::testing::Test {
 protected:
  grpc::Status Delete(const std::string& name) {
    grpc::ClientContext context;
    v1::DeleteSessionRequest request;
    request.set_name(name);
    google::protobuf::Empty empty;
    return server_.sessions().DeleteSession(&context, request, &empty);
  }

  grpc::Status Rewind(const std::string& name, std::optional<int32_t> tokens,
                      v1::Session* session) {
    grpc::ClientContext context;
    v1::RewindSessionRequest request;
    request.set_name(name);
    if (tokens.has_value()) request.set_token_count(*tokens);
    return server_.sessions().RewindSession(&context, request, session);
  }

  grpc::Status Fork(const v1::ForkSessionRequest& request, v1::Session* session) {
    grpc::ClientContext context;
    return server_.sessions().ForkSession(&context, request, session);
  }

  grpc::Status Update(const v1::Session& session, const std::vector<std::string>& paths,
                      v1::Session* updated) {
    grpc::ClientContext context;
    v1::UpdateSessionRequest request;
    *request.mutable_session() = session;
    for (const std::string& path : paths) request.mutable_update_mask()->add_paths(path);
    return server_.sessions().UpdateSession(&context, request, updated);
  }

  TestServer server_;
};

TEST_F(SessionServiceTest, ANewSessionHasWhatWasAskedAndTheServersPolicy) {
  grpc::ClientContext context;
  v1::CreateSessionRequest request;
  request.mutable_session()->set_display_name("a title");
  request.mutable_session()->mutable_policy()->set_fraction(0.25f);
  v1::Session session;
  ASSERT_TRUE(server_.sessions().CreateSession(&context, request, &session).ok());
  EXPECT_EQ(session.name().rfind("sessions/", 0), 0u);
  EXPECT_EQ(session.display_name(), "a title");
  EXPECT_EQ(session.token_count(), 0);
  EXPECT_EQ(session.state(), v1::Session::STATE_IDLE);
  EXPECT_GT(session.create_time().seconds(), 1'600'000'000);
  EXPECT_EQ(session.policy().kind(), v1::POLICY_KIND_QUEST);
  EXPECT_FLOAT_EQ(session.policy().fraction(), 0.25f);
  EXPECT_EQ(session.policy().sink_tokens(), 16) << "what is left out comes from the server";
  EXPECT_EQ(server_.GetSession(session.name()).display_name(), "a title");
}

TEST_F(SessionServiceTest, ListsEverySessionOncePageByPage) {
  std::set<std::string> created;
  for (int i = 0; i < 7; ++i) created.insert(server_.NewSession());
  std::set<std::string> listed;
  v1::ListSessionsRequest request;
  request.set_page_size(3);
  int pages = 0;
  do {
    grpc::ClientContext context;
    v1::ListSessionsResponse page;
    ASSERT_TRUE(server_.sessions().ListSessions(&context, request, &page).ok());
    EXPECT_LE(page.sessions_size(), 3);
    for (const v1::Session& session : page.sessions()) {
      EXPECT_TRUE(listed.insert(session.name()).second) << "listed twice";
    }
    request.set_page_token(page.next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(listed, created);
  EXPECT_EQ(pages, 3);
}

TEST_F(SessionServiceTest, RefusesANegativePageSize) {
  grpc::ClientContext context;
  v1::ListSessionsRequest request;
  request.set_page_size(-1);
  v1::ListSessionsResponse page;
  const grpc::Status status = server_.sessions().ListSessions(&context, request, &page);
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(InfoOf(status).reason(), "INVALID_FIELD");
  EXPECT_EQ(FieldOf(status), "page_size");
}

TEST_F(SessionServiceTest, AForkContinuesLikeItsParentAndDoesNotTouchIt) {
  const std::string parent = server_.NewSession();
  ASSERT_TRUE(server_.Append(parent, {Text("the quick brown fox")}).status.ok());
  const int32_t tokens = server_.GetSession(parent).token_count();
  v1::ForkSessionRequest request;
  request.set_name(parent);
  request.mutable_session()->set_display_name("fork");
  v1::Session fork;
  ASSERT_TRUE(Fork(request, &fork).ok());
  EXPECT_NE(fork.name(), parent);
  EXPECT_EQ(fork.token_count(), tokens);
  EXPECT_EQ(fork.display_name(), "fork");

  const auto from_fork = server_.Generate(RequestFor(fork.name(), "", 8));
  EXPECT_EQ(server_.GetSession(parent).token_count(), tokens);
  const auto from_parent = server_.Generate(RequestFor(parent, "", 8));
  EXPECT_EQ(from_fork.tokens, from_parent.tokens);
}

TEST_F(SessionServiceTest, RewindForgetsWhatCameAfter) {
  const std::string session = server_.NewSession();
  ASSERT_TRUE(server_.Append(session, {Text("one two three")}).status.ok());
  const int32_t before = server_.GetSession(session).token_count();
  const auto first = server_.Generate(RequestFor(session, "", 6));
  v1::Session rewound;
  ASSERT_TRUE(Rewind(session, before, &rewound).ok());
  EXPECT_EQ(rewound.token_count(), before);
  EXPECT_EQ(server_.Generate(RequestFor(session, "", 6)).tokens, first.tokens);
}

TEST_F(SessionServiceTest, RefusesToRewindBeyondTheEndOrWithoutAPosition) {
  const std::string session = server_.NewSession();
  v1::Session rewound;
  const grpc::Status beyond = Rewind(session, 1, &rewound);
  EXPECT_EQ(beyond.error_code(), grpc::OUT_OF_RANGE);
  EXPECT_EQ(InfoOf(beyond).reason(), "POSITION_OUT_OF_RANGE");
  const grpc::Status missing = Rewind(session, std::nullopt, &rewound);
  EXPECT_EQ(missing.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(FieldOf(missing), "token_count");
  const grpc::Status negative = Rewind(session, -1, &rewound);
  EXPECT_EQ(negative.error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(SessionServiceTest, ADeletedSessionIsGone) {
  const std::string session = server_.NewSession();
  EXPECT_TRUE(Delete(session).ok());
  const grpc::Status again = Delete(session);
  EXPECT_EQ(again.error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(InfoOf(again).reason(), "SESSION_NOT_FOUND");
}

TEST_F(SessionServiceTest, DeletingGivesTheCacheBack) {
  const std::string session = server_.NewSession();
  ASSERT_TRUE(server_.Append(session, {Text("some text to keep")}).status.ok());
  EXPECT_GT(server_.engine().metrics().kv_blocks_used.load(), 0);
  EXPECT_GT(server_.GetSession(session).kv_bytes(), 0);
  ASSERT_TRUE(Delete(session).ok());
  EXPECT_TRUE(Eventually([&] { return server_.engine().metrics().kv_blocks_used.load() == 0; }));
}

TEST_F(SessionServiceTest, RefusesMoreSessionsThanItMayHold) {
  TestServer small(128, {"--max_sessions=2"});
  const std::string first = small.NewSession();
  small.NewSession();
  grpc::ClientContext context;
  v1::Session session;
  const grpc::Status status = small.sessions().CreateSession(&context, {}, &session);
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(InfoOf(status).reason(), "SESSION_LIMIT");
}

TEST_F(SessionServiceTest, UpdateChangesWhatTheMaskNames) {
  v1::Session session = server_.GetSession(server_.NewSession());
  const std::string etag = session.etag();
  session.set_display_name("renamed");
  session.mutable_ttl()->set_seconds(60);
  session.mutable_policy()->Clear();
  session.mutable_policy()->set_kind(v1::POLICY_KIND_WINDOW);
  v1::Session updated;
  ASSERT_TRUE(Update(session, {"display_name", "ttl"}, &updated).ok());
  EXPECT_EQ(updated.display_name(), "renamed");
  EXPECT_EQ(updated.ttl().seconds(), 60);
  EXPECT_TRUE(updated.has_expire_time());
  EXPECT_EQ(updated.policy().kind(), v1::POLICY_KIND_QUEST) << "not in the mask";
  EXPECT_NE(updated.etag(), etag);
  EXPECT_EQ(server_.GetSession(session.name()).display_name(), "renamed");

  const grpc::Status stale = Update(session, {"policy"}, &updated);  // with the etag from before
  EXPECT_EQ(stale.error_code(), grpc::ABORTED);
  EXPECT_EQ(InfoOf(stale).reason(), "ETAG_MISMATCH");
  session.clear_etag();
  ASSERT_TRUE(Update(session, {"policy"}, &updated).ok());
  EXPECT_EQ(updated.policy().kind(), v1::POLICY_KIND_WINDOW);
  EXPECT_EQ(updated.policy().sink_tokens(), 16) << "what is left out stays";
  const auto generated = server_.Generate(RequestFor(session.name(), "abc", 2));
  EXPECT_EQ(generated.result->sparsity().policy(), v1::POLICY_KIND_WINDOW) << "it counts";

  // What the mask names and the session leaves out goes back to the server's default.
  v1::Session name_only;
  name_only.set_name(session.name());
  ASSERT_TRUE(Update(name_only, {"*"}, &updated).ok());
  EXPECT_EQ(updated.display_name(), "");
  EXPECT_FALSE(updated.has_ttl());
  EXPECT_FALSE(updated.has_expire_time());
  EXPECT_EQ(updated.policy().kind(), v1::POLICY_KIND_QUEST);

  // Without a mask: what is set.
  name_only.set_display_name("again");
  ASSERT_TRUE(Update(name_only, {}, &updated).ok());
  EXPECT_EQ(updated.display_name(), "again");
}

TEST_F(SessionServiceTest, UpdateRefusesWhatItCannotDo) {
  v1::Session session;
  session.set_name(server_.NewSession());
  v1::Session updated;
  const grpc::Status refused = Update(session, {"token_count"}, &updated);
  EXPECT_EQ(FieldOf(refused), "update_mask");
  EXPECT_NE(refused.error_message().find("\"token_count\""), std::string::npos);
  session.mutable_ttl()->set_seconds(-1);
  EXPECT_EQ(FieldOf(Update(session, {"ttl"}, &updated)), "session.ttl");
  session.mutable_ttl()->set_seconds(5);
  session.mutable_expire_time()->set_seconds(1);
  EXPECT_EQ(FieldOf(Update(session, {"expire_time"}, &updated)), "session.expire_time")
      << "in the past";
  session.mutable_expire_time()->set_seconds(4'000'000'000);
  EXPECT_EQ(FieldOf(Update(session, {"ttl", "expire_time"}, &updated)), "session.expire_time")
      << "both by name";
  session.mutable_policy()->set_fraction(7);
  EXPECT_EQ(Update(session, {"policy"}, &updated).error_code(), grpc::INVALID_ARGUMENT);
  session.Clear();
  EXPECT_EQ(FieldOf(Update(session, {}, &updated)), "session.name");
  session.set_name("sessions/none");
  EXPECT_EQ(InfoOf(Update(session, {}, &updated)).reason(), "SESSION_NOT_FOUND");
  server_.ExpectServing();
}

// What a client read and sends back as it is changes nothing, and nobody's etag.
TEST_F(SessionServiceTest, WhatWasReadMayBeSentBackWhole) {
  v1::Session session = server_.GetSession(server_.NewSession());
  session.mutable_ttl()->set_seconds(60);
  v1::Session updated;
  ASSERT_TRUE(Update(session, {"ttl"}, &updated).ok());
  ASSERT_TRUE(updated.has_expire_time());
  for (const std::vector<std::string>& mask : {std::vector<std::string>(), {"*"}}) {
    v1::Session again;
    ASSERT_TRUE(Update(updated, mask, &again).ok());
    EXPECT_EQ(again.etag(), updated.etag());
    EXPECT_EQ(again.ttl().seconds(), 60) << "not a fixed end";
  }
  // A mask that is there and empty is none.
  v1::UpdateSessionRequest request;
  request.mutable_session()->set_name(session.name());
  request.mutable_update_mask();
  v1::Session same;
  grpc::ClientContext same_context;
  ASSERT_TRUE(server_.sessions().UpdateSession(&same_context, request, &same).ok());
  EXPECT_EQ(same.etag(), updated.etag());
  request.mutable_session()->set_display_name("renamed");
  grpc::ClientContext renamed_context;
  ASSERT_TRUE(server_.sessions().UpdateSession(&renamed_context, request, &same).ok());
  EXPECT_EQ(same.display_name(), "renamed");
  EXPECT_NE(same.etag(), updated.etag());
  // A fixed end that comes without a time to live replaces it.
  same.clear_ttl();
  same.clear_etag();
  same.mutable_expire_time()->set_seconds(4'000'000'000);
  ASSERT_TRUE(Update(same, {"*"}, &updated).ok());
  EXPECT_FALSE(updated.has_ttl());
  EXPECT_EQ(updated.expire_time().seconds(), 4'000'000'000);
}

// All of an update or nothing.
TEST_F(SessionServiceTest, ARefusedUpdateChangesNothing) {
  const v1::Session before = server_.GetSession(server_.NewSession());
  v1::Session session;
  session.set_name(before.name());
  session.set_display_name("renamed");
  session.mutable_policy()->set_sink_tokens(64);
  session.mutable_expire_time()->set_seconds(1);  // in the past
  v1::Session updated;
  EXPECT_EQ(FieldOf(Update(session, {}, &updated)), "session.expire_time");
  session.mutable_expire_time()->set_seconds(4'000'000'000);
  session.mutable_policy()->set_fraction(7);
  EXPECT_EQ(FieldOf(Update(session, {}, &updated)), "session.policy.fraction");
  EXPECT_EQ(server_.GetSession(before.name()).SerializeAsString(), before.SerializeAsString());
}

// Of callers who change a part of the policy each, all are heard.
TEST_F(SessionServiceTest, UpdatesAtTheSameTimeAddUp) {
  const std::string name = server_.NewSession();
  const auto update = [&](auto set, int32_t last) {
    for (int32_t value = last - 40; value <= last; ++value) {
      v1::Session session;
      session.set_name(name);
      set(session.mutable_policy(), value);
      v1::Session updated;
      ASSERT_TRUE(Update(session, {"policy"}, &updated).ok());
    }
  };
  std::thread sinks([&] { update([](auto* p, int32_t v) { p->set_sink_tokens(v); }, 64); });
  std::thread recent([&] { update([](auto* p, int32_t v) { p->set_recency_tokens(v); }, 512); });
  sinks.join();
  recent.join();
  const v1::Policy policy = server_.GetSession(name).policy();
  EXPECT_EQ(policy.sink_tokens(), 64);
  EXPECT_EQ(policy.recency_tokens(), 512);
}

// The time to live of a session that works may change, its policy may not.
TEST_F(SessionServiceTest, UpdateWhileACallRuns) {
  TestServer server(65536);
  const std::string name = server.NewSession();
  grpc::ClientContext context;
  const auto stream = server.inference().Generate(&context, RequestFor(name, "go", 60000));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  v1::UpdateSessionRequest request;
  request.mutable_session()->set_name(name);
  request.mutable_session()->mutable_ttl()->set_seconds(3600);
  grpc::ClientContext ttl_context;
  v1::Session updated;
  EXPECT_TRUE(server.sessions().UpdateSession(&ttl_context, request, &updated).ok());
  EXPECT_EQ(updated.ttl().seconds(), 3600);
  request.mutable_session()->mutable_policy()->set_kind(v1::POLICY_KIND_FULL);
  grpc::ClientContext policy_context;
  const grpc::Status busy = server.sessions().UpdateSession(&policy_context, request, &updated);
  EXPECT_EQ(InfoOf(busy).reason(), "SESSION_BUSY");
  context.TryCancel();
  while (stream->Read(&response)) {
  }
  (void)stream->Finish();
}

}  // namespace
}  // namespace spotd::testing
