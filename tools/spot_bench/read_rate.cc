#include "tools/spot_bench/read_rate.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "kernels/core/thread_pool.h"

namespace spotd::bench {
namespace {

constexpr size_t kWords = (size_t{256} << 20) / sizeof(uint64_t);
constexpr size_t kHugePage = size_t{2} << 20;
constexpr int kPasses = 16;

constexpr size_t kLanes = 8;

// Of a multiple of kLanes words. Independent sums keep enough loads in flight for the hardware
// prefetcher to be the limit.
uint64_t Sum(const uint64_t* data, size_t count) {
  uint64_t sums[kLanes] = {};
  for (size_t i = 0; i < count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += data[i + lane];
  }
  return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

}  // namespace

double MeasureReadRate(int threads) {
  ThreadPool pool(threads);
  // In huge pages, as the weights are.
  void* const memory = std::aligned_alloc(kHugePage, kWords * sizeof(uint64_t));
  if (memory == nullptr) return 0;
  madvise(memory, kWords * sizeof(uint64_t), MADV_HUGEPAGE);
  auto* const data = static_cast<uint64_t*>(memory);
  std::fill(data, data + kWords, uint64_t{1});
  std::vector<uint64_t> sums(static_cast<size_t>(threads));
  const size_t share = kWords / static_cast<size_t>(threads) / kLanes * kLanes;
  double best_seconds = 1e30;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.Run([&](int thread) {
      sums[static_cast<size_t>(thread)] = Sum(data + share * static_cast<size_t>(thread), share);
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best_seconds = std::min(best_seconds, elapsed.count());
  }
  std::free(memory);
  // The sums are used so that the reads cannot be optimised away.
  const bool read_all =
      std::all_of(sums.begin(), sums.end(), [&](uint64_t sum) { return sum == share; });
  return read_all ? static_cast<double>(share * threads * sizeof(uint64_t)) / best_seconds : 0;
}

}  // namespace spotd::bench
