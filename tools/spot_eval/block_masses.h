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
  absl::Status ReadPerKvHead(const kernels::OracleScoreArgs& args,
                             std::span<const int32_t> instead_of, std::vector<float>* masses);

 private:
  kernels::Backend* backend_;
  kernels::Buffer scores_;
  kernels::Buffer tables_;
};

}  // namespace spotd::eval
