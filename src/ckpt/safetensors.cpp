#include "ckpt/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/json.h"

namespace weft::ckpt {
namespace {

static_assert(std::endian::native == std::endian::little, "offsets and tensors are little-endian");

constexpr uint64_t kMaxHeader = 100'000'000;
// In the order in which tensors stand in a file: widest first, ties as other writers of the format have them.
constexpr std::pair<DType, const char*> kNames[] = {
    {DType::kI64, "I64"}, {DType::kF64, "F64"}, {DType::kF32, "F32"}, {DType::kI32, "I32"}, {DType::kBf16, "BF16"}, {DType::kF16, "F16"},
    {DType::kU16, "U16"}, {DType::kF8E8M0, "F8_E8M0"}, {DType::kF8E4M3, "F8_E4M3"}, {DType::kF8E5M2, "F8_E5M2"}, {DType::kU8, "U8"},
    {DType::kF4E2M1, "F4"}};

size_t order_of(DType t) {
  size_t i = 0;
  while (kNames[i].first != t) ++i;
  return i;
}

std::optional<DType> dtype_named(const std::string& text) {
  for (const auto& [t, n] : kNames)
    if (text == n) return t;
  return std::nullopt;
}

struct Refusal {
  const std::string& path;
  [[noreturn]] void operator()(const std::string& what) const { throw InputError(path + ": safetensors: " + what); }
};

// A count from the file: not negative, and small enough that no product of sizes wraps.
int64_t count_of(const Json& v, const std::string& what, const Refusal& refuse) {
  if (!v.is_number_integer() || v.is_number_float()) refuse(what + ": got " + v.dump() + ", want an integer");
  if (v.is_number_unsigned() ? v.get<uint64_t>() > (uint64_t{1} << 62) : v.get<int64_t>() < 0) refuse(what + ": got " + v.dump() + ", want 0 to 2^62");
  return v.get<int64_t>();
}

StoredTensor tensor_of(const std::string& name, const Json& v, int64_t data_start, const Refusal& refuse) {
  const std::string who = "tensor '" + name + "'";
  if (!v.is_object()) refuse(who + ": got " + std::string(v.type_name()) + ", want an object");
  for (const auto& [key, item] : v.items())
    if (key != "dtype" && key != "shape" && key != "data_offsets") refuse(who + ": unknown key '" + key + "'");
  if (!v.contains("dtype") || !v["dtype"].is_string()) refuse(who + ": no dtype");
  if (!v.contains("shape") || !v["shape"].is_array()) refuse(who + ": no shape");
  if (!v.contains("data_offsets") || !v["data_offsets"].is_array() || v["data_offsets"].size() != 2) refuse(who + ": no data_offsets of two numbers");
  const auto dtype = dtype_named(v["dtype"].get<std::string>());
  if (!dtype) refuse(who + ": unknown dtype '" + v["dtype"].get<std::string>() + "'");
  StoredTensor t{name, *dtype, {}, 0, 0};
  int64_t n = 1;
  for (const Json& d : v["shape"]) {
    t.shape.push_back(count_of(d, who + ": shape", refuse));
    if (__builtin_mul_overflow(n, t.shape.back(), &n) || n > (int64_t{1} << 56)) refuse(who + ": shape " + v["shape"].dump() + " is too large");
  }
  const int64_t begin = count_of(v["data_offsets"][0], who + ": data_offsets", refuse);
  const int64_t end = count_of(v["data_offsets"][1], who + ": data_offsets", refuse);
  const int64_t want = static_cast<int64_t>(bytes(*dtype, static_cast<size_t>(n)));
  if (n * bits(*dtype) % 8 != 0) refuse(who + ": " + std::to_string(n) + " elements of " + weft::name(*dtype) + " do not fill bytes");
  if (end < begin || end - begin != want)
    refuse(who + ": data_offsets " + v["data_offsets"].dump() + ", want " + std::to_string(want) + " bytes for shape " + v["shape"].dump());
  t.offset = data_start + begin, t.bytes = want;
  return t;
}

}  // namespace

const char* safetensors_name(DType t) { return kNames[order_of(t)].second; }

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), file_(path) {
  const Refusal refuse{path_};
  const auto all = file_.text();
  if (all.size() < 8) refuse("got " + std::to_string(all.size()) + " bytes, want at least 8");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, all.data(), 8);
  if (header_bytes > kMaxHeader) refuse("header length: got " + std::to_string(header_bytes) + ", want at most " + std::to_string(kMaxHeader));
  if (header_bytes > all.size() - 8) refuse("header length: got " + std::to_string(header_bytes) + ", but the file has " + std::to_string(all.size()) + " bytes");
  const std::string_view text = all.substr(8, header_bytes);
  if (text.empty() || text[0] != '{') refuse("the header does not start with '{'");
  const Json header = parse_json(text, path + ": safetensors header");
  if (!header.is_object()) refuse("the header is not an object");
  const int64_t data_start = static_cast<int64_t>(8 + header_bytes);
  for (const auto& [key, value] : header.items()) {
    if (key != "__metadata__") {
      tensors_.push_back(tensor_of(key, value, data_start, refuse));
      continue;
    }
    if (!value.is_object()) refuse("__metadata__ is not an object");
    for (const auto& [k, v] : value.items()) {
      if (!v.is_string()) refuse("__metadata__." + k + " is not a string");
      metadata_[k] = v.get<std::string>();
    }
  }
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) { return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes); });
  int64_t at = data_start;
  for (const StoredTensor& t : tensors_) {
    if (t.offset != at) refuse("tensor '" + t.name + "' starts at byte " + std::to_string(t.offset) + ", want " + std::to_string(at) + " (a hole or an overlap)");
    at += t.bytes;
  }
  if (at != static_cast<int64_t>(all.size())) refuse("got " + std::to_string(all.size()) + " bytes, the header describes " + std::to_string(at));
  for (size_t i = 0; i < tensors_.size(); ++i) by_name_[tensors_[i].name] = i;
}

