// Many clients at once: what they may cost, and who must not suffer.

#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "server/process_stats.h"
#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

double ResidentMiB() {
  return static_cast<double>(server::ReadProcessStats().resident_bytes) / (1 << 20);
}

struct Open {
  std::unique_ptr<grpc::ClientContext> context = std::make_unique<grpc::ClientContext>();
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> stream;
};

// Clients that ask and never read: each holds its own reply up, not the engine, and not memory
// without end.
TEST(LoadTest, ManyClientsThatDoNotReadHoldUpNobodyElse) {
  constexpr int kClients = 1000;
  TestServer server(4096, {"--max_waiting=2000", "--max_running=16"});
  const engine::Metrics& metrics = server.engine().metrics();
  const auto arrived = [&] {
    return metrics.requests_running.load() + metrics.requests_waiting.load();
  };
  const double before = ResidentMiB();
  std::vector<Open> open(kClients);
  for (int i = 0; i < kClients; ++i) {
    open[i].stream = server.inference().Generate(open[i].context.get(), RequestFor("", "go", 3000));
    // The workers would refuse more than some at once.
    if (i % 50 == 49) {
      ASSERT_TRUE(Eventually([&] { return arrived() == i + 1; })) << arrived();
    }
  }
  // Those that run are stuck after some tokens; they lose their places to the others in turn.
  ASSERT_TRUE(Eventually([&] { return metrics.preemptions.load() > 0; }));
  // Others get their answers meanwhile. They are the same tenant's, so a priority is needed.
  for (int i = 0; i < 3; ++i) {
    v1::GenerateRequest request = RequestFor("", "I do read", 5);
    request.set_priority(100);
    const TestServer::Generated generated = server.Generate(request);
    ASSERT_TRUE(generated.status.ok()) << generated.status.error_message();
    EXPECT_EQ(generated.tokens.size(), 5u);
  }
  EXPECT_LT(ResidentMiB() - before, 100) << "what nobody reads piles up";
  for (Open& one : open) one.context->TryCancel();
  for (Open& one : open) {
    v1::GenerateResponse response;
    while (one.stream->Read(&response)) {
    }
    (void)one.stream->Finish();
  }
  EXPECT_TRUE(Eventually([&] { return server.engine().Idle(); }));
  EXPECT_EQ(metrics.kv_blocks_used.load(), 0);
  server.ExpectServing();
}

// Uploads that never end, up to the bound, cost a place each and nothing else.
TEST(LoadTest, IdleStreamsAreCheap) {
  constexpr int kStreams = 2000;
  TestServer server(4096, {"--max_uploads=3000", "--max_sessions=4000"});
  struct Upload {
    std::unique_ptr<grpc::ClientContext> context = std::make_unique<grpc::ClientContext>();
    std::unique_ptr<grpc::ClientReaderWriter<v1::AppendRequest, v1::AppendResponse>> stream;
  };
  const double before = ResidentMiB();
  std::vector<Upload> uploads(kStreams);
  for (Upload& upload : uploads) {
    upload.stream = server.inference().Append(upload.context.get());
  }
  ASSERT_TRUE(Eventually([&] { return server.rpc_metrics().in_progress() >= kStreams; }));
  EXPECT_LT(ResidentMiB() - before, 200) << "of both sides, client and server";
  server.ExpectServing();
  for (Upload& upload : uploads) upload.context->TryCancel();
  for (Upload& upload : uploads) (void)upload.stream->Finish();
  EXPECT_TRUE(Eventually([&] { return server.rpc_metrics().in_progress() == 0; }));
}

}  // namespace
}  // namespace spotd::testing
