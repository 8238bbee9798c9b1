#include "kernels/cuda/cublas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

namespace spotd::kernels::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;

// The library's functions that we call, resolved by name.
struct Api {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
};

template <typename F>
bool Resolve(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

void* OpenLibrary() {
  const std::string major = std::to_string(CUBLAS_VER_MAJOR);
  for (const std::string& name : {"libcublasLt.so." + major, std::string("libcublasLt.so"),
                                  "/usr/local/cuda/lib64/libcublasLt.so." + major}) {
    if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr)
      return library;
  }
  return nullptr;
}

std::optional<Api> LoadApi() {
  void* library = OpenLibrary();
  if (library == nullptr) return std::nullopt;
  Api api;
  const bool complete =
      Resolve(library, "cublasLtCreate", api.create) &&
      Resolve(library, "cublasLtDestroy", api.destroy) &&
      Resolve(library, "cublasLtMatmul", api.matmul) &&
      Resolve(library, "cublasLtMatmulAlgoGetHeuristic", api.heuristic) &&
      Resolve(library, "cublasLtMatmulDescCreate", api.desc_create) &&
      Resolve(library, "cublasLtMatmulDescDestroy", api.desc_destroy) &&
      Resolve(library, "cublasLtMatmulDescSetAttribute", api.desc_set) &&
      Resolve(library, "cublasLtMatrixLayoutCreate", api.layout_create) &&
      Resolve(library, "cublasLtMatrixLayoutDestroy", api.layout_destroy) &&
      Resolve(library, "cublasLtMatmulPreferenceCreate", api.preference_create) &&
      Resolve(library, "cublasLtMatmulPreferenceDestroy", api.preference_destroy) &&
      Resolve(library, "cublasLtMatmulPreferenceSetAttribute", api.preference_set);
  if (!complete) return std::nullopt;
  return api;
}

}  // namespace

struct CublasLt::Impl {
  // A product as the library sees it: column-major y^T = W^T-transposed times x^T.
  struct Plan {
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t weight = nullptr;
    cublasLtMatrixLayout_t x = nullptr;
    cublasLtMatrixLayout_t y = nullptr;
    cublasLtMatmulAlgo_t algo = {};
    bool usable = false;
  };
  using Key = std::tuple<int32_t, int32_t, int32_t, bool, bool>;

  Api api;
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;

  ~Impl() {
    for (auto& [key, plan] : plans) Destroy(plan);
    if (workspace != nullptr) cudaFree(workspace);
    if (handle != nullptr) api.destroy(handle);
  }

  void Destroy(Plan& plan) {
    if (plan.weight != nullptr) api.layout_destroy(plan.weight);
    if (plan.x != nullptr) api.layout_destroy(plan.x);
    if (plan.y != nullptr) api.layout_destroy(plan.y);
    if (plan.desc != nullptr) api.desc_destroy(plan.desc);
  }

  bool Describe(const GemmArgs& args, Plan& plan) {
    const cublasOperation_t transpose = CUBLAS_OP_T;
    const auto in = static_cast<uint64_t>(args.in_dim);
    const auto out = static_cast<uint64_t>(args.out_dim);
    const auto rows = static_cast<uint64_t>(args.rows);
    return api.desc_create(&plan.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           api.desc_set(plan.desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof(transpose)) ==
               CUBLAS_STATUS_SUCCESS &&
           api.layout_create(&plan.weight, CUDA_R_16BF, in, out, args.in_dim) ==
               CUBLAS_STATUS_SUCCESS &&
           api.layout_create(&plan.x, CUDA_R_16BF, in, rows, args.in_dim) ==
               CUBLAS_STATUS_SUCCESS &&
           api.layout_create(&plan.y, args.y_is_float ? CUDA_R_32F : CUDA_R_16BF, out, rows,
                             args.out_dim) == CUBLAS_STATUS_SUCCESS;
  }

  bool ChooseAlgorithm(Plan& plan) {
    cublasLtMatmulPreference_t preference = nullptr;
    if (api.preference_create(&preference) != CUBLAS_STATUS_SUCCESS) return false;
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    const bool ok =
        api.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                           sizeof(kWorkspaceBytes)) == CUBLAS_STATUS_SUCCESS &&
        api.heuristic(handle, plan.desc, plan.weight, plan.x, plan.y, plan.y, preference, 1,
                      &result, &found) == CUBLAS_STATUS_SUCCESS &&
        found == 1 && result.state == CUBLAS_STATUS_SUCCESS;
    api.preference_destroy(preference);
    plan.algo = result.algo;
    return ok;
  }

  Plan& PlanFor(const GemmArgs& args) {
    const Key key = {args.rows, args.out_dim, args.in_dim, args.y_is_float, args.accumulate};
    const auto [at, is_new] = plans.try_emplace(key);
    if (is_new) at->second.usable = Describe(args, at->second) && ChooseAlgorithm(at->second);
    return at->second;
  }
};

CublasLt::CublasLt(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CublasLt::~CublasLt() = default;

std::unique_ptr<CublasLt> CublasLt::Load() {
  const std::optional<Api> api = LoadApi();
  if (!api) return nullptr;
  auto impl = std::make_unique<Impl>();
  impl->api = *api;
  if (api->create(&impl->handle) != CUBLAS_STATUS_SUCCESS) {
    impl->handle = nullptr;
    return nullptr;
  }
  if (cudaMalloc(&impl->workspace, kWorkspaceBytes) != cudaSuccess) {
    impl->workspace = nullptr;
    cudaGetLastError();
    return nullptr;
  }
  return std::unique_ptr<CublasLt>(new CublasLt(std::move(impl)));
}

bool CublasLt::Gemm(const GemmArgs& args, cudaStream_t stream) {
  const Impl::Plan& plan = impl_->PlanFor(args);
  if (!plan.usable) return false;
  const float alpha = 1.0f;
  const float beta = args.accumulate ? 1.0f : 0.0f;
  return impl_->api.matmul(impl_->handle, plan.desc, &alpha, args.weight, plan.weight, args.x,
                           plan.x, &beta, args.y, plan.y, args.y, plan.y, &plan.algo,
                           impl_->workspace, kWorkspaceBytes, stream) == CUBLAS_STATUS_SUCCESS;
}

}  // namespace spotd::kernels::cuda
