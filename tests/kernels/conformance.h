// What the conformance tests share: a random paged cache, and a rig that runs an operation on one
// backend from host data.
//
// Inputs are rounded to bf16, so that a backend with bf16 activations starts from the same values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "kernels/backend.h"
#include "kernels/core/float16.h"
#include "kernels/paged.h"

namespace spotd::kernels {

inline float RoundToBf16(float x) {
  return ToFloat(ToBf16(x));
}

inline std::vector<float> RandomFloats(size_t n, float scale, std::mt19937& random) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(n);
  for (float& v : x) v = RoundToBf16(normal(random));
  return x;
}

// "cpu:AVX2" is the CPU backend held to one of the instruction sets it was built for. Holds for
// every later operation of the process, until the next call.
inline void HoldToInstructionSet(const std::string& name) {
  int64_t held = 0;  // no limit
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (name == std::string("cpu:") + hwy::TargetName(target)) held = target;
  }
  hwy::SetSupportedTargetsForTest(held);
  hwy::GetChosenTarget().DeInit();
}

// Owns a backend and everything uploaded to it.
class Rig {
 public:
  explicit Rig(const std::string& name, int threads = 2) {
    const bool cpu = name.starts_with("cpu");
    if (cpu) {
      hwy::SetSupportedTargetsForTest(0);
      HoldToInstructionSet(name);
    }
    auto backend = CreateBackend({cpu ? "cpu" : name, threads});
    if (!backend.ok()) {
      ADD_FAILURE() << backend.status().ToString();
      std::abort();
    }
    backend_ = *std::move(backend);
  }

  Backend& operator*() const { return *backend_; }
  Backend* operator->() const { return backend_.get(); }
  bool bf16() const { return backend_->activation_bytes() == 2; }

  void* PutBytes(const void* data, size_t bytes) {
    auto buffer = backend_->Allocate(std::max<size_t>(bytes, 1));
    if (!buffer.ok()) {
      ADD_FAILURE() << buffer.status().ToString();
      std::abort();
    }
    backend_->Upload(buffer->data(), data, bytes);
    buffers_.push_back(*std::move(buffer));
    return buffers_.back().data();
  }
  template <typename T>
  T* Put(const std::vector<T>& values) {
    return static_cast<T*>(PutBytes(values.data(), values.size() * sizeof(T)));
  }
  // As the backend's activation type.
  void* PutAct(const std::vector<float>& values) {
    if (!bf16()) return Put(values);
    std::vector<Bf16> rounded;
    for (const float v : values) rounded.push_back(ToBf16(v));
    return Put(rounded);
  }
  // n activations that an operation is to overwrite: NaN until then.
  void* PoisonAct(size_t n) { return PutAct(std::vector<float>(n, NAN)); }
  float* PoisonFloats(size_t n) { return Put(std::vector<float>(n, NAN)); }

  template <typename T>
  std::vector<T> Get(const T* data, size_t n) {
    std::vector<T> values(n);
    backend_->Download(values.data(), data, n * sizeof(T));
    EXPECT_TRUE(backend_->Synchronize().ok());
    return values;
  }
  std::vector<float> GetAct(const void* data, size_t n) {
    if (!bf16()) return Get(static_cast<const float*>(data), n);
    std::vector<float> values;
    for (const Bf16 v : Get(static_cast<const Bf16*>(data), n)) values.push_back(ToFloat(v));
    return values;
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::vector<Buffer> buffers_;
};

struct Shape {
  int kv_heads;
  int group;
  int head_dim;
  int block_tokens;
  std::vector<int> kv_len;  // per sequence, this step's rows included
  std::vector<int> rows;    // per sequence; empty: one each (decode)

  int q_heads() const { return kv_heads * group; }
  int max_len() const { return *std::max_element(kv_len.begin(), kv_len.end()); }
  int max_blocks() const { return NumBlocks(max_len(), block_tokens); }
};

inline void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.kv_heads << "x" << s.group << "x" << s.head_dim << " block " << s.block_tokens
       << ", lengths";
  for (const int n : s.kv_len) *out << " " << n;
}

