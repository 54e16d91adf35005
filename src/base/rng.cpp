#include "base/rng.h"

#include <bit>

#include "base/error.h"

namespace weft::rng {

uint64_t permute(uint64_t key, uint64_t index, uint64_t n) {
  WEFT_CHECK(index < n && n <= uint64_t{1} << 62, "index " + std::to_string(index) + " of " + std::to_string(n));
  const unsigned half = n <= 1 ? 1 : (static_cast<unsigned>(std::bit_width(n - 1)) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {  // a bijection of [0, 4^half): iterating it from inside [0, n) comes back inside
    uint64_t left = index >> half, right = index & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t next = left ^ (block_at(key, right, 2 + round)[0] & mask);
      left = right;
      right = next;
    }
    index = left << half | right;
  } while (index >= n);
  return index;
}

}  // namespace weft::rng
