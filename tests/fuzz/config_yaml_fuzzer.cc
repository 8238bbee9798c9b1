// The server's configuration file.
#include "server/config.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const char* const args[] = {"--config=fuzz"};
  const auto config = spotd::server::ParseConfig(
      args, [](const char*) -> const char* { return nullptr; },
      [&](const std::string&) -> absl::StatusOr<std::string> {
        return std::string(spotd::fuzz::AsText(data, size));
      });
  if (config.ok()) (void)config->DefaultPolicy(true);
  return 0;
}
