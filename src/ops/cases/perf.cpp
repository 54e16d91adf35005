#include "ops/aten.h"

#include "ops/cases/modes.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

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

// Seconds of some calls: the device's, and the host's until it had asked for all of them.
struct Sample {
  double device, host;
};
// On a GPU its own clock, begun behind other work that keeps it busy while the host starts: in a step calls follow others, and the time
// that the engine's threads take to wake (0.2 to 0.8 ms a run) is no part of an op. `small` work is timed with the host's.
class Clock {
 public:
  Clock(at::Device device, bool small) : device_(device), by_events_(device.is_cuda() && !small) {
    if (by_events_) before_ = at::empty({int64_t{1} << 30}, at::TensorOptions(device).dtype(at::kByte));
  }
  template <class F>
  Sample time(F&& f) const {
    finish(device_);
    if (!by_events_) {
      const double begin = now();
      f();
      const double asked = now();
      finish(device_);
      return {now() - begin, asked - begin};
    }
    const c10::impl::VirtualGuardImpl guard(device_.type());
    const c10::Stream stream = guard.getStream(guard.getDevice());
    c10::Event first(device_.type(), c10::EventFlag::BACKEND_DEFAULT), last(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
    for (int i = 0; i < 4; ++i) before_.zero_();
    first.record(stream);
    const double begin = now();
    f();
    const double host = now() - begin;
    last.record(stream);
    finish(device_);
    return {first.elapsedTime(last) * 1e-3, host};
  }

 private:
  at::Device device_;
  bool by_events_;
  at::Tensor before_;
};

// `sample(calls)` times that many calls.
using Sampler = std::function<Sample(int calls)>;
struct Times {
  double ours = 0, host = 0, peer = 0, ratio = 0;  // medians, seconds a call; ratio: peer over ours, of the same turn
};
Times in_turns(at::Device device, int max_calls, const Sampler& ours, const Sampler& peer) {  // so that clocks and neighbours weigh on both alike
  const Budget& b = budget_of(device);
  ours(1);
  if (peer) peer(1);
  const double once = ours(1).device;
  const int calls = std::clamp(static_cast<int>(b.batch / std::max(once, 1e-9)), 1, max_calls);
  std::vector<double> mine, host, others, ratios;
  const double begin = now();
  while (static_cast<int>(mine.size()) < b.min_samples || (now() - begin < b.seconds && static_cast<int>(mine.size()) < b.max_samples)) {
    const Sample s = ours(calls);
    mine.push_back(s.device / calls), host.push_back(s.host / calls);
    if (peer) others.push_back(peer(calls).device / calls), ratios.push_back(others.back() / mine.back());
  }
  return {median(mine), median(host), peer ? median(others) : 0, peer ? median(ratios) : 0};
}

template <class F>
Sampler repeated(const Clock& clock, F&& f) {
  return [clock, f](int calls) {
    return clock.time([&] {
      for (int i = 0; i < calls; ++i) f();
    });
  };
}

// The backward of `calls` graphs, built before the clock starts, in one run of the engine.
using Forward = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs)>;
Sampler backward_of(const Clock& clock, const std::vector<at::Tensor>& inputs, const Forward& forward) {
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
    return clock.time([&] {
      if (!roots.empty()) run_backward(roots, seeds);
    });
  };
}

// Forward and backward of `calls` micro-batches, one after another.
Sampler step_of(const Clock& clock, const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& given, const Forward& forward) {
  return [=](int calls) {
    return clock.time([&] {
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
    });
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
  double time(F&& f) const { return in_turns(device, budget_of(device).max_batch, repeated(Clock(device, false), f), {}).ours; }
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
void add_part(Result& r, const Part& part, const Times& t, double floor_s, bool on_gpu) {
  r.figures.push_back({part.name + "_ms", t.ours * 1e3});
  if (on_gpu) r.figures.push_back({part.name + "_host_ms", t.host * 1e3});
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

  const bool on_gpu = build.device.is_cuda();
  const Clock clock(build.device, fwd_floor < kSmall);
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
    const Sampler peer = i.peer_op ? checked(step_of(clock, both, i.given, split), refusal) : Sampler{};
    add_part(r, {"step", fwd.flops + bwd.flops, fwd.bytes + bwd.bytes}, in_turns(build.device, graphs, step_of(clock, i.inputs, i.given, ours), peer), fwd_floor + bwd_floor, on_gpu);
  } else {
    {
      const at::NoGradGuard no_grad;
      const Sampler peer = i.peer_op ? checked(repeated(clock, [&] { i.peer_op(i.inputs, values); }), refusal) : Sampler{};
      add_part(r, fwd, in_turns(build.device, batch, repeated(clock, [&] { i.op(i.inputs, weights, policy); }), peer), fwd_floor, on_gpu);
    }
    if (bwd.flops > 0 || bwd.bytes > 0) {
      make_sums();
      const Sampler peer = i.peer_op && refusal.empty() ? checked(backward_of(clock, both, split), refusal) : Sampler{};
      add_part(r, bwd, in_turns(build.device, graphs, backward_of(clock, i.inputs, ours), peer), bwd_floor, on_gpu);
    }
  }
  if (i.peer_op) r.detail += ", peer " + i.peer + (refusal.empty() ? "" : " refuses: " + refusal);
  if (on_gpu && fwd_floor < kSmall) r.detail += ", small: launches count";
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
