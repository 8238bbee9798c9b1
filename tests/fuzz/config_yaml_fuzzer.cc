// The server's configuration file.
#include "server/config.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

// Whether it is a map of options and values. With a table that is made once: making one takes ten
// times as long as reading a file, and most inputs end here.
bool SetsOptions(const std::string& text) {
  static spotd::server::ServerConfig config;
  static std::string config_file;
  static spotd::server::OptionTable table = spotd::server::MakeOptionTable(&config, &config_file);
  return table.ParseYaml(text, "fuzz").ok();
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(spotd::fuzz::AsText(data, size));
  if (!SetsOptions(text)) return 0;
  const char* const args[] = {"--config=fuzz"};
  const auto config = spotd::server::ParseConfig(
      args, [](const char*) -> const char* { return nullptr; },
      [&](const std::string&) -> absl::StatusOr<std::string> { return text; });
  if (config.ok()) (void)config->DefaultPolicy(true);
  return 0;
}
