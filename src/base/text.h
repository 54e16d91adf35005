// Words and sizes for people.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

size_t edit_distance(std::string_view a, std::string_view b);  // insert, delete, replace, swap of neighbours: 1 each
// The nearest of `known`, or "" when none is near enough to be a slip of the pen (distance <= 1 + length / 4).
std::string nearest(std::string_view word, std::span<const std::string> known);

std::string human_bytes(uint64_t bytes);   // "1.5 GiB"
std::string human_count(double count);     // "124 M", "65.5 k"
std::string human_seconds(double seconds);  // "850 ms", "12.3 s", "4 min 05 s", "2 h 10 min"
std::optional<uint64_t> parse_bytes(std::string_view text);  // "512", "64k", "1 GiB", "1.5G": powers of 1024

std::vector<std::string> split(std::string_view text, char at);
std::string join(std::span<const std::string> parts, std::string_view between);
std::string_view trim(std::string_view text);
// '*' any run without the separator, '**' any run, '?' one character that is not the separator. 0: no separator.
bool glob_match(std::string_view pattern, std::string_view text, char separator = 0);

}  // namespace weft
