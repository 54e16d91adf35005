// The only source that includes cuDNN's front end.
#include "kernels/attention/cudnn_graph.h"

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"

#ifdef WEFT_CUDNN_FRONTEND
#include <dlfcn.h>

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;
}
#endif

namespace weft::kernels {
namespace {

static_assert(sizeof(CudnnShape) == 8 * 8 + 10 * 4 + 8, "no padding: shapes are compared by their bytes");

struct Less {
  bool operator()(const CudnnShape& a, const CudnnShape& b) const { return std::memcmp(&a, &b, sizeof a) < 0; }
};

struct Plans {
  std::mutex mutex;
  std::map<CudnnShape, CudnnPlan, Less> all;
  std::vector<std::unique_ptr<std::string>> texts;
  const char* keep(const std::string& text) { return texts.emplace_back(std::make_unique<std::string>(text))->c_str(); }
};
Plans& plans() {
  static Plans& p = *new Plans;  // outlives every static that may still run
  return p;
}

#ifdef WEFT_CUDNN_FRONTEND

namespace fe = cudnn_frontend;
using fe::graph::Tensor_attributes;
using TensorPtr = std::shared_ptr<Tensor_attributes>;

enum Uid : int64_t {
  kQ = 1, kK, kV, kO, kDo, kSinks, kLse, kRowMax, kRowSum, kDq, kDk, kDv, kDsinks,
  kOffsetQ, kOffsetK, kOffsetV, kOffsetO, kOffsetLse, kOffsetDq, kOffsetDk, kOffsetDv, kLenQ, kLenKv,
};

const char* load() {  // null, or why the library cannot be had
  static const char* const why = []() -> const char* {
    fe::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_NOW);
    if (fe::cudnn_dlhandle == nullptr) return "libcudnn.so.9 cannot be loaded";
    if (fe::detail::get_backend_version() < 91300) return "cuDNN is older than 9.13";
    return nullptr;
  }();
  return why;
}

// A handle belongs to a thread and a device: calls on one handle may not overlap.
cudnnHandle_t handle_of(int device) {
  thread_local std::unordered_map<int, cudnnHandle_t> handles;
  cudnnHandle_t& h = handles[device];
  if (h == nullptr && fe::detail::create_handle(&h) != CUDNN_STATUS_SUCCESS) throw CudaError("attention: cuDNN: no handle for device " + std::to_string(device));
  return h;
}

struct Builder {
  const CudnnShape& s;
  fe::graph::Graph graph;

