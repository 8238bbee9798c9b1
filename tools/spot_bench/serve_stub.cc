// Linked instead of serve.cc when the build has no gRPC.
#include "kernels/core/status.h"
#include "tools/spot_bench/serve.h"

namespace spotd::bench {

absl::Status RunServe() {
  return Unimplemented("built without the server and its gRPC clients (SPOTD_SERVER=OFF)");
}

}  // namespace spotd::bench
