// SSD of any head dim to 128 and state dim to 256 on Hopper, f32 and bf16, token by token (ssd.h has the formulas and arguments).
// `states` is neither written nor read: the backward keeps its own. Deterministic.
#pragma once
#include "kernels/ssd/ssd.h"

namespace weft::kernels {

Support supports_ssd_fwd_general_sm90(const SsdFwd&, const Device&);
Support supports_ssd_bwd_general_sm90(const SsdBwd&, const Device&);
Support supports_ssd_step_general_sm90(const SsdStep&, const Device&);
size_t workspace_ssd_bwd_general_sm90(const SsdBwd&);
void ssd_fwd_general_sm90(const SsdFwd&, const Launch&);
void ssd_bwd_general_sm90(const SsdBwd&, const Launch&);
void ssd_step_general_sm90(const SsdStep&, const Launch&);

}  // namespace weft::kernels
