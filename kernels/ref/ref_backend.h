// The reference: every operation of backend.h written as its formula, one scalar at a time, with
// sums in double. Slow and obviously right; the other backends are tested against it.
#pragma once

#include <memory>

#include "kernels/backend.h"

namespace spotd::kernels {

std::unique_ptr<Backend> CreateRefBackend();

}  // namespace spotd::kernels
