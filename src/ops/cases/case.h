// The case table: one row per op x shape class x dtype, shipped in the binary, with four modes over the same rows.
//   --grad     the autograd node on reference candidates in fp64 against finite differences
//   --check    every candidate against the fp64 reference, within 1.5 x the error of the plain expression in the same dtype
//   --perf     time, bytes, FLOPs, % of the roofline measured in the same run, ratio to a peer
//   --support  which candidate takes each row, and who refused why
// An op's rows stand in cases/OP.cpp, in `std::vector<Case> OP_cases()`; cases/table.cpp lists those functions. No registry.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops::cases {

struct Cost {  // of one call; 0 where a mode does not apply
  double fwd_flops = 0, fwd_bytes = 0, bwd_flops = 0, bwd_bytes = 0;
};

// One built row: tensors on a device, and the op closed over everything that is not differentiated.
struct Instance {
  std::vector<at::Tensor> inputs;  // differentiable, float; the modes decide requires_grad
  std::deque<Weight> weights;      // `value` set; the modes make main_grad. A deque: nodes keep pointers
  // Runs the op on the given tensors. It must read values only from its arguments (the modes pass other dtypes), use the
  // public op with this policy, and return its outputs; integer outputs are compared exactly.
  std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs, std::deque<Weight>& weights, const Policy&)> op;
  // Gradients of the outputs for an op that is told them ahead, in place of random ones; undefined or missing: random.
  std::vector<at::Tensor> given;
  bool step = false;  // --perf times forward and backward as one: where the forward does the backward's work
  Cost cost;
  bool f8_products = false;  // the roofline's FLOPs are those of FP8
  // The op as a user writes it with the tensor library's own operators, differentiated by its autograd: the yardstick of
  // --check. Weights come as tensors. Empty: the op on its reference, which rounds only once and is the stricter one.
  using Plain = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& weights)>;
  Plain plain;
  Plain peer_op;     // another library's op on the same tensors, differentiated by its autograd, for --perf; may be empty
  std::string peer;  // its name
  // Where candidates must round what the plain expression keeps: their names, and the plain expression that rounds likewise.
  std::vector<std::string> libraries;
  Plain plain_of_library;
};

struct Build {  // what a row is asked for; it draws its numbers from at::manual_seed(seed)
  at::ScalarType dtype;
  at::Device device;
  uint64_t seed;
};

struct Case {
  std::string op;   // "rms_norm"
  std::string row;  // "4096x4096", "packed 1+127+900"
  std::vector<at::ScalarType> dtypes;  // of --check and --perf; --grad is always fp64
  std::function<Instance(const Build&)> build;
  bool grad = true;          // small enough for finite differences and differentiable; inputs stay 0.05 away from kinks
  bool check = true;         // small enough to hold its fp64 reference
  bool perf = false;         // large enough to time
  bool large = false;        // left out by --small, timed or not
  double atol = 1e-5;        // absolute part of --check's bound, relative to the largest |value| of the output
  std::string grad_why_not;  // when grad is false on a differentiable op: the reason, printed
};

std::vector<Case> table();  // every row, in the order of the floors' ops

struct Filter {
  std::string name;  // glob over "op" or "op/row"; empty is all
  at::Device device = at::kCPU;
  int seeds = 3;
  bool hopper = false;  // --support: the answers for an H100 or H200, on a machine without one; needs a build with CUDA
  bool large = true;  // false: leaves out the rows that are large enough to time, except in --perf
};
struct Figure {
  std::string key;
  double value;
};
struct Result {
  std::string op, row, detail;  // detail: dtype and candidate, or the refusals
  bool ok = true;
  std::vector<Figure> figures;
};
using Sink = std::function<void(const Result&)>;  // called once a finished row, for progress and --json

void run_grad(const Filter&, const Sink&);
void run_check(const Filter&, const Sink&);  // ends with a negative control (a planted error of 1e-4 in one output) that must fail
void run_perf(const Filter&, const Sink&);
void run_support(const Filter&, const Sink&);

}  // namespace weft::ops::cases
