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

// Work of one sequence in a layer stack: what is linear in its tokens and what attention adds, in the same unit.
struct WorkModel {
  double per_token = 1, per_token_pair = 0;
  double of(int64_t n) const { return per_token * static_cast<double>(n) + per_token_pair * static_cast<double>(n) * static_cast<double>(n); }
};
// Splits the packs of one step over ranks: the same number to each (the count is filled up to a multiple of `ranks` by moving
// sequences out of the largest packs), with the work of the busiest rank small. result[rank] lists packs.
struct StepPlan {
  std::vector<Pack> packs;
  std::vector<std::vector<int64_t>> of_rank;
};
StepPlan balance(std::vector<Pack> packs, std::span<const int64_t> lengths, int64_t ranks, const WorkModel& work);

// Lengths with padding: each sequence to a multiple of `align` (2 * cp, times tp under sequence parallelism, times 16 or 32 for
// low precision), as attention over split sequences needs.
int64_t aligned(int64_t length, int64_t align);

}  // namespace weft::data
