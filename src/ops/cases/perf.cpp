#include "ops/aten.h"

#include "ops/cases/modes.h"

#include <ATen/detail/CUDAHooksInterface.h>

#include <chrono>
#include <functional>
#include <map>

#include "base/error.h"
#include "ops/cases/without_data.h"
#include "ops/node.h"

namespace weft::ops::cases {
namespace {

// Of one timed part. A GPU repeats itself to a percent and its rows are many; a CPU shares its cores with others.
struct Budget {
  double seconds;      // of all samples, ours and the peer's
  double batch;        // seconds of work between two waits for the device, so that launches hide behind work as they do in a step
  int min_samples, max_samples, max_batch, max_graphs;
};
constexpr Budget kGpu{0.08, 2e-3, 3, 100, 64, 8}, kCpu{0.5, 0, 5, 200, 1, 1};
constexpr double kLongestCall = 3;  // seconds at the roofline: a row beyond is left out (goals' shapes on a CPU)
constexpr double kSmall = 1e-5;     // seconds at the roofline: launches count for as much as the work

const Budget& budget_of(at::Device device) { return device.is_cuda() ? kGpu : kCpu; }

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void finish(at::Device device) {
  if (device.is_cuda()) at::detail::getCUDAHooks().deviceSynchronize(device.has_index() ? device.index() : 0);
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Seconds a call, each sample of `calls` calls. `sample(calls)` gives the seconds of all of them.
using Sampler = std::function<double(int calls)>;
struct Times {
  double ours = 0, peer = 0, ratio = 0;  // medians; ratio: peer over ours, of the same turn
};
Times in_turns(at::Device device, int max_calls, const Sampler& ours, const Sampler& peer) {  // so that clocks and neighbours weigh on both alike
  const Budget& b = budget_of(device);
  ours(1);
  if (peer) peer(1);
  const double once = ours(1);
  const int calls = std::clamp(static_cast<int>(b.batch / std::max(once, 1e-9)), 1, max_calls);
  std::vector<double> mine, others, ratios;
  const double begin = now();
  while (static_cast<int>(mine.size()) < b.min_samples || (now() - begin < b.seconds && static_cast<int>(mine.size()) < b.max_samples)) {
    mine.push_back(ours(calls) / calls);
    if (peer) others.push_back(peer(calls) / calls), ratios.push_back(others.back() / mine.back());
  }
  return {median(mine), peer ? median(others) : 0, peer ? median(ratios) : 0};
}

template <class F>
Sampler repeated(at::Device device, F&& f) {
  return [device, f](int calls) {
    finish(device);
    const double begin = now();
    for (int i = 0; i < calls; ++i) f();
    finish(device);
    return now() - begin;
  };
}

// The backward of `calls` graphs, built before the clock starts, in one run of the engine.
using Forward = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs)>;
Sampler backward_of(at::Device device, const std::vector<at::Tensor>& inputs, const Forward& forward) {
  return [=](int calls) {
    variable_list roots, seeds;
    for (int i = 0; i < calls; ++i) {
      std::vector<at::Tensor> own;
      for (const at::Tensor& t : inputs) own.push_back(in_the_middle(t));
      for (const at::Tensor& y : forward(own))
        if (y.defined() && y.requires_grad()) roots.push_back(y), seeds.push_back(i == 0 ? at::randn(y.sizes(), y.options().requires_grad(false)) : at::Tensor());
    }
    const size_t each = roots.size() / static_cast<size_t>(calls);
    for (size_t k = each; k < roots.size(); ++k) seeds[k] = seeds[k % each];
    finish(device);
    const double begin = now();
    if (!roots.empty()) run_backward(roots, seeds);
    finish(device);
    return now() - begin;
  };
}

// Forward and backward of `calls` micro-batches, one after another.
Sampler step_of(at::Device device, const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& given, const Forward& forward) {
  return [=](int calls) {
    finish(device);
    const double begin = now();
    for (int k = 0; k < calls; ++k) {
      std::vector<at::Tensor> own;
      for (const at::Tensor& t : inputs) own.push_back(in_the_middle(t));
      const std::vector<at::Tensor> outputs = forward(own);
      variable_list roots, seeds;
      for (size_t o = 0; o < outputs.size(); ++o)
        if (outputs[o].defined() && outputs[o].requires_grad())
          roots.push_back(outputs[o]), seeds.push_back(o < given.size() && given[o].defined() ? given[o].to(outputs[o].scalar_type()) : at::ones_like(outputs[o]));
      run_backward(roots, seeds);
    }
    finish(device);
    return now() - begin;
  };
}

struct Roof {  // measured here and now, by the tensor library's own GEMM and copy
  at::Device device;
  double bytes_per_s = 0;
  std::map<at::ScalarType, double> flops_per_s;

