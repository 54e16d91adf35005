#include "ckpt/manifest.h"

#include "base/error.h"
#include "ckpt/hash.h"

namespace weft::ckpt {
namespace {

constexpr const char* kHashKey = "manifest_xxh3";

DType dtype_of(const std::string& text, const std::string& where) {
  for (int i = 0; i <= static_cast<int>(DType::kU8); ++i)
    if (text == name(static_cast<DType>(i))) return static_cast<DType>(i);
  throw InputError(where + ": unknown dtype '" + text + "'");
}

}  // namespace

std::string to_text(const Manifest& m) {
  Json j = Json::object();
  j["format"] = "weft checkpoint";
  j["version"] = m.version;
  j["step"] = m.step;
  j["consumed_samples"] = m.consumed_samples;
  j["data_order_version"] = m.data_order_version;
  j["rng_seed"] = m.rng_seed;
  j["build_id"] = m.build_id;
  j["isa"] = m.isa;
  j["threads"] = m.threads;
  j["ranks"] = m.ranks;
  j["config"] = m.config;
  j["kernels"] = m.kernels;
  j["state"] = m.state;
  j["files"] = Json::array();
  for (const File& f : m.files) j["files"].push_back({{"name", f.name}, {"bytes", f.bytes}, {"header_bytes", f.header_bytes}, {"header_xxh3", f.header_xxh3}});
  j["pieces"] = Json::array();
  for (const Piece& p : m.pieces)
    j["pieces"].push_back({{"name", p.name}, {"dtype", name(p.dtype)}, {"global", p.global}, {"offset", p.box.offset}, {"shape", p.box.shape},
                           {"file", p.owner}, {"at", p.byte_offset}, {"bytes", p.bytes}, {"xxh3", p.xxh3}});
  j[kHashKey] = xxh3(j.dump());
  return j.dump(1) + "\n";
}

Manifest manifest_of(const std::string& text, const std::string& where) {
  Json j = parse_json(text, where);
  if (!j.is_object() || !j.contains(kHashKey) || !j[kHashKey].is_string()) throw InputError(where + ": not a manifest: no " + kHashKey);
  const std::string hash = j[kHashKey].get<std::string>();
  j.erase(kHashKey);
  if (xxh3(j.dump()) != hash) throw InputError(where + ": the manifest's own hash does not match: it is damaged");
  Manifest m;
  try {
    m.version = j.at("version").get<int>();
    if (m.version != 1) throw InputError(where + ": format version: got " + std::to_string(m.version) + ", want 1\n  try: a newer build");
    m.step = j.at("step").get<int64_t>();
    m.consumed_samples = j.at("consumed_samples").get<int64_t>();
    m.data_order_version = j.at("data_order_version").get<int64_t>();
    m.rng_seed = j.at("rng_seed").get<uint64_t>();
    m.build_id = j.at("build_id").get<std::string>();
    m.isa = j.at("isa").get<std::string>();
    m.threads = j.at("threads").get<int>();
    m.ranks = j.at("ranks").get<int>();
    m.config = j.at("config"), m.kernels = j.at("kernels"), m.state = j.at("state");
    for (const Json& f : j.at("files")) 
      m.files.push_back({f.at("name").get<std::string>(), f.at("bytes").get<int64_t>(), f.at("header_bytes").get<int64_t>(), f.at("header_xxh3").get<std::string>()});
    for (const Json& p : j.at("pieces")) {
      Piece piece{p.at("name").get<std::string>(), dtype_of(p.at("dtype").get<std::string>(), where), p.at("global").get<std::vector<int64_t>>(),
                  {p.at("offset").get<std::vector<int64_t>>(), p.at("shape").get<std::vector<int64_t>>()}, p.at("file").get<int>(),
                  p.at("at").get<int64_t>(), p.at("bytes").get<int64_t>(), p.at("xxh3").get<std::string>()};
      if (piece.owner < 0 || piece.owner >= static_cast<int>(m.files.size())) throw InputError(where + ": piece of '" + piece.name + "' names file " + std::to_string(piece.owner));
      const int64_t limit = m.files[static_cast<size_t>(piece.owner)].bytes;
      if (piece.byte_offset < 0 || piece.bytes < 0 || piece.byte_offset > limit || piece.bytes > limit - piece.byte_offset)
        throw InputError(where + ": piece of '" + piece.name + "' lies outside its file");
      m.pieces.push_back(std::move(piece));
    }
  } catch (const Json::exception& e) {
    throw InputError(where + ": not a manifest: " + e.what());
  }
  for (const File& f : m.files)
    if (f.name.empty() || f.name.find('/') != std::string::npos || f.name[0] == '.') throw InputError(where + ": file name '" + f.name + "' is not plain");
  check_cover(m.pieces);
  return m;
}

}  // namespace weft::ckpt