const StoredTensor* SafetensorsFile::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

std::span<const std::byte> SafetensorsFile::data(const StoredTensor& t) const {
  return file_.bytes().subspan(static_cast<size_t>(t.offset), static_cast<size_t>(t.bytes));
}

std::span<const std::byte> SafetensorsFile::header(int64_t bytes) const {
  return file_.bytes().first(std::min(static_cast<size_t>(bytes), file_.bytes().size()));
}

SafetensorsLayout::SafetensorsLayout(std::vector<StoredTensor> tensors, const Metadata& metadata) : tensors_(std::move(tensors)) {
  std::sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) { return std::pair(order_of(a.dtype), a.name) < std::pair(order_of(b.dtype), b.name); });
  Json header = Json::object();
  header["__metadata__"] = {{"format", "pt"}};
  for (const auto& [k, v] : metadata) header["__metadata__"][k] = v;
  std::set<std::string> names;
  int64_t at = 0;
  for (StoredTensor& t : tensors_) {
    int64_t n = 1;
    for (int64_t d : t.shape) n *= d;
    t.offset = at, t.bytes = static_cast<int64_t>(bytes(t.dtype, static_cast<size_t>(n)));
    WEFT_CHECK(names.insert(t.name).second, "safetensors: two tensors named " + t.name);
    header[t.name] = {{"dtype", safetensors_name(t.dtype)}, {"shape", t.shape}, {"data_offsets", {at, at + t.bytes}}};
    at += t.bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t n = text.size();
  WEFT_CHECK(n <= kMaxHeader, "safetensors: a header of " + std::to_string(n) + " bytes");
  header_.assign(reinterpret_cast<const char*>(&n), 8);
  header_ += text;
  for (StoredTensor& t : tensors_) t.offset += static_cast<int64_t>(header_.size());
  file_bytes_ = static_cast<int64_t>(header_.size()) + at;
}

}  // namespace weft::ckpt
