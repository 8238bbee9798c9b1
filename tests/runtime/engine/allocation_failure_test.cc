// Each allocation in turn fails while a request is made: the caller gets an error with a reason or
// an answer, nothing is left behind (the address sanitizer looks for leaks), and no session loses a
// token.
#include "tests/allocation_failures.h"

#include <gtest/gtest.h>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

using testing::FailEachAllocation;

void ExpectOutOfMemory(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(Reason(status), reason::kServerBusy);
  EXPECT_TRUE(GetErrorDetails(status).retry_after);
}

void ExpectNothingLeft(Engine& engine) {
  EXPECT_TRUE(BecomesIdle(engine));
  EXPECT_EQ(engine.metrics().requests_waiting.load(), 0);
  EXPECT_EQ(engine.metrics().waiting_tokens.load(), 0);
}

TEST(AllocationFailureTest, CreateForkAndUpdateSessions) {
  auto engine = MakeTinyEngine();
  const std::string parent = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), parent, Words(50)).ok());
  SessionOptions options;
  options.display_name = "a name that is too long for a short string";
  options.ttl = std::chrono::hours(1);
  const SessionRef ref(parent);
  int made = 0;
  const auto check = [&](const absl::StatusOr<SessionInfo>& info) {
    if (info.ok()) {
      ++made;
    } else {
      ExpectOutOfMemory(info.status());
    }
  };
  // Sent again with the same id after a failure, as clients do, the call happens once.
  options.request_id = "a-request-id-of-many-characters-1";
  EXPECT_GT(FailEachAllocation([&] { check(engine->CreateSession(options)); }), 5);
  EXPECT_EQ(made, 1) << "the last time, when nothing failed";
  options.request_id = "a-request-id-of-many-characters-2";
  EXPECT_GT(FailEachAllocation([&] { check(engine->ForkSession(ref, options)); }), 5);
  EXPECT_EQ(made, 2);
  const SessionUpdate hour = {.expiry = true, .ttl = std::chrono::hours(1)};
  ASSERT_TRUE(engine->UpdateSession(ref, hour).ok());
  const SessionUpdate update = {
      .display_name = options.display_name, .expiry = true, .ttl = std::chrono::hours(2)};
  EXPECT_GT(FailEachAllocation([&] {
              check(engine->UpdateSession(ref, update));
              const long left = std::exchange(testing::allocations_left, -1);  // NOLINT
              EXPECT_TRUE(engine->RewindSession(ref, 50).ok()) << "which moves its end";
              testing::allocations_left = left;
            }),
            2);
  EXPECT_EQ(made, 3);
  EXPECT_EQ(engine->metrics().sessions.load(), 3);
  const auto all = engine->ListSessions({""}, 10);
  ASSERT_EQ(all.size(), 3u) << "none that nobody knows of";
  for (const SessionInfo& info : all) EXPECT_TRUE(engine->DeleteSession(info.id).ok());
  EXPECT_EQ(engine->metrics().session_tokens.load(), 0);
  EXPECT_EQ(engine->metrics().kv_blocks_used.load(), 0);
}

TEST(AllocationFailureTest, RewindKeepsTokensAndKvTogether) {
  auto engine = MakeTinyEngine();
  const SessionRef ref(NewSession(engine.get()));
  ASSERT_TRUE(AppendText(engine.get(), ref.id, Words(60)).ok());
  int rewound = 0;
  const int failed = FailEachAllocation([&] {
    const auto info = engine->RewindSession(ref, 20);
    const long left = std::exchange(testing::allocations_left, -1);  // NOLINT
    if (info.ok()) {
      ++rewound;
    } else {
      ExpectOutOfMemory(info.status());
    }
    const SessionInfo now = *engine->GetSession(ref);
    EXPECT_LT(now.cached_tokens, now.tokens);
    testing::allocations_left = left;
  });
  EXPECT_GT(failed, 3);
  EXPECT_EQ(rewound, 1);
}

