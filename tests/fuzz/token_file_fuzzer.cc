// The file of token hashes.
#include "server/token_file.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tokens = spotd::server::TokenFile::Parse(spotd::fuzz::AsText(data, size), "fuzz");
  if (tokens.ok()) (void)tokens->TenantOf("token");
  return 0;
}
