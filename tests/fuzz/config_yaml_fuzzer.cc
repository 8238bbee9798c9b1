// The server's configuration file.
#include "server/config.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const spotd::fuzz::MemoryFile file(spotd::fuzz::AsText(data, size));
  const char* const args[] = {"--config", file.path().c_str()};
  const auto config =
      spotd::server::ParseConfig(args, [](const char*) -> const char* { return nullptr; });
  if (config.ok()) (void)config->DefaultPolicy(true);
  return 0;
}
