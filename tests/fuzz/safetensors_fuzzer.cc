// A safetensors file; every tensor it admits must be readable to its end.
#include "runtime/formats/safetensors_file.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = spotd::formats::SafetensorsFile::Parse(
      spotd::formats::MappedFile::InMemory("fuzz", spotd::fuzz::AsText(data, size)));
  if (!file.ok()) return 0;
  for (const auto& [name, tensor] : file->tensors()) {
    if (tensor.bytes == 0) continue;
    volatile char first = static_cast<const char*>(tensor.data)[0];
    volatile char last = static_cast<const char*>(tensor.data)[tensor.bytes - 1];
    (void)first;
    (void)last;
  }
  return 0;
}
