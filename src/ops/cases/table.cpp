#include "ops/aten.h"

#include "ops/cases/rows.h"

namespace weft::ops::cases {

std::vector<Case> table() {
  std::vector<Case> all;
  for (auto rows : {
           linear_cases,
           bias_cases,
           embedding_cases,
           rmsnorm_cases,
           add_rmsnorm_cases,
           gated_rmsnorm_cases,
           activation_cases,
           rope_cases,
           attention_cases,
           conv1d_cases,
           moe_cases,
           qkv_cases,
           linear_cross_entropy_cases,
       })
    for (Case& c : rows()) all.push_back(std::move(c));
  return all;
}

}  // namespace weft::ops::cases
