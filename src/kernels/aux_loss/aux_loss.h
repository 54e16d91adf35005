// Load-balancing loss: loss = coeff * experts / (k * T^2) * sum_e P_e n_e, the mean over segments (sequences) for the per-sequence
// form. P_e: sum of scores over the segment's valid tokens; n_e: tokens whose k highest scores (no bias, no groups, ties to the
// lower index) include e. aux_stats gives P and n; a caller may add up n over ranks and micro-batches; then aux_loss, aux_loss_bwd.
// Fixed order (deterministic). Bound: memory, scores once.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct AuxStats {
  const float* scores;   // [tokens, experts], of RouterFwd
  const uint8_t* valid;  // [tokens], or null
  const int32_t* cu;     // [segments + 1] first tokens of segments, or null: one segment
  float* sums;           // [segments, experts], written
  int32_t* counts;       // [segments, experts], written
  int32_t* tokens_in;    // [segments] valid tokens, written; or null
  int64_t tokens;
  int32_t experts, k, segments;
};

struct AuxLoss {
  const float* sums;         // [segments, experts]
  const int32_t* counts;     // [segments, experts], over the balancing domain
  const int32_t* domain;     // [segments] T of each segment over the balancing domain
  float* loss;               // [1], written
  int32_t experts, k, segments;
  float coeff;
};

// dscores[t, e] = *dloss * coeff * experts / (k * T^2) * n_e / segments for valid tokens, else 0.
struct AuxLossBwd {
  const float* dloss;     // [1] on the device
  const int32_t* counts;  // [segments, experts]
  const int32_t* domain;  // [segments]
  const uint8_t* valid;   // [tokens], or null
  const int32_t* cu;      // [segments + 1], or null: one segment
  float* dscores;         // [tokens, experts], written
  int64_t tokens;
  int32_t experts, k, segments;
  float coeff;
};

Support supports_aux_stats_sm90(const AuxStats&, const Device&);
size_t workspace_aux_stats_sm90(const AuxStats&);
void aux_stats_sm90(const AuxStats&, const Launch&);
Support supports_aux_loss_sm90(const AuxLoss&, const Device&);
void aux_loss_sm90(const AuxLoss&, const Launch&);
Support supports_aux_loss_bwd_sm90(const AuxLossBwd&, const Device&);
void aux_loss_bwd_sm90(const AuxLossBwd&, const Launch&);

}  // namespace weft::kernels
