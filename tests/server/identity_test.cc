// Who is calling is asked once for each call, before anything else, and decides what exists.

#include "server/identity.h"

#include <grpcpp/server_context.h>
#include <gtest/gtest.h>

#include "runtime/engine/errors.h"
#include "tests/server/raw_call.h"
#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

// The tenant is what the metadata "test-tenant" says; without it the call is refused.
class MetadataIdentity : public server::IdentityProvider {
 public:
  absl::StatusOr<server::Identity> Identify(
      const grpc::CallbackServerContext& call) const override {
    const auto found = call.client_metadata().find("test-tenant");
    if (found == call.client_metadata().end()) {
      return engine::MakeError(absl::StatusCode::kUnauthenticated, "who are you?",
                               {.reason = "TEST_NO_TENANT"});
    }
    return server::Identity{std::string(found->second.data(), found->second.size())};
  }
};

TEST(IdentityTest, ACallThatCannotSayWhoItIsDoesNothing) {
  const MetadataIdentity identity;
  TestServer server(128, {}, &identity);
  for (const char* method :
       {"SessionService/CreateSession", "SessionService/GetSession", "SessionService/ListSessions",
        "SessionService/DeleteSession", "SessionService/ForkSession",
        "SessionService/RewindSession", "SessionService/UpdateSession", "InferenceService/Append",
        "InferenceService/Generate", "InferenceService/Complete", "InferenceService/Abort",
        "InferenceService/Trace", "ModelService/ListModels", "ModelService/GetModel",
        "ModelService/Tokenize", "ModelService/Detokenize"}) {
    const grpc::Status status =
        RawUnary(server.channel(), std::string("/spotd.v1.") + method, "not a message");
    EXPECT_EQ(status.error_code(), grpc::UNAUTHENTICATED) << method;
    EXPECT_EQ(InfoOf(status).reason(), "TEST_NO_TENANT") << method;
  }
  EXPECT_EQ(server.engine().metrics().sessions.load(), 0);
}

}  // namespace
}  // namespace spotd::testing
