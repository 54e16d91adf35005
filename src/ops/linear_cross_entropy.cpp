#include "ops/aten.h"

#include "ops/linear_cross_entropy.h"

#include "kernels/linear_xent/linear_xent.h"
#include "kernels/xent/xent.h"
#include "ops/address.h"
#include "ops/composed.h"
#include "ops/linear.h"
#include "ops/loss_chunks.h"
#include "ops/node.h"
#include "ops/run.h"

namespace weft::ops {
namespace reference {

TokenLoss linear_cross_entropy(const at::Tensor& x_TD, const at::Tensor& w_VD, const at::Tensor& targets_T, const LossOptions& o) {
  const auto t = wide(x_TD);
  const at::Tensor z_TV = at::mm(x_TD.to(t), w_VD.to(t).t()), kept_T = targets_T != o.ignore_index;
  const at::Tensor lse_T = at::logsumexp(z_TV, -1);
  const at::Tensor target_T = z_TV.gather(1, at::where(kept_T, targets_T, 0).unsqueeze(1)).squeeze(1);
  const at::Tensor loss_T = at::where(kept_T, lse_T - target_T + o.z_loss * lse_T.square(), at::zeros_like(lse_T));
  if (o.correct_T != nullptr) *o.correct_T = (z_TV.argmax(-1) == targets_T).logical_and(kept_T).to(at::kByte);
  return {loss_T, lse_T};
}

std::pair<at::Tensor, at::Tensor> linear_cross_entropy_bwd(const at::Tensor& dloss_T, const at::Tensor& dlse_T, const at::Tensor& x_TD,
                                                           const at::Tensor& w_VD, const at::Tensor& targets_T, const LossOptions& o) {
  const auto t = wide(x_TD);
  const at::Tensor z_TV = at::mm(x_TD.to(t), w_VD.to(t).t()), kept_T = targets_T != o.ignore_index;
  const at::Tensor lse_T = at::logsumexp(z_TV, -1), zero_T = at::zeros_like(lse_T);
  const at::Tensor g_T = at::where(kept_T, dloss_T.defined() ? dloss_T.to(t) : zero_T, zero_T);
  at::Tensor h_T = dlse_T.defined() ? at::where(kept_T, dlse_T.to(t), zero_T) : zero_T;
  if (o.z_loss != 0) h_T = h_T + 2 * o.z_loss * at::where(g_T == 0, zero_T, g_T * lse_T);
  const at::Tensor nothing_T1 = (g_T == 0).logical_and(h_T == 0).logical_or(kept_T.logical_not()).unsqueeze(1);  // NaN there must not show
  at::Tensor dz_TV = ((g_T + h_T).unsqueeze(1) * at::exp(z_TV - lse_T.unsqueeze(1))).masked_fill(nothing_T1, 0);
  dz_TV.scatter_add_(1, at::where(kept_T, targets_T, 0).unsqueeze(1), -g_T.unsqueeze(1));
  return {at::mm(dz_TV, w_VD.to(t)).to(x_TD.scalar_type()), at::mm(dz_TV.t(), x_TD.to(t).masked_fill(nothing_T1, 0))};
}

}  // namespace reference

namespace {

using kernels::LinearXentBwd;
using kernels::LinearXentFwd;
using kernels::LinearXentRows;
using kernels::XentGrad;
using kernels::XentLoss;
using kernels::XentPromise;
using kernels::XentTile;

constexpr Candidate<XentTile> kTile[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_xent_tile_sm90>, nullptr, kernels::xent_tile_sm90},
#endif
    {"cpu", on_device<kernels::supports_xent_tile_cpu>, nullptr, kernels::xent_tile_cpu},
};
constexpr Candidate<XentLoss> kLoss[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_xent_loss_sm90>, nullptr, kernels::xent_loss_sm90},
#endif
    {"cpu", on_device<kernels::supports_xent_loss_cpu>, nullptr, kernels::xent_loss_cpu},
};
constexpr Candidate<XentGrad> kGrad[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_xent_grad_sm90>, nullptr, kernels::xent_grad_sm90},
#endif
    {"cpu", on_device<kernels::supports_xent_grad_cpu>, nullptr, kernels::xent_grad_cpu},
};
constexpr Candidate<XentPromise> kPromise[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_xent_promise_sm90>, nullptr, kernels::xent_promise_sm90},
#endif
    {"aten", [](const XentPromise&, const Policy& p) -> kernels::Support {
       if (p.device.kind != kernels::Device::kCpu) return {"runs on the CPU only"};
       return {};
     }, nullptr, nullptr},
};

