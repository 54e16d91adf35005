#include "ops/aten.h"

#include "app/run.h"

#include "app/machine.h"
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
  o.peak_flops = [device](train::Precision p) { return gemm_flops(p == train::Precision::kBf16, device); };
  return o;
}

}  // namespace weft::app
