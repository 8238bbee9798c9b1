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
  EXPECT_EQ(config->reflection, "false");
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
  EXPECT_THAT(ErrorOf({"--policy=best", "--model=m"}),
              HasSubstr("--policy: \"best\" is none of full"));
  EXPECT_THAT(ErrorOf({"--model=m", "--kv_memory=lots"}), HasSubstr("--kv_memory: \"lots\""));
  EXPECT_THAT(ErrorOf({"--model=m", "--max_prompt=1"}), HasSubstr("from 1KiB to 1GiB"));
  EXPECT_THAT(ErrorOf({"--model=m", "--drain_timeout=25h"}), HasSubstr("from 0s to 24h"));
  EXPECT_THAT(ErrorOf({"--model=m", "--fraction=7"}),
              HasSubstr("--fraction: \"7\" is not a number from 0 to 1"));
  EXPECT_THAT(ErrorOf({"--model=m", "--p_total=nan"}), HasSubstr("--p_total"));
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
  EXPECT_THAT(ErrorOf({"--config", bad.c_str()}),
              HasSubstr(bad + ":1: unknown key modle; did you mean --model?"));
  const std::string twice = WriteFile("model: x\n\nmodel: y\n");
  EXPECT_THAT(ErrorOf({"--config", twice.c_str()}), HasSubstr(twice + ":3: model is set twice"));
  const std::string range = WriteFile("model: x\nmax_running: 65\n");
  EXPECT_THAT(ErrorOf({"--config", range.c_str()}),
              HasSubstr(range + ":2: max_running: \"65\" is not an integer from 1 to 64"));
  const std::string nested = WriteFile("model: {path: x}\n");
  EXPECT_THAT(ErrorOf({"--config", nested.c_str()}), HasSubstr("model: not a plain value"));
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
  const auto bad = Parse({"--model=m", "--fraction=0"});
  EXPECT_THAT(std::string(bad->DefaultPolicy(false).status().message()), HasSubstr("fraction"));
}

TEST(ConfigTest, SaysWhatIsSetAndByWhom) {
  const std::string file = WriteFile("model: m\nthreads: 3\n");
  const auto config =
      Parse({"--config", file.c_str(), "--max_running=7"}, {{"SPOTD_THREADS", "4"}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->effective, "model: \"m\"  # " + file +
                                   ":1: model\nthreads: \"4\"  # SPOTD_THREADS\n"
                                   "max_running: \"7\"  # --max_running\n");
}

TEST(ConfigTest, RefusesMisspeltVariablesOnly) {
  const auto check = [](const char* variable) {
    const char* const environment[] = {"PATH=/bin", variable, nullptr};
    return CheckEnvironment(environment);
  };
  EXPECT_TRUE(check("SPOTD_MAX_RUNNING=1").ok());
  EXPECT_TRUE(check("SPOTD_CONFIG=/etc/spotd.yaml").ok());
  for (const char* of_an_orchestrator :
       {"SPOTD_SERVICE_HOST=10.0.0.1", "SPOTD_PORT=tcp://10.0.0.1:50051",
        "SPOTD_PORT_50051_TCP_ADDR=10.0.0.1", "SPOTD_ADDRESS=x"}) {
    EXPECT_TRUE(check(of_an_orchestrator).ok()) << of_an_orchestrator;
  }
  EXPECT_THAT(std::string(check("SPOTD_MAX_RUNING=1").message()),
              HasSubstr("SPOTD_MAX_RUNING; did you mean SPOTD_MAX_RUNNING?"));
}

TEST(ConfigTest, ATenantsShareOfUploadsIsAllWhereNobodyIsToldApart) {
  EXPECT_EQ(Parse({"--model=m", "--tenant_upload_percent=20"})->tenant_upload_percent(), 100);
  EXPECT_EQ(Parse({"--model=m", "--auth_tokens=t"})->tenant_upload_percent(), 50);
  EXPECT_EQ(Parse({"--model=m", "--auth_tokens=t", "--tenant_upload_percent=20"})
                ->tenant_upload_percent(),
            20);
}

TEST(ConfigTest, SecurityOptionsMustFitTogether) {
  EXPECT_THAT(ErrorOf({"--model=m", "--tls_cert=c"}), HasSubstr("belong together"));
  EXPECT_THAT(ErrorOf({"--model=m", "--tls_client_ca=c"}), HasSubstr("needs --tls_cert"));
  EXPECT_THAT(ErrorOf({"--model=m", "--auth_tokens=t", "--listen=0.0.0.0:1"}),
              HasSubstr("in the clear"));
  EXPECT_THAT(ErrorOf({"--model=m", "--auth_tokens=t", "--listen=127.evil.net:1"}),
              HasSubstr("in the clear"));
  EXPECT_TRUE(Parse({"--model=m", "--auth_tokens=t"}).ok()) << "loopback";
  EXPECT_TRUE(Parse({"--model=m", "--auth_tokens=t", "--listen=0.0.0.0:1", "--tls_cert=c",
                     "--tls_key=k", "--auth_health"})
                  .ok());
  EXPECT_THAT(ErrorOf({"--model=m", "--auth_health", "--auth_tokens=t"}),
              HasSubstr("--auth_health needs"));
  EXPECT_TRUE(Parse({"--model=m"})->ServesReflection());
  EXPECT_FALSE(Parse({"--model=m", "--listen=0.0.0.0:1"})->ServesReflection());
  EXPECT_TRUE(Parse({"--model=m", "--listen=0.0.0.0:1", "--reflection=true"})->ServesReflection());
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
  EXPECT_THAT(
      ReferenceText(),
      HasSubstr("| `max_running` | integer, 1 to 64 | `64` | Sequences decoded together. |"));
  EXPECT_THAT(ReferenceText(), HasSubstr("| `tls_key` | path |  | Private key (PEM) of tls_cert. "
                                         "Read again when it changes. Holds secrets. |"));
}

}  // namespace
}  // namespace spotd::server
