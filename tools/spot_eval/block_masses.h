// True attention masses of blocks, brought to the host: what the instruments look at.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/args.h"
#include "kernels/backend.h"

namespace spotd::eval {

// Copies an array of a backend to the host.
template <typename T>
std::vector<T> ToHost(kernels::Backend& backend, const T* data, size_t count) {
  std::vector<T> host(count);
  backend.Download(host.data(), data, count * sizeof(T));
  return host;
}

// Copies a host array to a backend; `buffer` grows where it is too small.
absl::Status ToBackend(kernels::Backend& backend, const void* host, size_t bytes,
                       kernels::Buffer* buffer);
absl::Status Grow(kernels::Backend& backend, size_t bytes, kernels::Buffer* buffer);

class BlockMasses {
 public:
  explicit BlockMasses(kernels::Backend* backend) : backend_(backend) {}

  // log of the mass of each block, averaged over the query heads of each KV head:
  // [rows, kv_heads, args.lse_stride]. args.block_lse is not used. Where
  // `instead_of` is not empty, the keys of physical block b are read from instead_of[b].
  //
  // The backend knows one choice a layer. So each KV head is presented to it as a layer of its own:
  // with one KV head a block is half as large per head, hence block b of head h is number
  // b * kv_heads + h / 2 of the array that starts at head h % 2.
  absl::Status ReadPerKvHead(const kernels::OracleScoreArgs& args,
                             std::span<const int32_t> instead_of, std::vector<float>* masses);

 private:
  absl::Status Score(const kernels::OracleScoreArgs& args, std::vector<float>* masses);
  kernels::OracleScoreArgs HeadView(const kernels::OracleScoreArgs& args, int32_t head);
  absl::Status UploadHead(const kernels::OracleScoreArgs& args, int32_t head,
                          std::span<const int32_t> tables, std::span<const char> q);

  kernels::Backend* backend_;
  kernels::Buffer scores_;
  kernels::Buffer tables_;
  kernels::Buffer q_;
};

}  // namespace spotd::eval