// "chunked" has no function of its own: it is the loop below over GEMMs and the cross-entropy kernels, each chosen in its turn.
template <class Args>
kernels::Support supports_chunked(const Args& a, const Policy&) {
  if (a.dtype != DType::kF32 && a.dtype != DType::kBf16) return {"dtype is not f32 or bf16"};
  return {};
}
constexpr Candidate<LinearXentFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_linear_xent_fwd_sm90>,
     kernels::workspace_linear_xent_fwd_sm90, kernels::linear_xent_fwd_sm90},
#endif
    {"chunked", supports_chunked<LinearXentFwd>, nullptr, nullptr},
};
// With gradients made in the forward: what makes the logits' gradient of some tokens. "chunked": product, statistics, gradient one after another.
constexpr Candidate<LinearXentRows> kRows[] = {
#ifdef WEFT_CUDA
    {"sm90_rows", on_device<kernels::supports_linear_xent_rows_sm90>,
     kernels::workspace_linear_xent_rows_sm90, kernels::linear_xent_rows_sm90},
#endif
    {"chunked", supports_chunked<LinearXentRows>, nullptr, nullptr},
};
constexpr Candidate<LinearXentBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_linear_xent_bwd_sm90>,
     kernels::workspace_linear_xent_bwd_sm90, kernels::linear_xent_bwd_sm90},
#endif
    {"chunked", supports_chunked<LinearXentBwd>, nullptr, nullptr},
};

template <class Args>
void run_part(const char* op, std::span<const Candidate<Args>> all, const Args& a, const at::Tensor& like, const Policy& policy) {
  const auto* c = select<Args>(op, all, a, policy);
  if (c == nullptr) throw UnsupportedError(std::string(op) + ": has no reference of its own; allow linear_cross_entropy's instead");
  run(*c, a, like);
}

at::TensorOptions f32_like(const at::Tensor& t) { return t.options().dtype(at::kFloat).requires_grad(false); }

struct Problem {  // what forward and backward share
  at::Tensor x_TD, w_VD, targets_T;
  LossOptions options;

  int64_t chunk() const { return options.chunk > 0 ? options.chunk : int64_t{1} << 25; }
  int64_t rows_at_once(bool with_gradients, const Policy& policy) const {
    if (options.chunk == 0 && x_TD.is_cuda() && with_gradients)
      return loss_chunk_rows({x_TD.size(0), w_VD.size(0), x_TD.size(1), static_cast<int64_t>(x_TD.element_size()), std::max(policy.device.sm_count, 1)});
    return std::clamp<int64_t>(chunk() / std::max<int64_t>(w_VD.size(0), 1) / 64 * 64, 64, std::max<int64_t>(x_TD.size(0), 64));
  }
  int64_t cols_at_once() const { return std::clamp<int64_t>(chunk() / std::max<int64_t>(x_TD.size(0), 1) / 64 * 64, 64, std::max<int64_t>(w_VD.size(0), 64)); }
};

// dlogits of a tile in place; `first_col` is the vocabulary index of its column 0.
void to_dlogits(const at::Tensor& tile, int64_t first_row, int64_t first_col, const Problem& p, const at::Tensor& lse_T, const at::Tensor& g_T,
                const at::Tensor& h_T, const Policy& policy) {
  const XentGrad a{tile.data_ptr(), address_of<int64_t>(p.targets_T) + first_row, address_of<float>(lse_T) + first_row,
                   address_of<float>(g_T) + first_row, h_T.defined() ? address_of<float>(h_T) + first_row : nullptr, tile.data_ptr(), tile.size(0),
                   tile.stride(0), first_col, p.w_VD.size(0), p.options.ignore_index, static_cast<int32_t>(tile.size(1)), 0.0f, dtype_of(tile)};
  run_part<XentGrad>("xent_grad", kGrad, a, tile, policy);
}

