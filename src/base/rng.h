// Counter-based random numbers (Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
// The number at (key, index) is a pure function: any thread, mesh or order of calls gives the same bits. Nothing has a state.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>

namespace weft::rng {

using Block = std::array<uint32_t, 4>;

// 128 bits of counter (low word first) and 64 of key to 128 random bits.
constexpr Block philox(Block counter, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0], b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(a)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

constexpr Block block_at(uint64_t key, uint64_t index, uint64_t stream = 0) {
  return philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), static_cast<uint32_t>(stream),
                 static_cast<uint32_t>(stream >> 32)}, key);
}

// Keys from keys: mixes in a number or a name, so that (seed, "layers.3.w") and (seed, step, row) are independent streams.
constexpr uint64_t mix(uint64_t key, uint64_t value) {
  const Block b = block_at(key, value, 0x57454654);  // a stream of its own
  return static_cast<uint64_t>(b[1]) << 32 | b[0];
}
constexpr uint64_t mix(uint64_t key, std::string_view name) {
  for (size_t i = 0; i < name.size(); i += 8) {
    uint64_t word = 0;
    for (size_t j = i; j < name.size() && j < i + 8; ++j) word |= static_cast<uint64_t>(static_cast<uint8_t>(name[j])) << 8 * (j - i);
    key = mix(key, word);
  }
  return mix(key, name.size());
}

constexpr uint64_t bits(uint64_t key, uint64_t index) {
  const Block b = block_at(key, index);
  return static_cast<uint64_t>(b[1]) << 32 | b[0];
}

// [0, 1), 53 bits.
constexpr double uniform(uint64_t key, uint64_t index) { return static_cast<double>(bits(key, index) >> 11) * 0x1p-53; }

// [0, n) for n >= 1; the bias is below n / 2^64.
constexpr uint64_t below(uint64_t key, uint64_t index, uint64_t n) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(bits(key, index)) * n >> 64);
}

// Standard normals 2 * pair and 2 * pair + 1 (Box and Muller 1958) from one block.
inline std::array<double, 2> normal_pair(uint64_t key, uint64_t pair) {
  const Block b = block_at(key, pair, 1);
  const double u = (static_cast<double>((static_cast<uint64_t>(b[1]) << 32 | b[0]) >> 11) + 1) * 0x1p-53;  // (0, 1]
  const double turn = static_cast<double>((static_cast<uint64_t>(b[3]) << 32 | b[2]) >> 11) * 0x1p-53 * 6.283185307179586;
  const double radius = std::sqrt(-2 * std::log(u));
  return {radius * std::cos(turn), radius * std::sin(turn)};
}
inline double normal(uint64_t key, uint64_t index) { return normal_pair(key, index / 2)[index % 2]; }

// out[i] = normal(key, first + i): each pair is made once.
template <class T>
void fill_normal(uint64_t key, uint64_t first, std::span<T> out) {
  std::array<double, 2> pair{};
  for (size_t i = 0; i < out.size(); ++i) {
    const uint64_t index = first + i;
    if (i == 0 || index % 2 == 0) pair = normal_pair(key, index / 2);
    out[i] = static_cast<T>(pair[index % 2]);
  }
}

template <class T>
void fill_uniform(uint64_t key, uint64_t first, std::span<T> out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<T>(uniform(key, first + i));
}

// A permutation of [0, n) that is a function of the index (no array): a four-round Feistel network on the next power of four,
// walked until it lands inside.
uint64_t permute(uint64_t key, uint64_t index, uint64_t n);

}  // namespace weft::rng
