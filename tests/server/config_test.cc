#include "server/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "tests/server/test_model.h"

namespace spotd::server {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<ServerConfig> Parse(std::vector<const char*> args,
                                   const std::map<std::string, std::string>& environment = {}) {
  return ParseConfig(args, [&](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

std::string ErrorOf(std::vector<const char*> args,
                    const std::map<std::string, std::string>& environment = {}) {
  const auto config = Parse(std::move(args), environment);
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

std::string WriteFile(const std::string& text) {
  const std::string path = spotd::testing::TemporaryDirectory() + "/spotd.yaml";
  std::ofstream(path) << text;
  return path;
}

TEST(ConfigTest, ReadsFlagsInBothForms) {
  const auto config = Parse({"--model", "m.gguf", "--kv_memory=2GiB", "--block_tokens", "32",
                             "--selector_keys=fp4", "--policy=window", "--drain_timeout=1500ms",
                             "--reflection=false", "--fraction=0.2", "--k_max_tokens=99"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model, "m.gguf");
  EXPECT_EQ(config->kv_memory.bytes, size_t{2} << 30);
  EXPECT_EQ(config->block_tokens, 32);
  EXPECT_EQ(config->selector_keys, kernels::SelectorKeyFormat::kFp4);
  EXPECT_EQ(config->drain_timeout.count(), 1500);
  EXPECT_FALSE(config->reflection);
  EXPECT_EQ(config->policy.kind, model::PolicyKind::kWindow);
  EXPECT_EQ(config->policy.fraction, 0.2f);
  EXPECT_EQ(config->policy.k_max_tokens, 99);
}

TEST(ConfigTest, FlagsWinOverTheEnvironmentAndThatOverTheFile) {
  const std::string file = WriteFile("model: from-file\nthreads: 3\nmax_running: 5\n");
  const auto config =
      Parse({"--config", file.c_str(), "--max_running=7"},
            {{"SPOTD_THREADS", "4"}, {"SPOTD_MAX_RUNNING", "6"}, {"SPOTD_VERSION", "1.2"}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model, "from-file");
  EXPECT_EQ(config->threads, 4);
  EXPECT_EQ(config->max_running, 7);
  EXPECT_FALSE(config->version) << "not an option of the environment";
}

TEST(ConfigTest, NamesWhatIsWrong) {
  EXPECT_THAT(ErrorOf({}), HasSubstr("--model is required"));
  EXPECT_THAT(ErrorOf({"--polcy=full"}), HasSubstr("unknown flag --polcy; did you mean --policy?"));
  EXPECT_THAT(ErrorOf({"--policy=best", "--model=m"}), HasSubstr("--policy: unknown policy"));
  EXPECT_THAT(ErrorOf({"--model=m", "--kv_memory=lots"}), HasSubstr("--kv_memory: \"lots\""));
  EXPECT_THAT(ErrorOf({"--model=m", "--kv_memory=-1GiB"}), HasSubstr("is not a size"));
  EXPECT_THAT(ErrorOf({"--model=m", "--block_tokens=17"}), HasSubstr("none of 16, 32, 64"));
  EXPECT_THAT(ErrorOf({"--model=m", "--max_running=65"}), HasSubstr("from 1 to 64"));
  EXPECT_THAT(ErrorOf({"--model=m", "--listen=here"}), HasSubstr("is not HOST:PORT"));
  EXPECT_THAT(ErrorOf({"--model=m", "--listen=h:99999"}), HasSubstr("is not HOST:PORT"));
  EXPECT_THAT(ErrorOf({"--model"}), HasSubstr("--model needs a value"));
  EXPECT_THAT(ErrorOf({"model.gguf"}), HasSubstr("unexpected argument \"model.gguf\""));
  EXPECT_THAT(ErrorOf({"--model=m"}, {{"SPOTD_THREADS", "many"}}), HasSubstr("SPOTD_THREADS"));
  EXPECT_THAT(ErrorOf({"--model=m", "--config=/no/such"}), HasSubstr("cannot read /no/such"));
  const std::string bad = WriteFile("modle: x\n");
  EXPECT_THAT(ErrorOf({"--config", bad.c_str()}), HasSubstr("unknown key modle"));
  const std::string broken = WriteFile("model: [unclosed\n");
  EXPECT_THAT(ErrorOf({"--config", broken.c_str()}), HasSubstr(broken));
}

TEST(ConfigTest, TheDefaultPolicyDependsOnTheSelector) {
  const auto config = Parse({"--model=m"});
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->DefaultPolicy(true)->kind, model::PolicyKind::kDistilled);
  EXPECT_EQ(config->DefaultPolicy(false)->kind, model::PolicyKind::kQuest);
  const auto topk = Parse({"--model=m", "--policy=topk"});
  EXPECT_THAT(std::string(topk->DefaultPolicy(false).status().message()),
              HasSubstr("needs --selector"));
  const auto bad = Parse({"--model=m", "--fraction=1.5"});
  EXPECT_THAT(std::string(bad->DefaultPolicy(false).status().message()), HasSubstr("fraction"));
}

TEST(ConfigTest, HelpNamesEveryOption) {
  const std::string help = HelpText();
  for (const char* option :
       {"--model", "--selector", "--listen", "--http_listen", "--kv_memory", "--policy",
        "--selector_keys", "--threads", "--backend", "--max_context", "--block_tokens",
        "--max_sessions", "--max_running", "--max_waiting", "--max_prefill_chunk",
        "--drain_timeout", "--version", "--config"}) {
    EXPECT_THAT(help, HasSubstr(std::string(option) + " ")) << option;
  }
}

}  // namespace
}  // namespace spotd::server