// x for dw: zeros where a token gives nothing, for 0 times a NaN that stands there would reach every word. On the CPU only where needed. On a GPU the
// copy of all tokens moves 4 bytes an element of x: 0.13 ms of the 80 that T 32768, D 4096, V 65536 take.
at::Tensor x_that_counts(const Problem& p, int64_t first_row, int64_t rows, const at::Tensor& g_T, const at::Tensor& h_T) {
  const at::Tensor x = p.x_TD.narrow(0, first_row, rows);
  at::Tensor nothing = g_T.narrow(0, first_row, rows) == 0;
  if (h_T.defined()) nothing = nothing.logical_and(h_T.narrow(0, first_row, rows) == 0);
  nothing = nothing.logical_or(p.targets_T.narrow(0, first_row, rows) == p.options.ignore_index);
  return x.is_cpu() && !nothing.any().item<bool>() ? x : x.masked_fill(nothing.unsqueeze(1), 0);
}

// g (1 + 2 z_loss lse) + h - g: what reaches the logits through lse.
at::Tensor through_lse(const at::Tensor& g_T, const at::Tensor& dlse_T, const at::Tensor& lse_T, double z_loss) {
  at::Tensor h_T = dlse_T.defined() ? dlse_T.to(at::kFloat).contiguous() : at::Tensor();
  if (z_loss != 0) h_T = h_T.defined() ? h_T + 2 * z_loss * g_T * lse_T : 2 * z_loss * g_T * lse_T;
  return h_T;
}

// Labels as the fused kernels want them: negative where ignored.
at::Tensor negative_where_ignored(const Problem& p) {
  if (p.options.ignore_index < 0) return p.targets_T;  // the public op let no other negative label through
  return at::where(p.targets_T == p.options.ignore_index, -1, p.targets_T);
}

template <class Args>
Args describe_call(const at::Tensor& x, const at::Tensor& w) {
  Args a{};
  a.x = x.data_ptr(), a.w = w.data_ptr(), a.tokens = x.size(0), a.vocab = w.size(0), a.dim = static_cast<int32_t>(x.size(1)), a.dtype = dtype_of(x);
  return a;
}

struct Forward {
  TokenLoss loss;
  at::Tensor dx_TD;  // where gradients are made at once and x wants one
};

// `known`: with gradients, of which cotangent_T is that of the loss; composed or not.
Forward forward_chunked(const Problem& p, Weight& w, const at::Tensor& cotangent_T, const Candidate<LinearXentRows>* known, bool wants_dx, const Policy& policy) {
  const int64_t T = p.x_TD.size(0), V = p.w_VD.size(0), at_once = p.rows_at_once(known != nullptr, policy);
  const auto f32 = f32_like(p.x_TD);
  const bool one_kernel = known != nullptr && !composed(known);
  at::Tensor max_T = at::empty({T}, f32), sum_T = at::empty({T}, f32), target_T = at::empty({T}, f32);
  at::Tensor best_T = p.options.correct_T != nullptr ? at::empty({T}, f32.dtype(at::kInt)) : at::Tensor();
  const at::Tensor buffer = at::empty({std::min(at_once, T), V}, p.x_TD.options().requires_grad(false)), labels = negative_where_ignored(p);
  Forward out;
  if (known != nullptr && wants_dx) out.dx_TD = at::empty_like(p.x_TD);
  for (int64_t r = 0; r < T; r += at_once) {
    const int64_t rows = std::min(at_once, T - r);
    const at::Tensor x = p.x_TD.narrow(0, r, rows), z = buffer.narrow(0, 0, rows);
    int32_t* best = best_T.defined() ? address_of<int32_t>(best_T) + r : nullptr;
    if (one_kernel) {
      LinearXentRows a = describe_call<LinearXentRows>(x, p.w_VD);
      a.labels = address_of<int64_t>(labels) + r, a.d_loss = address_of<float>(cotangent_T) + r, a.dz = z.data_ptr();
      a.loss = address_of<float>(target_T) + r, a.lse = address_of<float>(max_T) + r, a.top1 = best, a.z_loss = static_cast<float>(p.options.z_loss);
      run(*known, a, x);
    } else {
      gemm("linear_cross_entropy_logits", x, false, p.w_VD, true, z, false, policy);
      const XentTile tile{z.data_ptr(), address_of<int64_t>(p.targets_T) + r, address_of<float>(max_T) + r, address_of<float>(sum_T) + r,
                          address_of<float>(target_T) + r, nullptr, best, rows, V, 0, static_cast<int32_t>(V), true, dtype_of(z)};
      run_part<XentTile>("xent_tile", kTile, tile, z, policy);
      const XentLoss loss{address_of<int64_t>(p.targets_T) + r, tile.max, tile.sum, tile.target, nullptr, tile.max, tile.target, rows, V,
                          p.options.ignore_index, 0.0f};
      run_part<XentLoss>("xent_loss", kLoss, loss, z, policy);
      if (known == nullptr) continue;
      to_dlogits(z, r, 0, p, max_T, cotangent_T, through_lse(cotangent_T, {}, max_T, p.options.z_loss), policy);
    }
    if (wants_dx) gemm("linear_cross_entropy_dx", z, false, p.w_VD, false, out.dx_TD.narrow(0, r, rows), false, policy);
    if (w.wants_grad())
      gemm("linear_cross_entropy_dw", z, true, x_that_counts(p, r, rows, cotangent_T, {}), false, w.main_grad.view({V, p.w_VD.size(1)}), true, policy);
  }
  const at::Tensor lse_T = max_T, loss_T = target_T;  // written in place by xent_loss
  const bool add_z = p.options.z_loss != 0 && !one_kernel;
  out.loss = {add_z ? at::where(p.targets_T != p.options.ignore_index, loss_T + p.options.z_loss * lse_T.square(), loss_T) : loss_T, lse_T};
  if (best_T.defined()) *p.options.correct_T = (best_T == p.targets_T).to(at::kByte);
  return out;
}

