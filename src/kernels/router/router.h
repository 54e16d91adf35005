// Router of a mixture of experts, in fp32 from logits z [tokens, experts]:
//   kSoftmaxPre:  s = softmax(z) over all experts; weights = s at the chosen experts
//   kSoftmaxPost: choice on z; weights = softmax over the k chosen logits
//   kSigmoid:     s = sigmoid(z);  kSqrtSoftplus: s = sqrt(softplus(z));  for both weights = s / (sum of chosen s + 1e-20) if k > 1
// weights are multiplied by `scaling`. The choice is by s (z for kSoftmaxPost) + bias, the weights are without bias.
// Groups: experts / groups neighbours form a group; its score is the sum of its k / group_topk highest biased scores; only the
// group_topk best groups stay. Ties go to the lower index; chosen experts are listed from the highest score down.
// Deterministic. A token whose logits hold NaN gives NaN weights and experts 0 .. k-1.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

enum class Score : uint8_t { kSoftmaxPre, kSoftmaxPost, kSigmoid, kSqrtSoftplus };

struct RouterFwd {
  const float* logits;   // [tokens, experts]
  const float* bias;     // [experts], or null
  const uint8_t* valid;  // [tokens] 0: padding, gets indices -1 and weights 0, is not counted; or null: all valid
  int32_t* indices;      // [tokens, k]
  float* weights;        // [tokens, k]
  float* scores;         // [tokens, experts] for the balancing loss: s (softmax(z) for kSoftmaxPost), for kSigmoid and
                         // kSqrtSoftplus divided by its sum over experts + 1e-20; 0 for padding; or null
  float* lse;            // [tokens] logsumexp(z) for the z-loss, 0 for padding; or null
  int32_t* counts;       // [experts] tokens that chose each expert, added to; or null
  int64_t tokens;
  int32_t experts, k, groups, group_topk;  // groups 1 (or 0): no limit
  float scaling;
  Score score;
};

// dlogits = through the weights (dweights at indices), through `scores` (dscores) and through lse (dlse); rows of padding are 0.
struct RouterBwd {
  const float* logits;    // [tokens, experts]
  const int32_t* indices; // [tokens, k]; -1: padding
  const float* dweights;  // [tokens, k], or null
  const float* dscores;   // [tokens, experts], or null
  const float* dlse;      // [tokens], or null
  float* dlogits;         // [tokens, experts], written
  int64_t tokens;
  int32_t experts, k;
  float scaling;
  Score score;
};

Support supports_router_fwd_sm90(const RouterFwd&, const Device&);
Support supports_router_bwd_sm90(const RouterBwd&, const Device&);
void router_fwd_sm90(const RouterFwd&, const Launch&);
void router_bwd_sm90(const RouterBwd&, const Launch&);

Support supports_router_fwd_cpu(const RouterFwd&, const Device&);
Support supports_router_bwd_cpu(const RouterBwd&, const Device&);
void router_fwd_cpu(const RouterFwd&, const Launch&);
void router_bwd_cpu(const RouterBwd&, const Launch&);

}  // namespace weft::kernels
