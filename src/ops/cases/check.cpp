#include "ops/aten.h"

#include "ops/cases/modes.h"

#include <algorithm>
#include <set>

#include "base/error.h"

namespace weft::ops::cases {
namespace {

constexpr double kFactor = 1.5;  // of the plain expression's error
constexpr double kPlanted = 1e-4;

void compare_one(Compared& worst, double& worst_ratio, const std::string& what, const at::Tensor& got, const at::Tensor& ref,
                 const at::Tensor& plain, double atol) {
  if (!ref.defined() && !got.defined()) return;
  Compared now{true, what, 0, 0, 0};
  double ratio = 0;
  if (!ref.defined() || !got.defined() || got.sizes() != ref.sizes()) {
    now.ok = false, now.what += got.defined() ? ": undefined or of another shape in fp64" : ": undefined", ratio = 1e300;
  } else if (!ref.is_floating_point()) {
    now.error = got.equal(ref) ? 0 : 1;
    now.ok = now.error == 0, ratio = now.ok ? 0 : 1e300;
  } else if (ref.numel() > 0) {
    // Infinities and NaN must stand at the same places; the finite rest is measured.
    const at::Tensor finite = at::isfinite(ref);
    const at::Tensor g = got.to(at::kDouble);
    const bool same_places = at::isfinite(g).equal(finite) && at::isnan(g).equal(at::isnan(ref));
    const auto most = [&](const at::Tensor& t) { return at::where(finite, t, at::zeros_like(t)).abs().max().item<double>(); };
    now.scale = most(ref), now.error = most(g - ref);
    now.plain_error = plain.defined() && plain.sizes() == ref.sizes() ? most(plain.to(at::kDouble) - ref) : 0;
    if (!std::isfinite(now.plain_error)) now.plain_error = 0;  // a plain expression that overflows excuses nothing
    const double bound = kFactor * now.plain_error + atol * now.scale;
    now.ok = same_places && now.error <= bound;
    ratio = now.ok ? now.error / std::max(bound, 1e-300) : 1e300;
    if (!same_places) now.what += " (not finite elsewhere)";
  }
  if (ratio > worst_ratio || (worst.ok && !now.ok)) worst_ratio = std::max(ratio, worst_ratio), worst = now;
}

Values reference_run(const Instance& i, const Policy& policy, bool f64, const std::vector<at::Tensor>& cotangent) {
  Policy p = policy;
  p.only = "reference";
  return run_row(i, p, f64, cotangent);
}

// The candidates that take the row, in the order of their tables; the reference is not one.
std::vector<std::string> candidates_of(const Instance& i, Policy policy) {
  std::vector<Choice> choices;
  policy.trace = &choices;
  policy.reference_allowed = {"*"};
  // An op that is told its gradients may choose otherwise with a backward than without.
  run_row(i, policy, false, i.given.empty() ? std::vector<at::Tensor>{} : i.given);
  std::vector<std::string> names;
  for (const Choice& c : choices)
    if (c.op == choices.front().op && c.refusal.empty() && std::find(names.begin(), names.end(), c.candidate) == names.end()) names.push_back(c.candidate);
  return names;
}

// Whether the named candidate ran the op or its backward: the first that took a call.
bool took_part(const std::string& name, const std::vector<Choice>& choices) {
  std::set<std::string> taken;
  for (const Choice& c : choices)
    if (c.refusal.empty() && taken.insert(c.op).second && c.candidate == name) return true;
  return false;
}

Result check_row(const Case& c, const Build& build, const Policy& policy, std::string candidate) {
  Result r{c.op, c.row, dtype_name(build.dtype) + " " + (candidate.empty() ? "default" : candidate), true, {}};
  const Instance i = c.build(build);
  const std::vector<at::Tensor> cotangent = cotangents(i, reference_run(i, policy, false, {}).outputs, build.seed);
  const Values f64 = reference_run(i, policy, true, cotangent);
  Values plain = i.plain ? run_plain(i, i.plain, cotangent) : reference_run(i, policy, false, cotangent);
  std::vector<Choice> choices;
  Policy p = policy;
  p.only = candidate;
  if (!i.libraries.empty()) p.trace = &choices, p.trace_backward = true;
  Values got;
  try {
    got = run_row(i, p, false, cotangent);
  } catch (const UnsupportedError&) {
    got = run_row(i, p, false, {});
    r.detail += " (forward only)";
    const Values forward{f64.outputs, {}, {}, {}}, plain_forward{plain.outputs, {}, {}, {}};
    const Compared d = compare({got.outputs, {}, {}, {}}, forward, plain_forward, c.atol);
    r.ok = d.ok;
    r.figures = {{"seed", static_cast<double>(build.seed)}, {"error", d.error}, {"plain_error", d.plain_error}, {"scale", d.scale}};
    if (!d.ok) r.detail += ": " + d.what;
    return r;
  }
  for (const std::string& library : i.libraries)
    if (took_part(library, choices)) {
      plain = run_plain(i, i.plain_of_library, cotangent), r.detail += " (rounded like " + library + ")";
      break;
    }
  const Compared d = compare(got, f64, plain, c.atol);
  r.ok = d.ok;
  r.figures = {{"seed", static_cast<double>(build.seed)}, {"error", d.error}, {"plain_error", d.plain_error}, {"scale", d.scale}};
  if (!d.ok) r.detail += ": " + d.what;
  return r;
}

// A planted error in one element of one output: the comparison is worth nothing if it lets this pass.
Result negative_control(const Case& c, const Build& build, const Policy& policy) {
  const Instance i = c.build(build);
  const std::vector<at::Tensor> cotangent = cotangents(i, reference_run(i, policy, false, {}).outputs, build.seed);
  const Values f64 = reference_run(i, policy, true, cotangent), plain = reference_run(i, policy, false, cotangent);
  Values got = run_row(i, policy, false, cotangent);
  at::Tensor& out = got.outputs.at(0);
  out.view(-1)[out.numel() / 2] += kPlanted * f64.outputs.at(0).abs().max().item<double>();
  const bool caught = !compare(got, f64, plain, c.atol).ok;
  return {"negative control", c.op + "/" + c.row, caught ? "a planted error of 1e-4 is caught" : "a planted error of 1e-4 passed", caught, {}};
}

}  // namespace

Compared compare(const Values& got, const Values& f64, const Values& plain, double atol) {
  Compared worst;
  double ratio = -1;
  const auto at_or_none = [](const std::vector<at::Tensor>& all, size_t k) { return k < all.size() ? all[k] : at::Tensor(); };
  const auto each = [&](const char* kind, const std::vector<at::Tensor>& g, const std::vector<at::Tensor>& r, const std::vector<at::Tensor>& p) {
    for (size_t k = 0; k < std::max(g.size(), r.size()); ++k)
      compare_one(worst, ratio, kind + std::to_string(k), at_or_none(g, k), at_or_none(r, k), at_or_none(p, k), atol);
  };
  each("output ", got.outputs, f64.outputs, plain.outputs);
  each("gradient of input ", got.input_grads, f64.input_grads, plain.input_grads);
  each("gradient of weight ", got.weight_grads, f64.weight_grads, plain.weight_grads);
  return worst;
}

void run_check(const Filter& filter, const Sink& sink) {
  const Policy policy = policy_on(filter.device);
  const Case* control = nullptr;
  const std::vector<Case> all = table();
  for (const Case& c : all) {
    if (!selected(filter, c) || !c.check) continue;
    for (const at::ScalarType dtype : c.dtypes) {
      const Build first{dtype, filter.device, 1};
      std::vector<std::string> names;
      try {
        names = candidates_of(c.build(first), policy);
      } catch (const std::exception& e) {
        sink({c.op, c.row, dtype_name(dtype) + ": " + e.what(), false, {}});
        continue;
      }
      if (names.empty()) {
        sink({c.op, c.row, dtype_name(dtype) + " reference only", true, {}});
        continue;
      }
      if (names.size() > 1) names.push_back("");  // the default mix of forward and backward
      for (size_t k = 0; k < names.size(); ++k) {
        const std::string name = names[k];
        for (int seed = 1; seed <= filter.seeds; ++seed) {
          try {
            sink(check_row(c, {dtype, filter.device, static_cast<uint64_t>(seed)}, policy, name));
          } catch (const UnsupportedError& e) {  // says so, as --support does; a wrong answer would be a failure
            sink({c.op, c.row, dtype_name(dtype) + " " + (name.empty() ? "default" : name) + " refused: " + e.what(), true, {}});
            if (!names.back().empty()) names.push_back("");  // a row of several ops: no one candidate takes all of them
            break;
          } catch (const std::exception& e) {
            sink({c.op, c.row, dtype_name(dtype) + " " + name + ": " + e.what(), false, {}});
          }
        }
      }
      if (control == nullptr && dtype == at::kFloat && c.build(first).inputs.size() > 0 && c.build(first).inputs[0].numel() > 0) control = &c;
    }
  }
  if (control != nullptr) sink(negative_control(*control, {at::kFloat, filter.device, 1}, policy));
}

}  // namespace weft::ops::cases
