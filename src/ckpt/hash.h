// XXH3-128 as 32 hex digits: finds damage, does not keep out an attacker.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace weft::ckpt {

std::string xxh3(std::span<const std::byte> bytes);
inline std::string xxh3(std::string_view text) { return xxh3(std::as_bytes(std::span(text))); }

}  // namespace weft::ckpt
