// The functions that hold the rows, one an op. Sources of cases/ only.
#pragma once
#include "ops/cases/case.h"

namespace weft::ops::cases {

std::vector<Case> rmsnorm_cases();

}  // namespace weft::ops::cases
