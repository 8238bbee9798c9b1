// A GGUF checkpoint from the first byte to a working tokenizer.
#include "runtime/model/checkpoint.h"
#include "runtime/text/tokenizer.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto source = spotd::model::ReadGguf(
      spotd::formats::MappedFile::InMemory("fuzz", spotd::fuzz::AsText(data, size)));
  if (!source.ok()) return 0;
  const auto tokenizer = spotd::text::Tokenizer::Create((*source)->tokenizer_data());
  if (tokenizer.ok())
    (void)(*tokenizer)->Encode("a b <|im_end|> \xc3\xa9", {.parse_special = true});
  const auto norm = (*source)->Tensor("model.norm.weight");
  // The view must be readable to its end.
  if (norm.ok() && norm->bytes > 0) {
    volatile char last = static_cast<const char*>(norm->data)[norm->bytes - 1];
    (void)last;
  }
  return 0;
}
