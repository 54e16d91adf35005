// What the four modes share, and their work on one row. Sources of cases/ and tests only.
#pragma once
#include "ops/aten.h"

#include "ops/cases/case.h"

namespace weft::ops::cases {

bool selected(const Filter&, const Case&);
Policy policy_on(at::Device);
std::string dtype_name(at::ScalarType);

struct Values {  // what one run of a row gave
  std::vector<at::Tensor> outputs, input_grads, weight_grads;  // a gradient is undefined where none came
  std::vector<int> uses;                                       // calls of done(), one entry a weight
};

at::Tensor wide_copy(const at::Tensor&);                        // floats to fp64, others as they are
std::vector<at::Tensor> cotangents(const Instance&, const std::vector<at::Tensor>& outputs, uint64_t seed);  // fp64; undefined for integers
// Runs the row's op forward, and backward when `cotangent` is not empty. `f64`: on fp64 copies of the same numbers.
// main_grad begins at `main_grad_start`, so that a store in place of an addition is seen; the start is taken off again.
Values run_row(const Instance&, const Policy&, bool f64, const std::vector<at::Tensor>& cotangent, double main_grad_start = 0.5);
Values run_plain(const Instance&, const Instance::Plain&, const std::vector<at::Tensor>& cotangent);

Result grad_row(const Case&, const Build&);
struct Compared {
  bool ok = true;
  std::string what;                              // the worst tensor
  double error = 0, plain_error = 0, scale = 0;  // of it: max |got - fp64|, the same of the plain expression, max |fp64|
};
Compared compare(const Values& got, const Values& f64, const Values& plain, double atol);

}  // namespace weft::ops::cases
