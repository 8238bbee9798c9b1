// Conformance of the CUDA backend with the reference. Exits with 77 ("skipped") where no GPU is
// usable, saying why.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/ref/ref_backend.h"
#include "tests/gpu/device.h"

namespace spotd::kernels {
namespace {

std::unique_ptr<Device> gpu;

}  // namespace

Device& Reference() {
  static Device reference(CreateRefBackend());
  return reference;
}

Device& Gpu() {
  return *gpu;
}

}  // namespace spotd::kernels

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  auto backend = spotd::kernels::CreateCudaBackend();
  if (!backend.ok()) {
    std::printf("skipped: %s\n", std::string(backend.status().message()).c_str());
    return 77;
  }
  std::printf("%s\n", (*backend)->description().c_str());
  spotd::kernels::gpu = std::make_unique<spotd::kernels::Device>(*std::move(backend));
  const int result = RUN_ALL_TESTS();
  spotd::kernels::gpu.reset();
  return result;
}
