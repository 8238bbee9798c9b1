// Sequences with a paged cache, the same on every device: block tables in random order, every byte
// that no token owns NaN.
#pragma once

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "tests/gpu/device.h"

namespace spotd::kernels {

struct SceneShape {
  std::vector<int32_t> kv_len;
  std::vector<int32_t> rows;  // per sequence; one each when empty
  int32_t block_tokens = 16;
  int32_t q_heads = 8;
  int32_t kv_heads = 2;
  int32_t head_dim = 128;
  int32_t selector_heads = 4;
  int32_t selector_dim = 0;
  SelectorKeyFormat format = SelectorKeyFormat::kNone;
  bool summaries = false;
};

inline std::ostream& operator<<(std::ostream& out, const SceneShape& s) {
  out << "len";
  for (const int32_t n : s.kv_len) out << " " << n;
  for (const int32_t n : s.rows) out << " rows " << n;
  return out << ", block " << s.block_tokens << ", heads " << s.q_heads << "/" << s.kv_heads
             << " x " << s.head_dim << ", selector " << s.selector_heads << " x " << s.selector_dim
             << " format " << static_cast<int>(s.format);
}

// The device memory of one scene. Valid while it lives.
class Scene {
 public:
  Scene(Device& device, const SceneShape& shape, uint32_t seed) : shape_(shape), seed_(seed) {
    const auto seqs = static_cast<int32_t>(shape.kv_len.size());
    std::vector<int32_t> row_start = {0};
    for (int32_t s = 0; s < seqs; ++s) {
      row_start.push_back(row_start.back() +
                          (shape.rows.empty() ? 1 : shape.rows[static_cast<size_t>(s)]));
    }
    const int32_t longest = *std::max_element(shape.kv_len.begin(), shape.kv_len.end());
    const int32_t stride = (longest + shape.block_tokens - 1) / shape.block_tokens + 1;
    num_blocks_ = 3;
    for (const int32_t n : shape.kv_len)
      num_blocks_ += (n + shape.block_tokens - 1) / shape.block_tokens;
    std::vector<int32_t> order(static_cast<size_t>(num_blocks_));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    tables_.assign(static_cast<size_t>(seqs) * stride, -1);
    size_t next = 0;
    for (size_t s = 0; s < shape.kv_len.size(); ++s) {
      for (int32_t b = 0; b * shape.block_tokens < shape.kv_len[s]; ++b) {
        tables_[s * stride + static_cast<size_t>(b)] = order[next++];
      }
    }
    table_stride_ = stride;
    buffers_.push_back(device.Put(tables_));
    batch.block_tables = buffers_.back().as<int32_t>();
    buffers_.push_back(device.Put(shape.kv_len));
    batch.kv_len = buffers_.back().as<int32_t>();
    buffers_.push_back(device.Put(row_start));
    batch.row_start = buffers_.back().as<int32_t>();
    batch.num_seqs = seqs;
    batch.num_rows = row_start.back();
    batch.max_kv_len = longest;
    batch.table_stride = stride;
    MakeLayer(device);
  }

  const SceneShape& shape() const { return shape_; }
  int32_t rows() const { return batch.num_rows; }
  int32_t max_blocks() const {
    return (batch.max_kv_len + shape_.block_tokens - 1) / shape_.block_tokens;
  }

  SequenceBatch batch = {};
  KvLayer layer = {};
  Buffer kv;
  Buffer summary;
  Buffer selector_keys;

  // K and V of every token, normal; the rest of the pool NaN. Summaries are made to fit.
  void FillCache(Device& device, float deviation = 1.0f) {
    const SceneShape& s = shape_;
    const size_t head = static_cast<size_t>(s.block_tokens) * s.head_dim;
    std::vector<Bf16> pool(kv.bytes() / 2, Bf16{0xffff});
    std::vector<Bf16> bounds(summary.bytes() / 2, Bf16{0xffff});
    std::mt19937 random(seed_ + 1);
    std::normal_distribution<float> normal(0.0f, deviation);
    for (size_t seq = 0; seq < s.kv_len.size(); ++seq) {
      for (int32_t token = 0; token < s.kv_len[seq]; ++token) {
        const auto block =
            static_cast<size_t>(tables_[seq * static_cast<size_t>(table_stride_) +
                                        static_cast<size_t>(token / s.block_tokens)]);
        for (size_t part = 0; part < 2 * static_cast<size_t>(s.kv_heads); ++part) {
          Bf16* row = &pool[(block * 2 * static_cast<size_t>(s.kv_heads) + part) * head +
                            static_cast<size_t>(token % s.block_tokens * s.head_dim)];
          for (int32_t i = 0; i < s.head_dim; ++i) row[i] = ToBf16(normal(random));
          if (bounds.empty() || part >= static_cast<size_t>(s.kv_heads)) continue;
          Bf16* low = &bounds[(block * static_cast<size_t>(s.kv_heads) + part) * 2 *
                              static_cast<size_t>(s.head_dim)];
          UpdateBounds(row, token % s.block_tokens == 0, low);
        }
      }
    }
    device->Upload(kv.data(), pool.data(), kv.bytes());
    if (!bounds.empty()) device->Upload(summary.data(), bounds.data(), summary.bytes());
  }