  explicit Roof(at::Device d) : device(d) {
    const int64_t count = (device.is_cuda() ? int64_t{1} << 30 : int64_t{1} << 27) / 4;
    const at::Tensor from = at::ones({count}, at::TensorOptions().device(device)), to = at::empty_like(from);
    bytes_per_s = 8.0 * static_cast<double>(count) / time([&] { to.copy_(from); });
  }
  template <class F>
  double time(F&& f) const { return in_turns(device, budget_of(device).max_batch, repeated(device, f), {}).ours; }
  double flops(at::ScalarType dtype) {
    if (dtype == at::kFloat8_e4m3fn && !device.is_cuda()) dtype = at::kBFloat16;  // no such products there
    double& rate = flops_per_s[dtype];
    if (rate == 0) {
      const int64_t n = device.is_cuda() ? 8192 : 1536;
      const auto options = at::TensorOptions().device(device);
      const at::Tensor a = at::randn({n, n}, options).to(dtype), b = at::randn({n, n}, options).to(dtype), one = at::ones({}, options);
      const double s = dtype == at::kFloat8_e4m3fn ? time([&] { at::_scaled_mm(a, b.t(), one, one, {}, {}, at::kBFloat16, true); }) : time([&] { at::linear(a, b); });
      rate = 2.0 * static_cast<double>(n * n * n) / s;
    }
    return rate;
  }
  double seconds(double flops_, double bytes, at::ScalarType dtype) { return std::max(bytes / bytes_per_s, flops_ > 0 ? flops_ / flops(dtype) : 0); }
};

struct Part {
  std::string name;
  double flops, bytes;
};
void add_part(Result& r, const Part& part, const Times& t, double floor_s) {
  r.figures.push_back({part.name + "_ms", t.ours * 1e3});
  if (part.bytes > 0) r.figures.push_back({part.name + "_gb_per_s", part.bytes / t.ours * 1e-9});
  if (part.flops > 0) r.figures.push_back({part.name + "_tflop_per_s", part.flops / t.ours * 1e-12});
  if (floor_s > 0) r.figures.push_back({part.name + "_roofline_percent", 100 * floor_s / t.ours});
  if (t.peer > 0) r.figures.push_back({part.name + "_peer_ms", t.peer * 1e3}), r.figures.push_back({part.name + "_peer_over_ours", t.ratio});
}

// The peer runs on the same tensors; one that refuses them is left out and named.
Sampler checked(Sampler peer, std::string& refusal) {
  try {
    peer(1);
    return peer;
  } catch (const std::exception& e) {
    refusal = e.what(), refusal.resize(std::min({refusal.find('\n'), refusal.size(), size_t{120}}));
    return {};
  }
}

Result perf_row(const Case& c, const Build& build, Roof& roof) {
  Result r{c.op, c.row, dtype_name(build.dtype), true, {}};
  const Instance shapes = [&] {  // nothing is drawn for a row that is left out
    const std::shared_ptr<void> meta = shapes_without_data();
    return c.build({build.dtype, at::kMeta, build.seed});
  }();
  const at::ScalarType unit = shapes.f8_products ? at::kFloat8_e4m3fn : build.dtype;
  const Part fwd{"fwd", shapes.cost.fwd_flops, shapes.cost.fwd_bytes}, bwd{"bwd", shapes.cost.bwd_flops, shapes.cost.bwd_bytes};
  const double fwd_floor = roof.seconds(fwd.flops, fwd.bytes, unit), bwd_floor = roof.seconds(bwd.flops, bwd.bytes, unit);
  if (std::max(fwd_floor, bwd_floor) > kLongestCall) {
    char text[80];
    snprintf(text, sizeof text, " left out: a call takes %.0f s or more on this device", std::max(fwd_floor, bwd_floor));
    r.detail += text;
    return r;
  }

  const Instance i = c.build(build);
  std::vector<Choice> choices;
  Policy policy = policy_on(build.device);
  std::deque<Weight> weights = i.weights;
  policy.trace = &choices;
  {
    const at::AutoGradMode with_grad(i.step);
    std::vector<at::Tensor> inputs;
    for (const at::Tensor& t : i.inputs) inputs.push_back(i.step ? in_the_middle(t) : t);
    i.op(inputs, weights, policy);
  }
  policy.trace = nullptr;
  for (const Choice& choice : choices)
    if (choice.refusal.empty() && r.detail.find(' ') == std::string::npos) r.detail += " " + choice.candidate;

  std::vector<at::Tensor> values;
  for (const Weight& w : i.weights) values.push_back(w.value);
  std::string refusal;
  const int batch = budget_of(build.device).max_batch, graphs = budget_of(build.device).max_graphs;
  std::vector<at::Tensor> both = i.inputs;
  both.insert(both.end(), values.begin(), values.end());
  const auto split = [&](const std::vector<at::Tensor>& all) {
    const auto middle = all.begin() + static_cast<int64_t>(i.inputs.size());
    return i.peer_op({all.begin(), middle}, {middle, all.end()});
  };
  const auto ours = [&](const std::vector<at::Tensor>& x) { return i.op(x, weights, policy); };
  const auto make_sums = [&] {
    for (Weight& w : weights)
      if (w.trainable) w.main_grad = at::zeros(w.value.sizes(), w.value.options().dtype(at::kFloat));
  };
  if (i.step) {
    make_sums();
    const Sampler peer = i.peer_op ? checked(step_of(build.device, both, i.given, split), refusal) : Sampler{};
    add_part(r, {"step", fwd.flops + bwd.flops, fwd.bytes + bwd.bytes}, in_turns(build.device, graphs, step_of(build.device, i.inputs, i.given, ours), peer), fwd_floor + bwd_floor);
  } else {
    {
      const at::NoGradGuard no_grad;
      const Sampler peer = i.peer_op ? checked(repeated(build.device, [&] { i.peer_op(i.inputs, values); }), refusal) : Sampler{};
      add_part(r, fwd, in_turns(build.device, batch, repeated(build.device, [&] { i.op(i.inputs, weights, policy); }), peer), fwd_floor);
    }
    if (bwd.flops > 0 || bwd.bytes > 0) {
      make_sums();
      const Sampler peer = i.peer_op && refusal.empty() ? checked(backward_of(build.device, both, split), refusal) : Sampler{};
      add_part(r, bwd, in_turns(build.device, graphs, backward_of(build.device, i.inputs, ours), peer), bwd_floor);
    }
  }
  if (i.peer_op) r.detail += ", peer " + i.peer + (refusal.empty() ? "" : " refuses: " + refusal);
  if (build.device.is_cuda() && fwd_floor < kSmall) r.detail += ", small: launches count";
  return r;
}

}  // namespace

void run_perf(const Filter& wanted, const Sink& sink) {
  Filter filter = wanted;
  filter.large = true;
  const double begin = now();
  Roof roof(filter.device);
  Result head{"roofline", filter.device.str(), "measured in this run", true, {{"copy_gb_per_s", roof.bytes_per_s * 1e-9}}};
  std::vector<at::ScalarType> types{at::kFloat, at::kBFloat16};
  if (filter.device.is_cuda()) types.push_back(at::kFloat8_e4m3fn);
  for (const at::ScalarType t : types) head.figures.push_back({"gemm_" + dtype_name(t) + "_tflop_per_s", roof.flops(t) * 1e-12});
  sink(head);
  int timed = 0, left_out = 0, refused = 0;
  double longest = 0;
  std::string longest_name;
  for (const Case& c : table()) {
    if (!c.perf || !selected(filter, c)) continue;
    for (const at::ScalarType dtype : c.dtypes) {
      const double row_begin = now();
      try {
        const Result r = perf_row(c, {dtype, filter.device, 1}, roof);
        ++(r.figures.empty() ? left_out : timed);
        sink(r);
      } catch (const UnsupportedError& e) {  // --support says whether that is a gap
        std::string why = e.what();
        for (size_t at = why.find("\n  try"); at != std::string::npos;) why.resize(at), at = std::string::npos;
        ++refused, sink({c.op, c.row, dtype_name(dtype) + " refused: " + why, true, {}});
      } catch (const std::exception& e) {
        sink({c.op, c.row, dtype_name(dtype) + ": " + e.what(), false, {}});
      }
      if (now() - row_begin > longest) longest = now() - row_begin, longest_name = c.op + "/" + c.row + " " + dtype_name(dtype);
    }
  }
  char text[200];
  snprintf(text, sizeof text, "longest row %.1f s: %s", longest, longest_name.c_str());
  sink({"summary", "perf", text, true,
        {{"timed", static_cast<double>(timed)}, {"left_out", static_cast<double>(left_out)}, {"refused", static_cast<double>(refused)}, {"seconds", now() - begin}}});
}

}  // namespace weft::ops::cases