TokenLoss forward_fused(const Candidate<LinearXentFwd>& c, LinearXentFwd a, const Problem& p) {
  const auto f32 = f32_like(p.x_TD);
  TokenLoss out{at::empty({a.tokens}, f32), at::empty({a.tokens}, f32)};
  const at::Tensor labels = negative_where_ignored(p);
  const at::Tensor top1 = p.options.correct_T != nullptr ? at::empty({a.tokens}, f32.dtype(at::kInt)) : at::Tensor();
  a.labels = address_of<int64_t>(labels), a.loss = address_of<float>(out.loss_T), a.lse = address_of<float>(out.lse_T);
  a.top1 = top1.defined() ? address_of<int32_t>(top1) : nullptr;
  run(c, a, p.x_TD);
  if (p.options.z_loss != 0) out.loss_T = at::where(labels >= 0, out.loss_T + p.options.z_loss * out.lse_T.square(), out.loss_T);
  if (top1.defined()) *p.options.correct_T = (top1 == labels).to(at::kByte);
  return out;
}

at::Tensor backward_fused(const Candidate<LinearXentBwd>& c, LinearXentBwd a, const Problem& p, Weight& w, const at::Tensor& lse_T,
                          const at::Tensor& g_T, const at::Tensor& h_T) {
  const at::Tensor labels = negative_where_ignored(p), dx = at::empty_like(p.x_TD);
  const at::Tensor h = h_T.defined() ? at::where(labels >= 0, h_T, at::zeros_like(h_T)) : h_T;  // ignored rows give nothing
  a.labels = address_of<int64_t>(labels), a.lse = address_of<float>(lse_T), a.d_loss = address_of<float>(g_T);
  a.d_lse = h.defined() ? address_of<float>(h) : nullptr, a.dx = dx.data_ptr();
  a.dw = w.wants_grad() ? address_of<float>(w.main_grad) : nullptr;
  run(c, a, p.x_TD);
  return dx;
}

