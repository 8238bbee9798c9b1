// Encoding and decoding speed; bytes are those of the text. One thread.
#include <benchmark/benchmark.h>

#include <string>

#include "runtime/text/tokenizer.h"
#include "runtime/text/tokenizer_json.h"
#include "tests/runtime/text/corpus.h"
#include "tests/runtime/text/test_files.h"

namespace spotd::text {
namespace {

constexpr const char* kFamilies[] = {"llama3_small", "qwen_small", "smollm_small"};

std::unique_ptr<Tokenizer> Load(int64_t family) {
  const std::string name = kFamilies[family];
  return *Tokenizer::Create(*ParseTokenizerJson(ReadGolden("tokenizers/" + name + ".json"), ""));
}

// The English of the seed text, a megabyte of it.
std::string English() {
  const std::string seed = ReadGolden("seed.txt");
  const std::string lines = seed.substr(0, seed.find("Alle Menschen"));
  std::string text;
  while (text.size() < (size_t{1} << 20)) text += lines;
  return text;
}

void Encode(benchmark::State& state, const std::string& text) {
  const auto tokenizer = Load(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->Encode(text, {}));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
  state.SetLabel(kFamilies[state.range(0)]);
}

void BM_EncodeEnglish(benchmark::State& state) {
  Encode(state, English());
}
void BM_EncodeMixed(benchmark::State& state) {
  Encode(state, Corpus(ReadGolden("seed.txt")).MixedText(0));
}
void BM_EncodeOneWord(benchmark::State& state) {
  Encode(state, std::string(1 << 20, 'a'));
}

void BM_Decode(benchmark::State& state) {
  const auto tokenizer = Load(state.range(0));
  const std::string text = English();
  const auto ids = *tokenizer->Encode(text, {});
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->Decode(ids));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}

BENCHMARK(BM_EncodeEnglish)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_EncodeMixed)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_EncodeOneWord)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_Decode)->Arg(0)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace spotd::text
