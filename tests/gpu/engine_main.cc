// Runs tests of the engine with its tiny models on the GPU. Exits with 77 ("skipped") where no GPU
// is usable, saying why.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "kernels/core/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/runtime/tiny_model.h"

namespace {

std::unique_ptr<spotd::kernels::Backend> MakeGpu() {
  auto backend = spotd::kernels::CreateCudaBackend();
  SPOTD_CHECK(backend.ok());
  return *std::move(backend);
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (const auto backend = spotd::kernels::CreateCudaBackend(); !backend.ok()) {
    std::printf("skipped: %s\n", std::string(backend.status().message()).c_str());
    return 77;
  }
  spotd::testing::TinyBackend() = MakeGpu;
  return RUN_ALL_TESTS();
}