// By tiles of the vocabulary: each row of dw is touched once, and dx is summed in fp32.
at::Tensor backward_chunked(const Problem& p, Weight& w, const at::Tensor& lse_T, const at::Tensor& g_T, const at::Tensor& h_T, bool wants_dx,
                            const Policy& policy) {
  const int64_t T = p.x_TD.size(0), V = p.w_VD.size(0), D = p.w_VD.size(1), at_once = p.cols_at_once();
  const at::Tensor buffer = at::empty({T * std::min(at_once, V)}, p.x_TD.options().requires_grad(false));
  const at::Tensor dx_TD = wants_dx ? at::zeros({T, D}, f32_like(p.x_TD)) : at::Tensor(), x_of_dw = w.wants_grad() ? x_that_counts(p, 0, T, g_T, h_T) : at::Tensor();
  for (int64_t v = 0; v < V; v += at_once) {
    const int64_t cols = std::min(at_once, V - v);
    const at::Tensor z = buffer.narrow(0, 0, T * cols).view({T, cols}), w_tile = p.w_VD.narrow(0, v, cols);
    gemm("linear_cross_entropy_logits", p.x_TD, false, w_tile, true, z, false, policy);
    to_dlogits(z, 0, v, p, lse_T, g_T, h_T, policy);
    if (wants_dx) gemm("linear_cross_entropy_dx", z, false, w_tile, false, dx_TD, true, policy);
    if (w.wants_grad()) gemm("linear_cross_entropy_dw", z, true, x_of_dw, false, w.main_grad.view({V, D}).narrow(0, v, cols), true, policy);
  }
  return wants_dx ? dx_TD.to(p.x_TD.scalar_type()) : at::Tensor();
}

// g must be what the forward was told. The CPU says so; a GPU makes NaN of what was made, for the host would have to wait for the answer.
void hold_to_promise(const at::Tensor& g_T, const at::Tensor& promised_T, at::Tensor& dx, Weight& w, const Policy& policy) {
  const char* broken = "linear_cross_entropy was told the gradient of its loss (weights_are_cotangents) and is given another";
  const at::Tensor g = g_T.to(promised_T.scalar_type()).contiguous();
  if (promised_T.scalar_type() == at::kFloat) {
    XentPromise a{};
    a.given = address_of<float>(g), a.promised = address_of<float>(promised_T), a.rows = g.size(0), a.dtype = DType::kF32;
    if (dx.defined()) a.dx = dx.data_ptr(), a.elements = dx.numel(), a.dtype = dtype_of(dx);
    if (w.wants_grad()) a.dw = address_of<float>(w.main_grad);
    const auto* c = select<XentPromise>("xent_promise", kPromise, a, policy);
    if (asks_only(policy)) return;
    if (!composed(c)) {
      const at::Tensor flag = at::empty({1}, promised_T.options().dtype(at::kInt));
      a.broken = address_of<int32_t>(flag);
      return run(*c, a, promised_T);
    }
  }
  if (asks_only(policy)) return;
  if (g.is_cpu()) {
    WEFT_CHECK(at::allclose(g, promised_T, 1e-5, 0), broken);
    return;
  }
  const at::Tensor kept = ((g - promised_T).abs() <= 1e-5 * promised_T.abs()).all();
  const at::Tensor spoil = at::where(kept, at::zeros({}, g.options()), at::full({}, std::numeric_limits<double>::quiet_NaN(), g.options()));
  if (dx.defined()) dx = dx + spoil.to(dx.scalar_type());
  if (w.wants_grad()) w.main_grad.view(-1).narrow(0, 0, 1).add_(spoil);
}

struct LossNode final : Node {  // outputs: loss, lse
  SavedTensor x, lse, made_dx;
  at::Tensor targets, promised;  // promised: the cotangents that the forward already used
  Weight* w = nullptr;
  LossOptions options;
  bool wants_dx = false;

  variable_list apply(variable_list&& grads) override {
    at::Tensor g = grads[0], h = grads[1];
    if (promised.defined()) {
      WEFT_CHECK(g.defined() && !h.defined(), "linear_cross_entropy was promised a gradient of its loss and none of lse (weights_are_cotangents)");
      at::Tensor dx = unpack(made_dx);
      hold_to_promise(g, promised, dx, *w, of_parts(policy));
      if (w->trainable) w->done();
      return {dx};
    }
    const at::Tensor x = unpack(this->x), lse = unpack(this->lse);
    const Problem p{x, w->value, targets, options};
    const LinearXentBwd a = describe_call<LinearXentBwd>(x, w->value);
    const auto* c = select<LinearXentBwd>("linear_cross_entropy_bwd", kBwd, a, policy);
    if (c == nullptr) {
      auto [dx, dw] = reference::linear_cross_entropy_bwd(g, h, x, w->value, targets, options);
      w->accumulate(dw);
      return {dx};
    }
    g = g.defined() ? g.to(at::kFloat).contiguous() : at::zeros_like(lse);
    const at::Tensor h_T = through_lse(g, h, lse, options.z_loss);
    const at::Tensor dx = composed(c) ? backward_chunked(p, *w, lse, g, h_T, wants_dx, of_parts(policy)) : backward_fused(*c, a, p, *w, lse, g, h_T);
    if (w->trainable) w->done();
    return {dx};
  }
};

}  // namespace

