#include <ATen/ATen.h>

#include "app/run.h"

#include "app/machine.h"
#include "models/build.h"
#include "nn/init.h"
#include "ops/tensors.h"

namespace weft::app {

ops::Policy policy_for(const std::string& device) {
  ops::Policy policy;
  policy.device = ops::device_of(at::Device(device));
  return policy;
}

train::SessionOptions session_options(const train::RunConfig& config, const std::string& device) {
  train::SessionOptions o;
  o.config = config;
  o.device = at::Device(device);
  o.policy = policy_for(device);
  o.policy.deterministic = config.train.deterministic;
  o.build = [](const train::RunConfig& c) -> std::unique_ptr<nn::Module> { return models::build(c.model); };
  o.flops_per_token = [](const train::RunConfig& c) { return models::flops_per_token(c.model, c.data.seq_len); };
  o.materialize = [](nn::Module& model, at::Device on, at::ScalarType dtype, uint64_t seed) { nn::materialize(model, {on, dtype, seed, true}); };
  o.peak_flops = [device](train::Precision p) { return gemm_flops(p == train::Precision::kBf16, device); };
  return o;
}

}  // namespace weft::app
