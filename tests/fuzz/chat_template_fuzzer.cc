// A chat template, parsed and rendered: it is code from a checkpoint and runs inside the server.
#include <chrono>

#include "runtime/text/chat_template.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parsed =
      spotd::text::ChatTemplate::Parse(std::string(spotd::fuzz::AsText(data, size)));
  if (!parsed.ok()) return 0;
  const spotd::text::ChatMessage messages[] = {
      {"system", "Be brief."}, {"user", "Who <|im_end|> are you?"}, {"assistant", "Nobody."}};
  spotd::text::ChatTemplateOptions options;
  options.bos_token = "<s>";
  options.eos_token = "</s>";
  options.now = std::chrono::system_clock::time_point();
  (void)(*parsed)->Render(messages, options);
  return 0;
}
