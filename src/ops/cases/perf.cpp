#include "ops/aten.h"

#include "ops/cases/modes.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <torch/csrc/autograd/autograd.h>

#include <chrono>
#include <map>

namespace weft::ops::cases {
namespace {

constexpr double kBudgetSeconds = 0.4;  // of each timed part, after one warm call
constexpr int kMinRuns = 5, kMaxRuns = 200;

void finish(at::Device device) {
  if (device.is_cuda()) at::detail::getCUDAHooks().deviceSynchronize(device.has_index() ? device.index() : 0);
}

template <class F>
double seconds_of(at::Device device, F&& f) {
  finish(device);
  const auto begin = std::chrono::steady_clock::now();
  f();
  finish(device);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

template <class F>
double median_seconds(at::Device device, F&& f) {
  f();
  std::vector<double> all;
  double spent = 0;
  while (static_cast<int>(all.size()) < kMinRuns || (spent < kBudgetSeconds && static_cast<int>(all.size()) < kMaxRuns)) {
    all.push_back(seconds_of(device, f));
    spent += all.back();
  }
  return median(all);
}

struct Roof {  // measured here and now, by the tensor library's own GEMM and copy
  at::Device device;
  double bytes_per_s = 0;
  std::map<at::ScalarType, double> flops_per_s;

  explicit Roof(at::Device d) : device(d) {
    const int64_t count = (device.is_cuda() ? int64_t{1} << 30 : int64_t{1} << 27) / 4;
    const at::Tensor from = at::ones({count}, at::TensorOptions().device(device)), to = at::empty_like(from);
    bytes_per_s = 8.0 * static_cast<double>(count) / median_seconds(device, [&] { to.copy_(from); });
  }
  double flops(at::ScalarType dtype) {
    double& rate = flops_per_s[dtype];
    if (rate == 0) {
      const int64_t n = device.is_cuda() ? 8192 : 1536;
      const auto options = at::TensorOptions().device(device);
      const at::Tensor a = at::randn({n, n}, options).to(dtype), b = at::randn({n, n}, options).to(dtype);
      rate = 2.0 * static_cast<double>(n * n * n) / median_seconds(device, [&] { at::linear(a, b); });
    }
    return rate;
  }
};

void add_part(Result& r, const std::string& part, double seconds, double flops, double bytes, Roof& roof, at::ScalarType dtype) {
  r.figures.push_back({part + "_ms", seconds * 1e3});
  if (bytes > 0) r.figures.push_back({part + "_gb_per_s", bytes / seconds * 1e-9});
  if (flops > 0) r.figures.push_back({part + "_tflop_per_s", flops / seconds * 1e-12});
  const double floor_s = std::max(bytes / roof.bytes_per_s, flops / roof.flops(dtype));
  if (floor_s > 0) r.figures.push_back({part + "_roofline_percent", 100 * floor_s / seconds});
}

Result perf_row(const Case& c, const Build& build, Roof& roof) {
  const Instance i = c.build(build);
  std::vector<Choice> choices;
  Policy policy = policy_on(build.device);
  policy.trace = &choices;
  const std::vector<at::Tensor> wide = cotangents(run_row(i, policy, false, {}).outputs, build.seed);
  policy.trace = nullptr;
  Result r{c.op, c.row, dtype_name(build.dtype), true, {}};
  for (const Choice& choice : choices)
    if (choice.refusal.empty() && r.detail.find(' ') == std::string::npos) r.detail += " " + choice.candidate;

  std::deque<Weight> weights = i.weights;
  const double forward = [&] {
    const at::NoGradGuard no_grad;
    return median_seconds(build.device, [&] { i.op(i.inputs, weights, policy); });
  }();
  add_part(r, "fwd", forward, i.cost.fwd_flops, i.cost.fwd_bytes, roof, build.dtype);

  if (i.cost.bwd_flops > 0 || i.cost.bwd_bytes > 0) {
    std::vector<at::Tensor> inputs;
    for (const at::Tensor& t : i.inputs) inputs.push_back(t.detach().requires_grad_(t.is_floating_point()));
    for (Weight& w : weights)
      if (w.trainable) w.main_grad = at::zeros(w.value.sizes(), w.value.options().dtype(at::kFloat));
    std::vector<double> all;
    double spent = 0;
    for (int run = 0; run < kMinRuns || (spent < kBudgetSeconds && run < kMaxRuns); ++run) {
      torch::autograd::variable_list roots, seeds;
      const auto outputs = i.op(inputs, weights, policy);
      for (size_t k = 0; k < outputs.size(); ++k)
        if (outputs[k].requires_grad()) roots.push_back(outputs[k]), seeds.push_back(wide[k].to(outputs[k].scalar_type()));
      const double s = seconds_of(build.device, [&] { torch::autograd::backward(roots, seeds); });
      for (at::Tensor& t : inputs) t.mutable_grad() = at::Tensor();  // else the engine adds to the last one
      if (run > 0) all.push_back(s), spent += s;
    }
    add_part(r, "bwd", median(all), i.cost.bwd_flops, i.cost.bwd_bytes, roof, build.dtype);
  }
  if (i.peer_fwd) {  // in turns, so that clocks and neighbours weigh on both alike
    const at::NoGradGuard no_grad;
    std::vector<double> peers, ratios;
    i.peer_fwd(), i.op(i.inputs, weights, policy);
    double spent = 0;
    while (static_cast<int>(ratios.size()) < kMinRuns || (spent < 2 * kBudgetSeconds && static_cast<int>(ratios.size()) < kMaxRuns)) {
      const double ours = seconds_of(build.device, [&] { i.op(i.inputs, weights, policy); }), peer = seconds_of(build.device, i.peer_fwd);
      peers.push_back(peer), ratios.push_back(peer / ours);
      spent += ours + peer;
    }
    r.detail += ", peer " + i.peer;
    r.figures.push_back({"peer_fwd_ms", median(peers) * 1e3});
    r.figures.push_back({"peer_over_ours", median(ratios)});
  }
  return r;
}

}  // namespace

void run_perf(const Filter& wanted, const Sink& sink) {
  Filter filter = wanted;
  filter.large = true;
  Roof roof(filter.device);
  Result head{"roofline", filter.device.str(), "measured in this run", true, {{"copy_gb_per_s", roof.bytes_per_s * 1e-9}}};
  for (const at::ScalarType t : {at::kFloat, at::kBFloat16}) head.figures.push_back({"gemm_" + dtype_name(t) + "_tflop_per_s", roof.flops(t) * 1e-12});
  sink(head);
  for (const Case& c : table()) {
    if (!c.perf || !selected(filter, c)) continue;
    for (const at::ScalarType dtype : c.dtypes) {
      try {
        sink(perf_row(c, {dtype, filter.device, 1}, roof));
      } catch (const std::exception& e) {
        sink({c.op, c.row, dtype_name(dtype) + ": " + e.what(), false, {}});
      }
    }
  }
}

}  // namespace weft::ops::cases
