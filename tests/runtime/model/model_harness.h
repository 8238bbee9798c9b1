// A loaded model with its store, for tests: one call to run tokens through prefill or decode and
// get logits back.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/core/status.h"
#include "kvstore/kv_store.h"
#include "runtime/formats/safetensors_file.h"
#include "runtime/model/model_source.h"
#include "runtime/model/tensor_convert.h"
#include "runtime/model/transformer.h"

namespace spotd::model {

inline std::string ModelPath(const std::string& name) {
  return std::string(SPOTD_SOURCE_DIR) + "/tests/data/models/" + name;
}

struct HarnessOptions {
  std::string backend = "ref";
  int threads = 2;  // 0 = one per core
  Limits limits;
  int32_t kv_tokens = 2048;
  const SelectorConfig* selector = nullptr;  // random weights
  kernels::SelectorKeyFormat format = kernels::SelectorKeyFormat::kBf16;
  // Nullable: puts a checkpoint of the test's own in front of the file's.
  std::function<std::unique_ptr<ModelSource>(std::unique_ptr<ModelSource>)> wrap_source;
  // Nullable: puts a backend of the test's own in front of the named one.
  std::function<std::unique_ptr<kernels::Backend>(std::unique_ptr<kernels::Backend>)> wrap;
};

class ModelHarness {
 public:
  ModelHarness(const std::string& path, const HarnessOptions& options)
      : status_(Load(path, options)) {}

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  Transformer& transformer() { return *transformer_; }
  kvstore::KvStore& store() { return *store_; }
  size_t vocab() const { return static_cast<size_t>(transformer_->config().vocab); }

  // Logits of every position, [tokens, vocab]; chunks of the given sizes, the last one repeated.
  std::vector<float> Prefill(kvstore::BlockTable* table, std::span<const int32_t> tokens,
                             std::vector<size_t> chunks) {
    std::vector<float> logits(tokens.size() * vocab());
    size_t done = 0;
    for (size_t i = 0; done < tokens.size(); ++i) {
      const size_t wanted = chunks[std::min(i, chunks.size() - 1)];
      const size_t size = std::min(wanted, tokens.size() - done);
      EXPECT_TRUE(store_->Reserve(table, static_cast<int32_t>(size)).ok());
      const auto status =
          transformer_->PrefillAllLogits({tokens.subspan(done, size), table},
                                         std::span(logits).subspan(done * vocab(), size * vocab()));
      EXPECT_TRUE(status.ok()) << status;
      store_->Commit(table, static_cast<int32_t>(size));
      done += size;
    }
    return logits;
  }

  // Feeds the tokens one decode step each; logits [tokens, vocab] when wanted. `results` gets the
  // last step's.
  std::vector<float> Decode(kvstore::BlockTable* table, std::span<const int32_t> tokens,
                            const Policy& policy, DecodeResult* result = nullptr,
                            SelectionTrace* trace = nullptr) {
    std::vector<float> logits(tokens.size() * vocab());
    for (size_t i = 0; i < tokens.size(); ++i) {
      DecodeRow row = Row(tokens[i], table, policy);
      row.trace = trace;
      DecodeResult out;
      EXPECT_TRUE(store_->Reserve(table, 1).ok());
      const auto status = transformer_->Decode({&row, 1}, {&out, 1},
                                               std::span(logits).subspan(i * vocab(), vocab()));
      EXPECT_TRUE(status.ok()) << status;
      store_->Commit(table, 1);
      if (result != nullptr) *result = out;
    }
    return logits;
  }

  // A greedy row.
  static DecodeRow Row(int32_t token, kvstore::BlockTable* table, const Policy& policy) {
    DecodeRow row;
    row.token = token;
    row.table = table;
    row.policy = policy;
    row.sampling = Greedy();
    return row;
  }
  static kernels::SamplingParams Greedy() {
    kernels::SamplingParams params = {};
    params.top_p = 1.0f;
    params.repetition_penalty = 1.0f;
    return params;
  }

 private:
  absl::Status Load(const std::string& path, const HarnessOptions& options) {
    SPOTD_ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source, OpenModel(path));
    if (options.wrap_source) source = options.wrap_source(std::move(source));
    SPOTD_ASSIGN_OR_RETURN(backend_, kernels::CreateBackend({options.backend, options.threads}));
    if (options.wrap) backend_ = options.wrap(std::move(backend_));
    std::unique_ptr<SelectorSource> selector;
    if (options.selector != nullptr) {
      selector = RandomSelector(source->config(), *options.selector, 5);
    }
    SPOTD_ASSIGN_OR_RETURN(transformer_, Transformer::Load(backend_.get(), *source,
                                                           std::move(selector), options.limits));
    const kvstore::KvLayout layout = transformer_->KvLayoutFor(options.format);
    const auto blocks = static_cast<size_t>(options.kv_tokens / layout.block_tokens);
    SPOTD_ASSIGN_OR_RETURN(
        store_, kvstore::KvStore::Create(backend_.get(), layout, blocks * layout.BytesPerBlock()));
    transformer_->AttachStore(store_.get());
    return absl::OkStatus();
  }

  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Transformer> transformer_;
  std::unique_ptr<kvstore::KvStore> store_;
  absl::Status status_;  // last: made by Load, which fills the members above
};

// |a - b| / |b| in the 2-norm.
inline double RelativeError(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

// What tests/data/make_model_goldens.py recorded.
struct Golden {
  std::vector<int32_t> tokens;
  std::vector<float> logits;
  std::vector<float> logits_bf16kv;
  std::vector<float> inv_freq;
  float magnitude = 1.0f;
};
inline Golden ReadGolden(const std::string& path) {
  const auto file = formats::SafetensorsFile::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  const auto floats = [&](const char* name) {
    const formats::SafetensorsTensor& tensor = file->tensors().at(name);
    return ToFloats({*tensor.type, tensor.shape, tensor.data, tensor.bytes});
  };
  Golden golden;
  for (const float token : floats("tokens")) golden.tokens.push_back(static_cast<int32_t>(token));
  golden.logits = floats("logits");
  golden.logits_bf16kv = floats("logits_bf16kv");
  golden.inv_freq = floats("inv_freq");
  golden.magnitude = floats("magnitude")[0];
  return golden;
}

}  // namespace spotd::model