  // Selector keys of every token, through AppendSelector itself: the order of bytes is the
  // backend's own.
  void FillSelectorKeys(Device& device) {
    const SceneShape& s = shape_;
    SceneShape all = s;
    all.rows = s.kv_len;
    std::vector<int32_t> row_start = {0};
    std::vector<int32_t> positions;
    for (const int32_t n : s.kv_len) {
      row_start.push_back(row_start.back() + n);
      for (int32_t i = 0; i < n; ++i) positions.push_back(i);
    }
    const size_t rows = positions.size();
    Buffer starts = device.Put(row_start);
    Buffer where = device.Put(positions);
    Buffer k = device.PutActs(RandomActs(rows * static_cast<size_t>(s.selector_dim), seed_ + 2));
    Buffer norm =
        device.Put(RandomFloats(static_cast<size_t>(s.selector_dim), seed_ + 3, 1.0f, 0.2f));
    Buffer frequencies = device.Put(Frequencies(s.selector_dim));
    AppendSelectorArgs args = {};
    args.batch = batch;
    args.batch.num_rows = static_cast<int32_t>(rows);
    args.batch.row_start = starts.as<int32_t>();
    args.layer = layer;
    args.rope = {frequencies.as<float>(), s.selector_dim, 1.0f};
    args.positions = where.as<int32_t>();
    args.heads = s.selector_heads;
    args.k = k.data();
    args.k_norm = norm.as<float>();
    args.eps = 1e-6f;
    device->AppendSelector(args);
    EXPECT_TRUE(device->Synchronize().ok());
  }

  static std::vector<float> Frequencies(int32_t dim, float theta = 1e4f) {
    std::vector<float> frequencies;
    for (int32_t i = 0; i < dim / 2; ++i) {
      frequencies.push_back(
          std::pow(theta, -2.0f * static_cast<float>(i) / static_cast<float>(dim)));
    }
    return frequencies;
  }

 private:
  void MakeLayer(Device& device) {
    const SceneShape& s = shape_;
    const auto blocks = static_cast<size_t>(num_blocks_);
    kv = device.MakePoisoned(blocks * 4 *
                             static_cast<size_t>(s.kv_heads * s.block_tokens * s.head_dim));
    layer = {kv.data(),  nullptr,    nullptr,        num_blocks_, s.block_tokens,
             s.kv_heads, s.head_dim, s.selector_dim, s.format};
    if (s.summaries) {
      summary = device.MakePoisoned(blocks * 4 * static_cast<size_t>(s.kv_heads * s.head_dim));
      layer.summary = summary.data();
    }
    if (s.selector_dim > 0) {
      selector_keys = device.MakePoisoned(blocks * static_cast<size_t>(s.block_tokens) *
                                          SelectorKeyBytes(s.format, s.selector_dim));
      layer.selector_keys = selector_keys.data();
    }
  }

  void UpdateBounds(const Bf16* row, bool first, Bf16* low) {
    Bf16* high = low + shape_.head_dim;
    for (int32_t i = 0; i < shape_.head_dim; ++i) {
      if (first || ToFloat(row[i]) < ToFloat(low[i])) low[i] = row[i];
      if (first || ToFloat(row[i]) > ToFloat(high[i])) high[i] = row[i];
    }
  }

  SceneShape shape_;
  uint32_t seed_;
  int32_t num_blocks_ = 0;
  int32_t table_stride_ = 0;
  std::vector<int32_t> tables_;
  std::vector<Buffer> buffers_;
};

}  // namespace spotd::kernels
