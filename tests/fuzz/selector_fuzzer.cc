// A selector file for a model of two layers.
#include "runtime/model/selector.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

// make_seeds.py writes selectors for it.
spotd::model::ModelConfig TwoLayers() {
  spotd::model::ModelConfig config;
  config.name = "fuzz";
  config.architecture = "llama";
  config.layers = 2;
  config.hidden = 32;  // a row of 8-bit codes that stay so
  config.kv_heads = 2;
  return config;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const spotd::model::ModelConfig config = TwoLayers();
  const auto selector = spotd::model::ReadSelector(
      spotd::formats::MappedFile::InMemory("fuzz", spotd::fuzz::AsText(data, size)), config);
  if (!selector.ok()) return 0;
  for (int layer = 0; layer < config.layers; ++layer) {
    for (const char* part : {"q", "k", "w", "k_norm"}) {
      const auto tensor = (*selector)->Tensor(layer, part);
      if (!tensor.ok() || tensor->bytes == 0) continue;
      volatile char last = static_cast<const char*>(tensor->data)[tensor->bytes - 1];
      (void)last;
    }
  }
  return 0;
}
