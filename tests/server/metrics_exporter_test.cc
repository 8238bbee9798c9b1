#include "server/metrics_exporter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class MetricsExporterTest : public ::testing::Test {
 protected:
  std::string Page(server::EngineState state = server::EngineState::kReady) {
    return server::MetricsExporter(&server_.engine(), &server_.rpc_metrics()).Text(state);
  }

  // The value of the series whose line begins with `series`; fails when there is none.
  static double Value(const std::string& page, const std::string& series) {
    std::istringstream lines(page);
    for (std::string line; std::getline(lines, line);) {
      if (line.rfind(series, 0) == 0) return std::atof(line.c_str() + line.rfind(' '));
    }
    ADD_FAILURE() << "no series " << series;
    return -1;
  }

  TestServer server_;
};

// The page reads one counter after the other while the engine goes on.
TEST_F(MetricsExporterTest, NoStateOfTheCacheIsNegativeWhateverHappensBetweenTwoReads) {
  engine::Metrics& metrics = server_.engine().metrics();
  const std::string blocks = "spotd_kv_blocks{model_name=\"qwen3\",state=";
  for (int i = 0; i < 10; ++i) {
    metrics.kv_blocks_kept.store(metrics.kv_blocks_total.load());
    metrics.kv_blocks_used.store(1);
    metrics.kv_blocks_shared.store(2);
    const std::string page = Page();
    EXPECT_GE(Value(page, blocks + "\"free\"}"), 0);
    EXPECT_GE(Value(page, blocks + "\"used\"}"), 0);
  }
}

TEST_F(MetricsExporterTest, CountsWhatTheRepliesSay) {
  const std::string session = server_.NewSession();
  const auto appended = server_.Append(session, {Text("some text")});
  const auto first = server_.Generate(RequestFor(session, "more", 7));
  const auto second = server_.Generate(RequestFor(session, "", 4));
  ASSERT_TRUE(second.result.has_value()) << second.status.error_message();
  const std::string page = Page();
  const std::string model = "{model_name=\"qwen3\"";
  EXPECT_EQ(Value(page, "spotd_generation_tokens_total" + model), 11);
  // An append leaves its newest token to the generation that follows.
  EXPECT_EQ(Value(page, "spotd_prompt_tokens_total" + model + ",source=\"computed\"}"),
            appended.result.appended_tokens() - 1 + first.result->usage().computed_tokens() +
                second.result->usage().computed_tokens());
  EXPECT_EQ(
      Value(page, "spotd_kv_blocks_attended_total" + model + ",policy=\"quest\"}"),
      first.result->sparsity().blocks_attended() + second.result->sparsity().blocks_attended());
  EXPECT_EQ(Value(page, "spotd_kv_bytes_dense_equivalent_total" + model + ",policy=\"quest\"}"),
            first.result->sparsity().kv_bytes_dense_equivalent() +
                second.result->sparsity().kv_bytes_dense_equivalent());
  EXPECT_EQ(Value(page, "spotd_time_to_first_token_seconds_count" + model), 2);
  EXPECT_EQ(Value(page, "spotd_sessions" + model), 1);
}

TEST_F(MetricsExporterTest, CountsWhatIsSharedAudited) {
  const std::string text(100, 'x');
  const std::string session = server_.NewSession();
  ASSERT_TRUE(server_.Append(session, {Text(text)}).status.ok());
  const auto second = server_.Generate(RequestFor("", text, 3));
  ASSERT_TRUE(second.result.has_value()) << second.status.error_message();
  const int32_t shared = second.result->usage().prefix_tokens();
  EXPECT_GT(shared, 0);
  EXPECT_EQ(second.result->sparsity().audited_steps(), 1) << "the first of a hundred";
  const std::string page = Page();
  const std::string model = "{model_name=\"qwen3\"";
  EXPECT_EQ(Value(page, "spotd_prompt_tokens_total" + model + ",source=\"prefix\"}"), shared);
  EXPECT_EQ(Value(page, "spotd_prefix_hits_total" + model), shared);
  EXPECT_GE(Value(page, "spotd_prefix_queries_total" + model), shared);
  EXPECT_GT(Value(page, "spotd_prefix_blocks" + model), 0);
  EXPECT_EQ(Value(page, "spotd_audit_recalled_mass_count" + model + ",policy=\"quest\"}"), 1);
  EXPECT_EQ(Value(page, "spotd_audit_output_error_count" + model + ",policy=\"quest\"}"), 1);
  EXPECT_EQ(Value(page, "spotd_audit_fallbacks_total" + model), 0);
  EXPECT_EQ(Value(page, "spotd_request_time_per_output_token_seconds_count" + model), 1);
  EXPECT_EQ(Value(page, "spotd_tokenization_seconds_count" + model), 2);
  EXPECT_EQ(Value(page, "spotd_preemptions_total" + model), 0);
  EXPECT_GT(Value(page, "spotd_engine_beats_total" + model), 0);
  for (const char* reason : {"QUEUE_FULL", "KV_EXHAUSTED", "TENANT_KV_LIMIT", "UPLOAD_LIMIT",
                             "DEADLINE_TOO_SHORT", "DRAINING"}) {
    EXPECT_EQ(Value(page, "spotd_requests_rejected_total" + model + ",reason=\"" + reason), 0);
  }
}

