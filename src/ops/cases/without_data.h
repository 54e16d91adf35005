// Shapes of operators on tensors without data (meta), where the tensor library has none of its own in C++: with them a reference can run
// on shapes alone, which is how --support asks and --perf learns a row's cost. Sources of cases/ only.
#pragma once
#include <memory>

namespace weft::ops::cases {

// Holds as long as the returned object; a value that is read is zero.
std::shared_ptr<void> shapes_without_data();

}  // namespace weft::ops::cases
