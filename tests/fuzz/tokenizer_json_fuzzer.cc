// tokenizer.json, and what it makes of text: the input is the file, a zero byte, and the text.
#include <algorithm>

#include "runtime/text/tokenizer.h"
#include "runtime/text/tokenizer_json.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input = spotd::fuzz::AsText(data, size);
  const size_t end = std::min(input.find('\0'), input.size());
  const std::string_view text = input.substr(std::min(end + 1, input.size()));
  auto parsed = spotd::text::ParseTokenizerJson(input.substr(0, end), "{}");
  if (!parsed.ok()) return 0;
  const auto tokenizer = spotd::text::Tokenizer::Create(*std::move(parsed));
  if (!tokenizer.ok()) return 0;
  const auto ids = (*tokenizer)->Encode(text, {.add_special = true, .parse_special = true});
  if (!ids.ok()) return 0;
  (void)(*tokenizer)->Decode(*ids);
  spotd::text::StreamDecoder decoder(tokenizer->get());
  for (const int32_t id : *ids) decoder.Push(id);
  decoder.Finish();
  return 0;
}