TokenLoss linear_cross_entropy(const at::Tensor& x_TD, Weight& w, const at::Tensor& targets_T, const at::Tensor& loss_weights_T,
                               const LossOptions& options, const Policy& policy) {
  const char* op = "linear_cross_entropy";
  check_shape(x_TD.dim() == 2 && w.value.dim() == 2 && x_TD.size(1) == w.value.size(1) && w.value.size(0) > 0 && x_TD.size(1) > 0, op, "x",
              describe(x_TD), "[T, D] for w " + describe(w.value) + " = [V, D]");
  check_shape(x_TD.is_contiguous() && w.value.is_contiguous(), op, "layout", describe(x_TD) + " and " + describe(w.value), "contiguous");
  check_shape(x_TD.scalar_type() == w.value.scalar_type(), op, "dtype of w", describe(w.value), name(dtype_of(x_TD)));
  check_shape(targets_T.dim() == 1 && targets_T.size(0) == x_TD.size(0) && targets_T.scalar_type() == at::kLong && targets_T.is_contiguous(), op,
              "targets", describe(targets_T), "[" + std::to_string(x_TD.size(0)) + "] i64 contiguous");
  const bool at_once = options.weights_are_cotangents;
  check_shape(!(at_once || loss_weights_T.defined()) || (loss_weights_T.defined() && loss_weights_T.sizes() == targets_T.sizes()), op,
              "loss weights", describe(loss_weights_T), "[" + std::to_string(x_TD.size(0)) + "] f32");
  if (targets_T.is_cpu() && targets_T.numel() > 0) {
    const at::Tensor kept = at::where(targets_T == options.ignore_index, 0, targets_T);
    const auto [low, high] = kept.aminmax();
    const int64_t bad = low.item<int64_t>() < 0 ? low.item<int64_t>() : high.item<int64_t>();
    check_shape(bad >= 0 && bad < w.value.size(0), op, "target", std::to_string(bad),
                "0 to " + std::to_string(w.value.size(0) - 1) + ", or " + std::to_string(options.ignore_index));
  }
  auto node = make_node<LossNode>(policy, {x_TD}, w.wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  const Problem p{x_TD.detach(), w.value, targets_T, options};
  const at::Tensor promised = at_once && node ? loss_weights_T.detach().to(wide(x_TD)).contiguous() : at::Tensor();
  const bool wants_dx = x_TD.requires_grad();
  TokenLoss loss;
  at::Tensor made_dx;
  if (promised.defined()) {
    const auto* c = select<LinearXentRows>(op, kRows, describe_call<LinearXentRows>(x_TD, w.value), policy);
    if (c == nullptr) {
      loss = reference::linear_cross_entropy(p.x_TD, w.value, targets_T, options);
      const auto [dx, dw] = reference::linear_cross_entropy_bwd(promised, {}, p.x_TD, w.value, targets_T, options);
      if (w.wants_grad()) w.main_grad.view(w.value.sizes()).add_(dw);
      if (wants_dx) made_dx = dx;
    } else {
      const Forward f = forward_chunked(p, w, promised, c, wants_dx, of_parts(policy));
      loss = f.loss, made_dx = f.dx_TD;
    }
  } else {
    const LinearXentFwd a = describe_call<LinearXentFwd>(x_TD, w.value);
    const auto* c = select<LinearXentFwd>(op, kFwd, a, policy);
    if (c == nullptr) loss = reference::linear_cross_entropy(p.x_TD, w.value, targets_T, options);
    else loss = composed(c) ? forward_chunked(p, w, {}, nullptr, false, of_parts(policy)).loss : forward_fused(*c, a, p);
  }
  if (node) {
    node->targets = targets_T, node->w = &w, node->options = options, node->options.correct_T = nullptr, node->wants_dx = wants_dx;
    node->promised = promised, node->made_dx = save(made_dx);
    // The alias breaks the circle node -> saved output -> node.
    if (!promised.defined()) node->x = save(x_TD), node->lse = save(loss.lse_T.detach());
  }
  return {attach(node, loss.loss_T), attach(node, loss.lse_T)};
}

}  // namespace weft::ops
