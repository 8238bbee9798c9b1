// config.json of a Hugging Face directory.
#include "runtime/model/checkpoint.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = spotd::model::ReadHfConfig(spotd::fuzz::AsText(data, size), "", "fuzz");
  if (config.ok()) (void)spotd::model::CheckConfig(*config, "fuzz");
  return 0;
}
