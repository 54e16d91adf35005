#include "ops/aten.h"

#include "ops/cases/rows.h"

namespace weft::ops::cases {

std::vector<Case> table() {
  std::vector<Case> all;
  for (auto rows : {rmsnorm_cases})
    for (Case& c : rows()) all.push_back(std::move(c));
  return all;
}

}  // namespace weft::ops::cases
