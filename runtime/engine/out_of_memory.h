// An allocation that fails costs the call for which it was made, where the call can still be
// refused: while it is parsed, checked, tokenised and queued. The engine's own thread allocates
// little, and ends the process with a message where it cannot.
#pragma once

#include <new>

#include "absl/status/status.h"

namespace spotd::engine {

// RESOURCE_EXHAUSTED (SERVER_BUSY).
absl::Status OutOfMemory();

// What `work` returns, a status or a StatusOr; OutOfMemory where an allocation in it fails.
template <typename Work>
auto GuardMemory(const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }
}

}  // namespace spotd::engine
