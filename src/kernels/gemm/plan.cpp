#include "kernels/gemm/plan.h"

#include <cuda_runtime_api.h>

#include <bit>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "kernels/cuda_check.h"
#include "kernels/gemm/gemm.h"

namespace weft::kernels::lt {
namespace {

void must(cublasStatus_t s, const char* what) {
  if (s == CUBLAS_STATUS_SUCCESS) return;
  throw CudaError(std::string(what) + ": cuBLASLt call failed: got " + cublasLtGetStatusName(s) + " (" + cublasLtGetStatusString(s) +
                  "), want CUBLAS_STATUS_SUCCESS");
}

int current_device() {
  int device = 0;
  const cudaError_t e = cudaGetDevice(&device);
  if (e != cudaSuccess) throw_cuda("cudaGetDevice", e);
  return device;
}

using Key = std::array<int64_t, 10>;
struct KeyHash {
  size_t operator()(const Key& k) const {
    uint64_t h = 0x9e3779b97f4a7c15ull;
    for (const int64_t v : k) {
      h = (h ^ static_cast<uint64_t>(v)) * 0xff51afd7ed558ccdull;
      h ^= h >> 32;
    }
    return static_cast<size_t>(h);
  }
};

// log2 of a pointer's alignment in bytes, 8 at most: the library asks for no more.
int log_alignment(const void* p) { return std::countr_zero(reinterpret_cast<uintptr_t>(p) | 256); }

Key key_of(const Problem& p, const Pointers& x, int device) {
  const int64_t flags = p.transpose_a | p.transpose_b << 1 | p.fast << 2 | p.deterministic << 3 | p.scaled << 4 | p.accumulate << 5;
  const int64_t aligned = log_alignment(x.a) | log_alignment(x.b) << 4 | log_alignment(x.d) << 8 | log_alignment(x.bias) << 12 | log_alignment(x.aux) << 16;
  const int64_t types = static_cast<int64_t>(p.a) | static_cast<int64_t>(p.b) << 8 | static_cast<int64_t>(p.d) << 16 |
                        static_cast<int64_t>(p.compute) << 24 | static_cast<int64_t>(p.a_scaling) << 34 | static_cast<int64_t>(p.b_scaling) << 38 |
                        static_cast<int64_t>(p.epilogue) << 42 | int64_t{device} << 56;
  return {p.rows, p.cols, p.depth, p.lda, p.ldb, p.ldd, p.ld_aux, flags, aligned, types};
}

struct Cache {  // one library handle a device: a handle belongs to the device that was current when it was made
  std::shared_mutex lock;
  std::unordered_map<Key, std::unique_ptr<const Plan>, KeyHash> plans;
  std::vector<cublasLtHandle_t> handles;
  std::mutex handles_lock;

  cublasLtHandle_t handle(int device) {
    const std::lock_guard<std::mutex> held(handles_lock);
    if (static_cast<size_t>(device) >= handles.size()) handles.resize(static_cast<size_t>(device) + 1);
    cublasLtHandle_t& h = handles[static_cast<size_t>(device)];
    if (h == nullptr) must(cublasLtCreate(&h), "cublasLtCreate");
    return h;
  }
};

Cache& cache() {  // never destroyed: the driver may be gone by then
  static Cache* const all = new Cache;
  return *all;
}

template <class T>
void set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t what, const T& value) {
  must(cublasLtMatmulDescSetAttribute(desc, what, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}

// The pointers of one call.
void point(cublasLtMatmulDesc_t desc, const Problem& p, const Pointers& x) {
  if (p.scaled) {
    set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, x.a_scale);
    set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x.b_scale);
  }
  if (x.bias != nullptr) set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, x.bias);
  if (x.aux != nullptr) set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, x.aux);
}

