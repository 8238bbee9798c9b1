#include "tools/spot_bench/serve.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/time/time.h"
#include "kernels/core/status.h"
#include "tools/spot_bench/engine_load.h"
#include "tools/spot_bench/serve_load.h"
#include "tools/spot_bench/serve_report.h"

ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(std::string, model);
ABSL_DECLARE_FLAG(std::string, backend);
ABSL_DECLARE_FLAG(int, threads);
ABSL_DECLARE_FLAG(int, chunk);
ABSL_DECLARE_FLAG(int, k_tokens);
ABSL_DECLARE_FLAG(double, fraction);
ABSL_FLAG(std::string, address, "127.0.0.1:50051", "serve: the server; its token is $SPOTD_TOKEN");
ABSL_FLAG(std::string, tls_ca, "", "serve: use TLS; authorities of the server's certificate");
ABSL_FLAG(std::string, mix, "512/64",
          "serve: kinds of request, PROMPT/OUTPUT@WEIGHT,... in tokens");
ABSL_FLAG(double, rate, 0, "serve: requests a second, Poisson; 0 = closed loop");
ABSL_FLAG(int, concurrency, 8, "serve: closed loop: requests at a time");
ABSL_FLAG(absl::Duration, duration, absl::Seconds(10), "serve: how long requests arrive");
ABSL_FLAG(absl::Duration, grace, absl::Seconds(30), "serve: then what runs may end");
ABSL_FLAG(absl::Duration, deadline, absl::ZeroDuration(), "serve: of each request; 0 = none");
ABSL_FLAG(absl::Duration, health_interval, absl::Milliseconds(100),
          "serve: between health checks; 0 = none");
ABSL_FLAG(int, connections, 8, "serve: HTTP/2 connections");
ABSL_FLAG(uint64_t, seed, 1, "serve: of arrivals and prompts");
ABSL_FLAG(std::string, serve_policy, "", "serve: policy of the requests; default: the server's");
ABSL_FLAG(std::string, plot, "", "serve: write an SVG picture to this file");

namespace spotd::bench {
namespace {

absl::StatusOr<LoadOptions> OptionsFromFlags() {
  LoadOptions options;
  options.address = absl::GetFlag(FLAGS_address);
  if (const std::string path = absl::GetFlag(FLAGS_tls_ca); !path.empty()) {
    std::ostringstream pem;
    if (!(pem << std::ifstream(path).rdbuf()))
      return InvalidArgument("--tls_ca: cannot read ", path);
    options.tls_ca = pem.str();
  }
  if (const char* token = std::getenv("SPOTD_TOKEN"); token != nullptr) options.token = token;
  SPOTD_ASSIGN_OR_RETURN(options.mix, ParseMix(absl::GetFlag(FLAGS_mix)));
  options.rate = absl::GetFlag(FLAGS_rate);
  options.concurrency = absl::GetFlag(FLAGS_concurrency);
  options.duration = absl::ToChronoMilliseconds(absl::GetFlag(FLAGS_duration));
  options.grace = absl::ToChronoMilliseconds(absl::GetFlag(FLAGS_grace));
  options.deadline = absl::ToChronoMilliseconds(absl::GetFlag(FLAGS_deadline));
  options.health_interval = absl::ToChronoMilliseconds(absl::GetFlag(FLAGS_health_interval));
  options.connections = absl::GetFlag(FLAGS_connections);
  options.seed = absl::GetFlag(FLAGS_seed);
  options.policy = absl::GetFlag(FLAGS_serve_policy);
  if (!(options.rate >= 0) || options.concurrency < 1 || options.connections < 1 ||
      options.duration.count() < 1 || options.grace.count() < 0) {
    return InvalidArgument("--rate, --concurrency, --connections, --duration: out of range");
  }
  return options;
}

// On a server, or with --model on an engine of this process.
absl::StatusOr<LoadResult> LoadWhatIsAsked(const LoadOptions& options) {
  tools::ModelOptions model;
  model.model = absl::GetFlag(FLAGS_model);
  if (model.model.empty()) return RunLoad(options);
  model.backend = absl::GetFlag(FLAGS_backend);
  model.threads = absl::GetFlag(FLAGS_threads);
  model.chunk = absl::GetFlag(FLAGS_chunk);
  model::Policy policy;
  policy.kind = model::PolicyKind::kFull;
  if (!options.policy.empty()) {
    SPOTD_ASSIGN_OR_RETURN(policy.kind, model::ParsePolicy(options.policy));
  }
  policy.k_tokens = absl::GetFlag(FLAGS_k_tokens);
  policy.fraction = static_cast<float>(absl::GetFlag(FLAGS_fraction));
  SPOTD_RETURN_IF_ERROR(policy.Validate());
  return RunEngineLoad(options, model, policy);
}

}  // namespace

absl::Status RunServe() {
  SPOTD_ASSIGN_OR_RETURN(const LoadOptions options, OptionsFromFlags());
  SPOTD_ASSIGN_OR_RETURN(const LoadResult load, LoadWhatIsAsked(options));
  const ServeReport report(load);
  if (absl::GetFlag(FLAGS_json)) {
    std::printf("%s\n", report.ToJson().dump().c_str());
  } else {
    std::printf("%s", report.ToText().c_str());
  }
  const std::string plot = absl::GetFlag(FLAGS_plot);
  if (plot.empty()) return absl::OkStatus();
  std::ofstream file(plot);
  if (!(file << report.ToSvg()) || !file.flush())
    return InvalidArgument("--plot: cannot write ", plot);
  return absl::OkStatus();
}

}  // namespace spotd::bench