// A cache in which every sequence is filled with random K and V, its blocks scattered over the
// pool. What no token owns is NaN: an operation that reads it shows.
class Scene {
 public:
  Scene(const Shape& shape, uint32_t seed) : shape_(shape), random_(seed) {
    for (const int n : shape.kv_len) num_blocks_ += NumBlocks(n, shape.block_tokens);
    num_blocks_ += 3;
    std::vector<int32_t> free(static_cast<size_t>(num_blocks_));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), random_);
    stride_ = shape.max_blocks() + 1;
    row_start_.push_back(0);
    for (size_t s = 0; s < shape.kv_len.size(); ++s) {
      for (int b = 0; b < stride_; ++b) {
        const bool used = b < NumBlocks(shape.kv_len[s], shape.block_tokens);
        tables_.push_back(used ? free.back() : -1);
        if (used) free.pop_back();
      }
      row_start_.push_back(row_start_.back() + (shape.rows.empty() ? 1 : shape.rows[s]));
    }
    const auto head = static_cast<size_t>(shape.block_tokens * shape.head_dim);
    kv_.assign(static_cast<size_t>(num_blocks_) * 2 * static_cast<size_t>(shape.kv_heads) * head,
               ToBf16(NAN));
    summary_.assign(kv_.size() / static_cast<size_t>(shape.block_tokens), ToBf16(NAN));
    for (int s = 0; s < num_seqs(); ++s) {
      for (int t = 0; t < shape.kv_len[static_cast<size_t>(s)]; ++t) FillToken(s, t);
    }
  }

  const Shape& shape() const { return shape_; }
  int num_seqs() const { return static_cast<int>(shape_.kv_len.size()); }
  int num_rows() const { return row_start_.back(); }
  int num_blocks() const { return num_blocks_; }
  int stride() const { return stride_; }
  std::mt19937& random() { return random_; }
  std::vector<Bf16>& kv() { return kv_; }
  std::vector<Bf16>& summary() { return summary_; }
  const std::vector<int32_t>& tables() const { return tables_; }
  const std::vector<int32_t>& row_start() const { return row_start_; }

  std::vector<float> Queries(float scale) {
    return RandomFloats(static_cast<size_t>(num_rows() * shape_.q_heads() * shape_.head_dim), scale,
                        random_);
  }

  SequenceBatch Batch(Rig& rig) const {
    const std::vector<int32_t> kv_len(shape_.kv_len.begin(), shape_.kv_len.end());
    return {num_seqs(), num_rows(),      shape_.max_len(),   rig.Put(tables_),
            stride_,    rig.Put(kv_len), rig.Put(row_start_)};
  }
  KvLayer Layer(Rig& rig) const {
    KvLayer layer = HostLayer(const_cast<Bf16*>(kv_.data()), const_cast<Bf16*>(summary_.data()));
    layer.kv = rig.Put(kv_);
    layer.summary = rig.Put(summary_);
    return layer;
  }
  KvLayer HostLayer(Bf16* kv, Bf16* summary) const {
    return {kv,
            summary,
            nullptr,
            num_blocks_,
            shape_.block_tokens,
            shape_.kv_heads,
            shape_.head_dim,
            0,
            SelectorKeyFormat::kNone};
  }
  int Physical(int seq, int block) const {
    return tables_[static_cast<size_t>(seq * stride_ + block)];
  }

 private:
  void FillToken(int seq, int token) {
    std::normal_distribution<float> normal;
    const KvLayer layer = HostLayer(kv_.data(), summary_.data());
    const int physical = Physical(seq, token / shape_.block_tokens);
    const int slot = token % shape_.block_tokens;
    for (int h = 0; h < shape_.kv_heads; ++h) {
      Bf16* const k = BlockKeys(layer, physical, h) + slot * shape_.head_dim;
      Bf16* const v = BlockValues(layer, physical, h) + slot * shape_.head_dim;
      Bf16* const bounds = BlockSummary(layer, physical, h);
      for (int i = 0; i < shape_.head_dim; ++i) {
        k[i] = ToBf16(normal(random_));
        v[i] = ToBf16(normal(random_));
        Bf16& low = bounds[i];
        Bf16& high = bounds[shape_.head_dim + i];
        low = slot == 0 || ToFloat(k[i]) < ToFloat(low) ? k[i] : low;
        high = slot == 0 || ToFloat(k[i]) > ToFloat(high) ? k[i] : high;
      }
    }
  }

  Shape shape_;
  std::mt19937 random_;
  int num_blocks_ = 0;
  int stride_ = 0;
  std::vector<int32_t> tables_;
  std::vector<int32_t> row_start_;
  std::vector<Bf16> kv_;
  std::vector<Bf16> summary_;
};

// |actual - expected| <= tolerance * max(1, |expected|) everywhere; NaN never passes.
inline void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected,
                        float tolerance, const char* what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] == expected[i]) continue;
    const float limit = tolerance * std::max(1.0f, std::fabs(expected[i]));
    ASSERT_LE(std::fabs(actual[i] - expected[i]), limit)
        << what << "[" << i << "]: " << actual[i] << " instead of " << expected[i];
    ASSERT_FALSE(std::isnan(actual[i])) << what << "[" << i << "]";
  }
}

// The backends that can run here, `ref` excepted, the CPU one with every instruction set.
inline std::vector<std::string> BackendsUnderTest() {
  std::vector<std::string> names = {"cpu"};
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    names.push_back(std::string("cpu:") + hwy::TargetName(target));
  }
  if (CreateBackend({"cuda", 0}).ok()) names.push_back("cuda");
  return names;
}

}  // namespace spotd::kernels
