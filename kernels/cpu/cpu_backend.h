// The fast host backend: SIMD chosen at run time (Highway), a fixed pool of threads.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace spotd::kernels {

// threads: 0 = one per core this process may run on. A result depends on neither the number of
// threads nor the other rows of a batch.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(int threads);

}  // namespace spotd::kernels
