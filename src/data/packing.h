// Sequences of different lengths into rows of tokens. Plans are pure functions of the lengths in one global order, so that
// neither the number of ranks nor a restart changes what is packed with what.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace weft::data {

struct Pack { std::vector<int64_t> members; int64_t tokens = 0; };  // members index the lengths given, in increasing order

// Each sequence goes into the first open pack that has room; at most `open` packs are open at a time, the fullest is closed.
// ConfigError when a length is above the capacity.
std::vector<Pack> pack_first_fit(std::span<const int64_t> lengths, int64_t capacity, int64_t open = 64);
// In the order given, a new pack when the next one does not fit.
std::vector<Pack> pack_next_fit(std::span<const int64_t> lengths, int64_t capacity);

// Pieces of work over ranks, the same number to each (their count is a multiple of `ranks`), with the load of the busiest small:
// the heaviest first, to the rank with least load that still has room (Graham 1969, with equal counts). result[rank] lists pieces
// in the order given, so heaviest first.
std::vector<std::vector<int64_t>> spread(std::span<const double> work, int64_t ranks);

// Lengths with padding: each sequence to a multiple of `align` (2 * cp, times tp under sequence parallelism, times 16 or 32 for
// low precision), as attention over split sequences needs.
int64_t aligned(int64_t length, int64_t align);

}  // namespace weft::data
