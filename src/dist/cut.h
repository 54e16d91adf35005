// Which intervals of a dim each rank of an axis holds: the one rule behind local_boxes and redistribute.
#pragma once
#include <cstdint>
#include <vector>

#include "dist/layout.h"

namespace weft {

struct Interval { int64_t begin, end; };

// Of every interval in `in`, what part `part` of `parts` holds. ShapeError when one is not a multiple of the number of chunks.
std::vector<Interval> cut(const std::vector<Interval>& in, const Place&, int parts, int part);

}  // namespace weft