  explicit Builder(const CudnnShape& shape) : s(shape) {
    graph.set_io_data_type(s.dtype == DType::kBf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
  }
  TensorPtr plain(Uid uid, std::vector<int64_t> dim, std::vector<int64_t> stride, fe::DataType_t type) {
    return graph.tensor(Tensor_attributes().set_uid(uid).set_dim(dim).set_stride(stride).set_data_type(type));
  }
  TensorPtr offset(Uid uid) { return plain(uid, {s.documents + 1, 1, 1, 1}, {1, 1, 1, 1}, fe::DataType_t::INT64); }
  TensorPtr length(Uid uid) { return plain(uid, {s.documents, 1, 1, 1}, {1, 1, 1, 1}, fe::DataType_t::INT32); }
  TensorPtr sinks(Uid uid) { return plain(uid, {1, s.heads, 1, 1}, {s.heads, 1, 1, 1}, fe::DataType_t::FLOAT); }
  // [documents, heads, rows, dim] of rows `stride` elements apart.
  Tensor_attributes rows(Uid uid, int64_t heads, int64_t count, int64_t dim, int64_t stride, const TensorPtr& ragged) {
    Tensor_attributes t;
    t.set_uid(uid).set_dim({s.documents, heads, count, dim}).set_stride({count * stride, dim, stride, 1});
    if (ragged) t.set_ragged_offset(ragged);
    return t;
  }
  Tensor_attributes statistics(Uid uid, const TensorPtr& ragged) {
    Tensor_attributes t;
    t.set_uid(uid).set_dim({s.documents, s.heads, s.max_q, 1}).set_data_type(fe::DataType_t::FLOAT);
    if (s.dense) t.set_stride({s.heads * s.max_q, s.max_q, 1, 1});
    else t.set_stride({s.max_q * s.all_heads, 1, s.all_heads, 1}).set_ragged_offset(ragged);
    return t;
  }
  static void give(const TensorPtr& t, const Tensor_attributes& like, const TensorPtr& ragged) {
    t->set_output(true).set_uid(like.get_uid()).set_dim(like.get_dim()).set_stride(like.get_stride());
    if (ragged) t->set_ragged_offset(ragged);
  }
  template <class Options>
  void mask(Options& o) {
    if (!s.dense) o.set_padding_mask(true).set_seq_len_q(length(kLenQ)).set_seq_len_kv(length(kLenKv));
    if (s.left < 0 && s.right < 0) return;
    o.set_diagonal_alignment(s.bottom_right ? fe::DiagonalAlignment_t::BOTTOM_RIGHT : fe::DiagonalAlignment_t::TOP_LEFT);
    if (s.right >= 0) o.set_diagonal_band_right_bound(s.right);
    if (s.left >= 0) o.set_diagonal_band_left_bound(s.left + 1);  // the library counts the query's own key
  }

  void forward() {
    const auto ragged = [&](Uid uid) { return s.dense ? TensorPtr() : offset(uid); };
    const TensorPtr rq = ragged(kOffsetQ), rk = ragged(kOffsetK), rv = ragged(kOffsetV), ro = ragged(kOffsetO), rl = ragged(kOffsetLse);
    const TensorPtr q = graph.tensor(rows(kQ, s.heads, s.max_q, s.dim, s.q_stride, rq));
    const TensorPtr k = graph.tensor(rows(kK, s.groups, s.max_kv, s.dim, s.k_stride, rk));
    const TensorPtr v = graph.tensor(rows(kV, s.groups, s.max_kv, s.dim_v, s.v_stride, rv));
    fe::graph::SDPA_attributes o;
    o.set_name("attention").set_generate_stats(!s.max_logit).set_attn_scale(s.scale);
    mask(o);
    if (s.sinks) o.set_sink_token(sinks(kSinks));
    if (s.max_logit)  // the library gives these or the log-sum-exp
      o.set_logit_max(graph.tensor(statistics(kRowMax, rl).set_output(true))).set_score_sum_exp(graph.tensor(statistics(kRowSum, rl).set_output(true)));
    auto [out, lse] = graph.sdpa(q, k, v, o);
    give(out, rows(kO, s.heads, s.max_q, s.dim_v, int64_t{s.all_heads} * s.dim_v, ro), ro);
    if (s.max_logit) return;
    give(lse, statistics(kLse, rl), rl);
    lse->set_data_type(fe::DataType_t::FLOAT);
  }
  void backward() {
    const auto ragged = [&](Uid uid) { return s.dense ? TensorPtr() : offset(uid); };
    const TensorPtr rq = ragged(kOffsetQ), rk = ragged(kOffsetK), rv = ragged(kOffsetV), ro = ragged(kOffsetO), rl = ragged(kOffsetLse);
    const TensorPtr rdq = ragged(kOffsetDq), rdk = ragged(kOffsetDk), rdv = ragged(kOffsetDv);
    const TensorPtr q = graph.tensor(rows(kQ, s.heads, s.max_q, s.dim, s.q_stride, rq));
    const TensorPtr k = graph.tensor(rows(kK, s.groups, s.max_kv, s.dim, s.k_stride, rk));
    const TensorPtr v = graph.tensor(rows(kV, s.groups, s.max_kv, s.dim_v, s.v_stride, rv));
    const int64_t o_stride = int64_t{s.all_heads} * s.dim_v;
    const TensorPtr out = graph.tensor(rows(kO, s.heads, s.max_q, s.dim_v, o_stride, ro));
    const TensorPtr d_out = graph.tensor(rows(kDo, s.heads, s.max_q, s.dim_v, o_stride, ro));
    const TensorPtr lse = graph.tensor(statistics(kLse, rl));
    fe::graph::SDPA_backward_attributes o;
    o.set_name("attention_bwd").set_attn_scale(s.scale).set_deterministic_algorithm(s.deterministic);
    mask(o);
    if (!s.dense) o.set_max_total_seq_len_q(s.tokens).set_max_total_seq_len_kv(s.key_rows);
    if (s.sinks) o.set_sink_token(sinks(kSinks)).set_dsink_token(sinks(kDsinks));
    auto [dq, dk, dv] = graph.sdpa_backward(q, k, v, out, d_out, lse, o);
    give(dq, rows(kDq, s.heads, s.max_q, s.dim, int64_t{s.all_heads} * s.dim, rdq), rdq);
    give(dk, rows(kDk, s.groups, s.max_kv, s.dim, int64_t{s.all_groups} * s.dim, rdk), rdk);
    give(dv, rows(kDv, s.groups, s.max_kv, s.dim_v, int64_t{s.all_groups} * s.dim_v, rdv), rdv);
  }
};

std::string compile(const CudnnShape& s, CudnnPlan* plan) {  // empty, or the refusal
  if (const char* why = load()) return why;
  cudnnHandle_t handle = handle_of(s.device);
  auto b = std::make_unique<Builder>(s);
  s.backward ? b->backward() : b->forward();
  const auto failed = [](fe::error_t e) { return e.is_bad() ? "cuDNN: " + e.get_message() : std::string(); };
  if (std::string why = failed(b->graph.validate()); !why.empty()) return why;
  if (std::string why = failed(b->graph.build_operation_graph(handle)); !why.empty()) return why;
  if (std::string why = failed(b->graph.create_execution_plans({fe::HeurMode_t::A})); !why.empty()) return why;
  if (std::string why = failed(b->graph.check_support()); !why.empty()) return why;
  if (std::string why = failed(b->graph.build_plans()); !why.empty()) return why;
  int64_t bytes = 0;
  if (std::string why = failed(b->graph.get_workspace_size(bytes)); !why.empty()) return why;
  plan->workspace = static_cast<size_t>(bytes);
  plan->graph = b.release();
  return {};
}

#else

std::string compile(const CudnnShape&, CudnnPlan*) { return "this build has no cuDNN front end"; }

#endif

}  // namespace

const CudnnPlan& cudnn_plan(const CudnnShape& shape) {
  Plans& p = plans();
  const std::lock_guard lock(p.mutex);
  const auto [at, fresh] = p.all.try_emplace(shape);
  if (!fresh) return at->second;
  std::string refusal;
  try {
    refusal = compile(at->first, &at->second);
  } catch (const std::exception& e) {
    refusal = std::string("cuDNN: ") + e.what();
  }
  if (!refusal.empty()) at->second.refusal = p.keep(refusal);
  return at->second;
}

#ifdef WEFT_CUDNN_FRONTEND

void cudnn_run(const CudnnPlan& plan, const CudnnCall& c, int device, const Launch& launch) {
  cudnnHandle_t handle = handle_of(device);
  if (fe::detail::set_stream(handle, launch.stream) != CUDNN_STATUS_SUCCESS) throw CudaError("attention: cuDNN refused the stream");
  const std::pair<int64_t, const void*> pairs[] = {
      {kQ, c.q}, {kK, c.k}, {kV, c.v}, {kO, c.o}, {kDo, c.d_o}, {kSinks, c.sinks}, {kLse, c.lse}, {kRowMax, c.row_max}, {kRowSum, c.row_sum},
      {kDq, c.dq}, {kDk, c.dk}, {kDv, c.dv}, {kDsinks, c.d_sinks}, {kOffsetQ, c.offset_q}, {kOffsetK, c.offset_k}, {kOffsetV, c.offset_v},
      {kOffsetO, c.offset_o}, {kOffsetLse, c.offset_lse}, {kOffsetDq, c.offset_dq}, {kOffsetDk, c.offset_dk}, {kOffsetDv, c.offset_dv},
      {kLenQ, c.len_q}, {kLenKv, c.len_kv}};
  std::unordered_map<int64_t, void*> at;
  for (const auto& [uid, address] : pairs)
    if (address != nullptr) at.emplace(uid, const_cast<void*>(address));
  fe::error_t e = static_cast<Builder*>(plan.graph)->graph.execute(handle, at, launch.workspace);
  if (e.is_bad()) throw CudaError("attention: cuDNN: " + e.get_message());
}

#else

void cudnn_run(const CudnnPlan&, const CudnnCall&, int, const Launch&) { throw InternalError("attention: this build has no cuDNN front end"); }

#endif

}  // namespace weft::kernels