TEST(AllocationFailureTest, Append) {
  auto engine = MakeTinyEngine();
  SessionOptions options;
  options.ttl = std::chrono::hours(1);
  const std::string id = engine->CreateSession(options)->id;
  int32_t tokens = 0;
  int appended = 0;
  const int failed = FailEachAllocation([&] {
    const long left = std::exchange(testing::allocations_left, -1);  // NOLINT
    Appending appending;
    AppendRequest request;
    request.session_id = id;
    request.input = {TextInput{Words(40)}};
    request.cancel = appending.cancel;
    request.on_done = [promise = appending.promise](absl::StatusOr<AppendResult> result) {
      promise->set_value(std::move(result));
    };
    testing::allocations_left = left;
    bool taken = true;
    try {
      engine->Append(std::move(request));
    } catch (const std::bad_alloc&) {
      taken = false;
    }
    const long rest = std::exchange(testing::allocations_left, -1);  // NOLINT
    if (taken) {
      const auto result = appending.Wait();
      if (result.ok()) {
        ++appended;
        tokens += 40;
      } else {
        ExpectOutOfMemory(result.status());
      }
    }
    EXPECT_EQ(engine->GetSession(id)->tokens, tokens);
    EXPECT_FALSE(engine->GetSession(id)->busy);
    testing::allocations_left = rest;
  });
  EXPECT_GT(failed, 10);
  EXPECT_EQ(appended, 1);
  ExpectNothingLeft(*engine);
}

TEST(AllocationFailureTest, Generate) {
  auto engine = MakeTinyEngine();
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), id, Words(40)).ok());
  int32_t tokens = 40;
  int generated = 0;
  const int failed = FailEachAllocation([&] {
    const long left = std::exchange(testing::allocations_left, -1);  // NOLINT
    Call call;
    GenerateRequest request = Ask(id, "a question", 3);
    request.sampling.stop_strings = {"a stop string that is long enough", "b"};
    request.sampling.logit_bias = {{1, 0.5f}};
    request.candidates = 2;
    request.record_selection = true;
    request.cancel = call.cancel;
    request.sink = call.sink;
    testing::allocations_left = left;
    engine->Generate(std::move(request));
    const long rest = std::exchange(testing::allocations_left, -1);  // NOLINT
    const auto result = call.sink->Wait();
    if (result.ok()) {
      ++generated;
      tokens += 13;
    } else {
      ExpectOutOfMemory(result.status());
    }
    EXPECT_EQ(engine->GetSession(id)->tokens, tokens);
    EXPECT_FALSE(engine->GetSession(id)->busy);
    testing::allocations_left = rest;
  });
  EXPECT_GT(failed, 10);
  EXPECT_EQ(generated, 1);
  ExpectNothingLeft(*engine);
}

// A backend that has no memory for its n-th buffer.
class MeagreBackend : public testing::HookedBackend {
 public:
  explicit MeagreBackend(int* left)
      : HookedBackend(kernels::CreateRefBackend(), std::make_shared<StepHook>()), left_(left) {}
  absl::StatusOr<kernels::Buffer> Allocate(size_t bytes) override {
    if (*left_ > 0 && --*left_ == 0) return ResourceExhausted("no memory for ", bytes, " bytes");
    return HookedBackend::Allocate(bytes);
  }

 private:
  int* left_;
};

TEST(AllocationFailureTest, DeviceMemoryAtStart) {
  for (int n = 1;; ++n) {
    int left = n;
    TinyEngineOptions options;
    options.backend = std::make_unique<MeagreBackend>(&left);
    const auto engine = testing::CreateTinyEngine(std::move(options));
    if (left > 0) {
      EXPECT_TRUE(engine.ok()) << engine.status();
      EXPECT_GT(n, 3) << "nothing was ever allocated";
      return;
    }
    EXPECT_EQ(engine.status().code(), absl::StatusCode::kResourceExhausted) << n;
  }
}

}  // namespace
}  // namespace spotd::engine