cublasStatus_t describe(const Problem& p, const Pointers& x, Plan& plan) {
  must(cublasLtMatmulDescInit(&plan.desc, p.compute, CUDA_R_32F), "cublasLtMatmulDescInit");
  const auto op = [](bool t) { return static_cast<int32_t>(t ? CUBLAS_OP_T : CUBLAS_OP_N); };
  set(&plan.desc, CUBLASLT_MATMUL_DESC_TRANSA, op(p.transpose_a));
  set(&plan.desc, CUBLASLT_MATMUL_DESC_TRANSB, op(p.transpose_b));
  set(&plan.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(p.epilogue));
  if (p.scaled) {
    set(&plan.desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, static_cast<int32_t>(p.a_scaling));
    set(&plan.desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, static_cast<int32_t>(p.b_scaling));
    set(&plan.desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, static_cast<int8_t>(p.fast));
  }
  if (x.aux != nullptr) set(&plan.desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.ld_aux);
  point(&plan.desc, p, x);
  const auto layout = [](cublasLtMatrixLayoutOpaque_t& l, cudaDataType_t t, int64_t rows, int64_t cols, int64_t ld) {
    return cublasLtMatrixLayoutInit(&l, t, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), ld);
  };
  cublasStatus_t s = layout(plan.a, p.a, p.transpose_a ? p.depth : p.rows, p.transpose_a ? p.rows : p.depth, p.lda);
  if (s == CUBLAS_STATUS_SUCCESS) s = layout(plan.b, p.b, p.transpose_b ? p.cols : p.depth, p.transpose_b ? p.depth : p.cols, p.ldb);
  if (s == CUBLAS_STATUS_SUCCESS) s = layout(plan.d, p.d, p.rows, p.cols, p.ldd);
  return s;
}

}  // namespace

int propose(const Problem& p, const Pointers& x, int most, Plan* plans) {
  cublasStatus_t s = describe(p, x, plans[0]);
  cublasLtMatmulPreferenceOpaque_t want;
  if (s == CUBLAS_STATUS_SUCCESS) s = cublasLtMatmulPreferenceInit(&want);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
    if (s == CUBLAS_STATUS_SUCCESS) s = cublasLtMatmulPreferenceSetAttribute(&want, what, &value, sizeof value);
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kGemmWorkspace});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t{1} << log_alignment(x.a));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t{1} << log_alignment(x.b));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t{1} << log_alignment(x.d));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t{1} << log_alignment(x.d));
  // Partial sums of a split contraction are added in fp32, never in a bf16 result; and where the order of additions must not vary, in the
  // workspace rather than in the result.
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  if (p.d == CUDA_R_32F && !p.deterministic) reductions |= CUBLASLT_REDUCTION_SCHEME_INPLACE;
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(most));
  int count = 0;
  if (s == CUBLAS_STATUS_SUCCESS)
    s = cublasLtMatmulAlgoGetHeuristic(cache().handle(current_device()), &plans[0].desc, &plans[0].a, &plans[0].b, &plans[0].d, &plans[0].d, &want,
                                       most, found.data(), &count);
  plans[0].status = s == CUBLAS_STATUS_SUCCESS && count == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : s;
  int good = 0;
  for (int i = 0; i < count; ++i) {
    const auto& f = found[static_cast<size_t>(i)];
    if (f.state != CUBLAS_STATUS_SUCCESS) continue;
    if (good > 0) plans[good] = plans[0];
    plans[good].algorithm = f.algo, plans[good].workspace = f.workspaceSize, plans[good].status = CUBLAS_STATUS_SUCCESS;
    ++good;
  }
  if (count > 0 && good == 0) plans[0].status = found[0].state;
  return good;
}

const Plan& find(const Problem& p, const Pointers& x) {
  Cache& all = cache();
  const Key key = key_of(p, x, current_device());
  {
    const std::shared_lock<std::shared_mutex> held(all.lock);
    const auto known = all.plans.find(key);
    if (known != all.plans.end()) return *known->second;
  }
  auto plan = std::make_unique<Plan>();
  propose(p, x, 1, plan.get());
  const std::unique_lock<std::shared_mutex> held(all.lock);
  return *all.plans.try_emplace(key, std::move(plan)).first->second;
}

void run(const Plan& plan, const Problem& p, const Pointers& x, const Launch& launch) {
  must(plan.status, "cublasLtMatmul");
  Plan own = plan;  // the library takes descriptors that may change
  point(&own.desc, p, x);
  const float one = 1, beta = p.accumulate ? 1.0f : 0.0f;
  must(cublasLtMatmul(cache().handle(current_device()), &own.desc, &one, x.a, &own.a, x.b, &own.b, &beta, x.d, &own.d, x.d, &own.d, &own.algorithm,
                      launch.workspace, own.workspace, launch.stream),
       "cublasLtMatmul");
}

}  // namespace weft::kernels::lt
