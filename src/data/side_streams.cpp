#include "data/side_streams.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "data/prepare_state.h"

namespace weft::data {
namespace {

struct Type { int width; bool is_signed; };
const std::map<std::string, Type> kTypes{{"uint8", {1, false}}, {"int8", {1, true}},   {"uint16", {2, false}}, {"int16", {2, true}},
                                         {"uint32", {4, false}}, {"int32", {4, true}}, {"uint64", {8, false}}, {"int64", {8, true}}};

std::string file_of(const std::string& prefix, const StreamKind& kind) { return prefix + "_" + kind.name + ".bin"; }

template <class T>
void widen(const char* from, int64_t count, int64_t absent, int32_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    T raw;
    std::memcpy(&raw, from + i * static_cast<int64_t>(sizeof raw), sizeof raw);
    const auto value = static_cast<int64_t>(raw);
    // Nothing that a model asks is above 2^31: such ids count as the largest.
    out[i] = value == absent || value < 0 ? -1 : static_cast<int32_t>(std::min<int64_t>(value, INT32_MAX));
  }
}

}  // namespace

std::shared_ptr<const SideStreams> SideStreams::open(const std::string& prefix, int64_t tokens, IndexCheck check) {
  const std::string path = prefix + ".idx.json";
  if (!std::filesystem::exists(path)) return nullptr;
  auto streams = std::make_shared<SideStreams>();
  streams->tokens_ = tokens;
  try {
    streams->load(read_json_file(path), prefix);
  } catch (const nlohmann::json::exception& e) {
    throw InputError("streams '" + path + "': damaged: " + e.what());
  }
  if (check == IndexCheck::kHeader) return streams;
  std::string stamp;
  const std::string stamp_path = path + ".checked";
  if (check == IndexCheck::kStamped) {
    for (const Column& c : streams->columns_) {
      if (c.file == nullptr) continue;
      const FileStamp s = stamp_of(c.path);
      stamp += c.path.substr(c.path.rfind('/') + 1) + " " + std::to_string(s.bytes) + " " + std::to_string(s.mtime_ns) + " " + c.hash + "\n";
    }
    if (std::filesystem::exists(stamp_path) && read_file(stamp_path) == stamp) return streams;
  }
  for (const Column& c : streams->columns_) {
    if (c.file == nullptr || c.hash.empty()) continue;
    const std::string found = hex_hash(c.file->text());
    if (found != c.hash) throw InputError("streams '" + c.path + "': the file was changed: got hash " + found + ", want " + c.hash + "\n  try: weft prepare --structure once more, with --overwrite");
  }
  if (check == IndexCheck::kStamped) {
    try {
      write_file_atomic(stamp_path, stamp);
    } catch (const IoError&) {  // a read-only folder: checked again next time
    }
  }
  return streams;
}

void SideStreams::load(const Json& j, const std::string& prefix) {
  const std::string where = "streams '" + prefix + ".idx.json': ";
  if (j.contains("token_count") && j.at("token_count").get<int64_t>() != tokens_) {
    throw InputError(where + "token_count does not fit the tokens: got " + j.at("token_count").dump() + ", want " + std::to_string(tokens_));
  }
  const std::string folder = std::filesystem::path(prefix).parent_path().string();
  hashed_ = true;
  for (const auto& [name, entry] : j.at("side_channel_paths").items()) {
    const auto kind = std::find_if(kStreamKinds.begin(), kStreamKinds.end(), [&, &n = name](const StreamKind& k) { return n == k.name || "token_" + n == k.name; });
    if (kind == kStreamKinds.end()) {
      others_.push_back(name);
      continue;
    }
    Column& c = columns_[static_cast<size_t>(kind - kStreamKinds.begin())];
    if (c.file != nullptr) throw InputError(where + "two entries for one stream: got " + name + " as the second");
    const std::string file = entry.at("path").get<std::string>(), dtype = entry.at("dtype").get<std::string>();
    if (file.empty() || file.find('/') != std::string::npos) throw InputError(where + "a path outside the folder: got \"" + file + "\", want a file's name");
    const auto type = kTypes.find(dtype);
    if (type == kTypes.end()) throw InputError(where + name + ": unknown dtype: got " + dtype + ", want an integer type such as uint8");
    c.path = folder.empty() ? file : folder + "/" + file;
    c.width = type->second.width, c.is_signed = type->second.is_signed;
    c.absent = entry.contains("absent") ? entry.at("absent").get<int64_t>() : c.is_signed || c.width == 8 ? -1 : (int64_t{1} << (8 * c.width)) - 1;
    if (entry.contains("xxh3_128")) c.hash = entry.at("xxh3_128").get<std::string>();
    hashed_ = hashed_ && !c.hash.empty();
    c.file = std::make_shared<const MappedFile>(c.path);
    const auto bytes = static_cast<int64_t>(c.file->bytes().size());
    if (bytes != tokens_ * c.width) {
      throw InputError("streams '" + c.path + "': not one value a token: got " + std::to_string(bytes) + " bytes, want " + std::to_string(tokens_ * c.width) + " (" +
                       std::to_string(tokens_) + " tokens of " + dtype + ")");
    }
  }
}