TEST_F(MetricsExporterTest, CountsCallsByOutcome) {
  server_.Generate(RequestFor("", "hi", 2));
  server_.Generate(RequestFor("sessions/none", "hi", 2));
  const std::string page = Page();
  EXPECT_EQ(Value(page,
                  "spotd_requests_total{model_name=\"qwen3\",method=\"Generate\",code=\"OK\","
                  "finish_reason=\"max_tokens\",reason=\"\"}"),
            1);
  EXPECT_EQ(Value(page,
                  "spotd_requests_total{model_name=\"qwen3\",method=\"Generate\","
                  "code=\"NOT_FOUND\",finish_reason=\"\",reason=\"SESSION_NOT_FOUND\"}"),
            1);
}

TEST_F(MetricsExporterTest, BlocksByStateAddUpToTheCapacity) {
  const std::string session = server_.NewSession();
  ASSERT_TRUE(
      server_.Append(session, {Text("a few blocks of text, shared by a fork")}).status.ok());
  grpc::ClientContext context;
  v1::ForkSessionRequest fork;
  fork.set_name(session);
  v1::Session forked;
  ASSERT_TRUE(server_.sessions().ForkSession(&context, fork, &forked).ok());
  const std::string page = Page();
  const auto blocks = [&](const char* state) {
    return Value(page, std::string("spotd_kv_blocks{model_name=\"qwen3\",state=\"") + state);
  };
  EXPECT_GT(blocks("shared"), 0);
  EXPECT_EQ(blocks("free") + blocks("used") + blocks("shared"),
            server_.engine().metrics().kv_blocks_total.load());
}

TEST_F(MetricsExporterTest, SessionsAreNeverLabels) {
  const std::string session = server_.NewSession();
  server_.Append(session, {Text("some text")});
  EXPECT_THAT(Page(), Not(HasSubstr(session.substr(std::string("sessions/").size()))));
}

TEST_F(MetricsExporterTest, TellsTheState) {
  EXPECT_EQ(Value(Page(), "spotd_engine_state{model_name=\"qwen3\",state=\"ready\"}"), 1);
  const std::string draining = Page(server::EngineState::kDraining);
  EXPECT_EQ(Value(draining, "spotd_engine_state{model_name=\"qwen3\",state=\"draining\"}"), 1);
  EXPECT_EQ(Value(draining, "spotd_engine_state{model_name=\"qwen3\",state=\"ready\"}"), 0);
}

// The buckets that dashboards of other engines use must be there, so that queries line up.
TEST_F(MetricsExporterTest, HistogramsHaveTheBucketsOperatorsExpect) {
  server_.Generate(RequestFor("", "hi", 3));
  const std::string page = Page();
  for (const char* bound : {"0.001", "0.0005", "0.01", "0.1", "1", "80", "+Inf"}) {
    EXPECT_THAT(page, HasSubstr(std::string("spotd_inter_token_latency_seconds_bucket{model_name="
                                            "\"qwen3\",le=\"") +
                                bound + "\"}"));
  }
}

// "name", "type", "help" and label keys of each family on the page, as a Markdown table.
std::string Reference(const std::string& page) {
  struct Family {
    std::string type, help, labels;
  };
  std::map<std::string, Family> families;
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string hash, kind, name;
    if (line.rfind("# ", 0) == 0) {
      words >> hash >> kind >> name;
      std::string rest;
      std::getline(words >> std::ws, rest);
      (kind == "HELP" ? families[name].help : families[name].type) = rest;
      continue;
    }
    name = line.substr(0, line.find_first_of("{ "));
    for (const char* end : {"_bucket", "_sum", "_count"}) {
      const size_t at = name.rfind(end);
      if (!families.contains(name) && at != name.npos) name.resize(at);
    }
    std::string labels;
    for (size_t at = line.find("=\""); at != line.npos; at = line.find("=\"", at + 1)) {
      const size_t first = line.find_last_of("{,", at) + 1;
      const std::string key = line.substr(first, at - first);
      if (key == "model_name" || key == "le") continue;
      labels += (labels.empty() ? "`" : ", `") + key + "`";
    }
    families[name].labels = labels;
  }
  std::string table = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
  for (const auto& [name, family] : families) {
    table +=
        "| `" + name + "` | " + family.type + " | " + family.labels + " | " + family.help + " |\n";
  }
  return table;
}

// SPOTD_UPDATE_DOCS=1 writes the page.
TEST_F(MetricsExporterTest, TheDocsAreCurrent) {
  ASSERT_TRUE(server_.Generate(RequestFor("", "hi", 2)).status.ok());
  const std::string expected =
      "# Metrics\n\n"
      "What `/metrics` offers to Prometheus. Every `spotd_` series has the label `model_name`; "
      "sessions, tenants and clients are\nnever labels, and no series holds anything of a prompt. "
      "Ratios are two counters: divide their rates.\n\n"
      "Written from `server/metrics_exporter.cc`, the one file that names metrics; a test fails "
      "when it is not current.\n\n" +
      Reference(Page());
  const std::string path = std::string(SPOTD_SOURCE_DIR) + "/docs/metrics.md";
  if (std::getenv("SPOTD_UPDATE_DOCS") != nullptr) std::ofstream(path) << expected;
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_EQ(text.str(), expected) << "run this test with SPOTD_UPDATE_DOCS=1";
}

}  // namespace
}  // namespace spotd::testing
