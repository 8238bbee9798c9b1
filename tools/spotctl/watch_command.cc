#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "kernels/core/status.h"
#include "tools/spotctl/commands.h"
#include "tools/spotctl/watch_view.h"

namespace spotd::spotctl {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kDefaultMetrics[] = "127.0.0.1:9464";
constexpr float kDefaultInterval = 1;
constexpr float kShortestInterval = 0.05f;

struct Look {
  MetricsPage page;
  Clock::time_point time;
};

absl::StatusOr<Look> TakeLook(const std::string& address) {
  SPOTD_ASSIGN_OR_RETURN(const std::string text, FetchMetrics(address));
  return Look{MetricsPage::Parse(text), Clock::now()};
}

int NoServer(const absl::Status& status) {
  std::fprintf(stderr, "spotctl: %s\n", std::string(status.message()).c_str());
  return kRpcError;
}

void Show(const WatchFigures& figures, const WatchHistory& history, bool json, bool terminal) {
  if (json) {
    std::printf("%s\n", figures.ToJson().c_str());
  } else {
    // From the upper left corner, and nothing of the view before below it.
    std::printf("%s%s%s", terminal ? "\033[H" : "", RenderWatch(figures, history, terminal).c_str(),
                terminal ? "\033[J" : "\n");
  }
  std::fflush(stdout);
}

// Until Ctrl-C, or `count` views.
int Watch(const Client& client, const CommandLine& line) {
  const auto interval = line.GetFloat("interval");
  const auto count = line.GetInt<int64_t>("count");
  for (const absl::Status& status : {interval.status(), count.status()}) {
    if (!status.ok()) return UsageError(status);
  }
  const float seconds = interval->value_or(kDefaultInterval);
  if (!(seconds >= kShortestInterval)) {
    return UsageError(InvalidArgument("--interval: at least ", kShortestInterval, " seconds"));
  }
  const char* environment = std::getenv("SPOTD_METRICS_ADDRESS");
  const std::string address =
      line.Get("metrics").value_or(environment == nullptr ? kDefaultMetrics : environment);
  const bool terminal = isatty(STDOUT_FILENO) == 1 && !client.json();

  absl::StatusOr<Look> before = TakeLook(address);
  if (!before.ok()) return NoServer(before.status());
  if (terminal) std::printf("\033[2J");
  WatchHistory history;
  for (int64_t shown = 0; !count->has_value() || shown < **count; ++shown) {
    std::this_thread::sleep_for(std::chrono::duration<float>(seconds));
    absl::StatusOr<Look> after = TakeLook(address);
    if (!after.ok()) return NoServer(after.status());
    const std::chrono::duration<double> elapsed = after->time - before->time;
    const WatchFigures figures(before->page, after->page, elapsed.count());
    history.Add(figures);
    Show(figures, history, client.json(), terminal);
    before = std::move(after);
  }
  return kOk;
}

}  // namespace

std::vector<Command> WatchCommands() {
  return {{"watch",
           "",
           "Show a live view of the server's metrics",
           0,
           0,
           {{"metrics", "HOST:PORT",
             "where /metrics is (default $SPOTD_METRICS_ADDRESS, else 127.0.0.1:9464)"},
            {"interval", "SECONDS", "between looks (default 1)"},
            {"count", "N", "end after N views"}},
           &Watch}};
}

}  // namespace spotd::spotctl