void SideStreams::read(int stream, int64_t token, int64_t count, int32_t* out) const {
  const Column& c = columns_[static_cast<size_t>(stream)];
  WEFT_CHECK(c.file != nullptr, "a stream that is not there");
  if (token < 0 || count < 0 || token + count > tokens_) {
    throw InputError("streams '" + c.path + "': read outside the data: got tokens [" + std::to_string(token) + ", " + std::to_string(token + count) + "), want at most " + std::to_string(tokens_));
  }
  const char* from = c.file->text().data() + token * c.width;
  switch (c.width) {
    case 1: return c.is_signed ? widen<int8_t>(from, count, c.absent, out) : widen<uint8_t>(from, count, c.absent, out);
    case 2: return c.is_signed ? widen<int16_t>(from, count, c.absent, out) : widen<uint16_t>(from, count, c.absent, out);
    case 4: return c.is_signed ? widen<int32_t>(from, count, c.absent, out) : widen<uint32_t>(from, count, c.absent, out);
    default: return widen<int64_t>(from, count, c.absent, out);
  }
}

void read_streams(const SideStreams* streams, int64_t token, int64_t there, int64_t n, std::vector<std::vector<int32_t>>& out) {
  out.clear();
  if (streams == nullptr) return;
  out.resize(kNumStreams);
  for (int s = 0; s < kNumStreams; ++s) {
    if (!streams->has(s)) continue;
    std::vector<int32_t>& row = out[static_cast<size_t>(s)];
    row.assign(static_cast<size_t>(n), -1);
    streams->read(s, token, std::min(there, n), row.data());
  }
}

SideStreamWriter::SideStreamWriter(std::string prefix, int64_t tokens) : prefix_(std::move(prefix)) {
  for (size_t s = 0; s < files_.size(); ++s) files_[s] = PartFile(file_of(prefix_, kStreamKinds[s]) + ".part", tokens * kStreamKinds[s].bytes);
}

void SideStreamWriter::add(const std::array<std::span<const int32_t>, kNumStreams>& values) {
  for (size_t s = 0; s < files_.size(); ++s) {
    WEFT_CHECK(values[s].size() == values[0].size(), "streams of different lengths");
    const int width = kStreamKinds[s].bytes;
    const int32_t absent = width == 1 ? 0xFF : 0xFFFF;
    scratch_.resize(values[s].size() * static_cast<size_t>(width));
    for (size_t i = 0; i < values[s].size(); ++i) {
      const auto v = static_cast<uint16_t>(values[s][i] < 0 ? absent : std::min(values[s][i], absent - 1));
      std::memcpy(scratch_.data() + i * static_cast<size_t>(width), &v, static_cast<size_t>(width));  // little endian: the low byte first
    }
    files_[s].write(scratch_.data(), scratch_.size());
  }
}

void SideStreamWriter::finish() {
  Json j;
  j["format"] = "weft.streams.1";
  j["token_count"] = files_[0].size();
  j["side_channel_paths"] = Json::object();
  for (size_t s = 0; s < files_.size(); ++s) {
    const StreamKind& kind = kStreamKinds[s];
    const std::string path = file_of(prefix_, kind);
    files_[s].close_as(path);
    j["side_channel_paths"][kind.name] = {{"path", std::filesystem::path(path).filename().string()}, {"dtype", kind.bytes == 1 ? "uint8" : "uint16"},
                                          {"absent", kind.bytes == 1 ? 0xFF : 0xFFFF}, {"xxh3_128", hex_hash(MappedFile(path).text())}};
  }
  write_json_file(prefix_ + ".idx.json", j);
}

void SideStreamWriter::discard() {
  for (PartFile& f : files_) f.discard();
}

}  // namespace weft::data
