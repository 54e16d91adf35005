#include "ops/aten.h"

#include "ckpt/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "ckpt/hash.h"
#include "ckpt/safetensors.h"

namespace weft::ckpt {
namespace fs = std::filesystem;
namespace {

constexpr const char* kManifest = "manifest.json";
constexpr const char* kPrefix = "step-";
constexpr const char* kStaging = ".saving-";
constexpr const char* kTrash = ".deleting-";

bool starts_with(const std::string& s, const char* prefix) { return s.rfind(prefix, 0) == 0; }

std::span<const std::byte> bytes_of(const at::Tensor& t) {  // contiguous, on the host
  return {static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()};
}

// One shard; adds its file and pieces. A second piece of a tensor in the same shard gets its place into the stored name.
void write_shard(const std::string& folder, const std::string& file, std::span<const Source* const> sources, std::vector<File>& files, std::vector<Piece>& pieces) {
  if (sources.empty()) return;
  std::map<std::string, const Source*> by_name;
  std::vector<StoredTensor> tensors;
  for (const Source* s : sources) {
    const Piece& p = s->piece;
    WEFT_CHECK(static_cast<int64_t>(s->tensor.nbytes()) == static_cast<int64_t>(bytes(p.dtype, static_cast<size_t>(numel(p.box.shape)))), "tensor of '" + p.name + "' is not of its piece's size");
    std::string stored = p.name;
    for (int k = 1; by_name.count(stored) != 0; ++k) stored = p.name + "@" + std::to_string(k);
    by_name[stored] = s;
    tensors.push_back({stored, p.dtype, p.box.shape, 0, 0});
  }
  const SafetensorsLayout layout(std::move(tensors), {});
  FileWriter out(folder + "/" + file);
  out.write(layout.header());
  for (const StoredTensor& t : layout.tensors()) {
    const Source& s = *by_name.at(t.name);
    const at::Tensor host = s.tensor.detach().contiguous().cpu();  // one tensor at a time: staging stays small
    Piece p = s.piece;
    p.owner = static_cast<int>(files.size()), p.byte_offset = t.offset, p.bytes = t.bytes, p.xxh3 = xxh3(bytes_of(host));
    out.write(bytes_of(host));
    pieces.push_back(std::move(p));
  }
  out.commit();
  files.push_back({file, layout.file_bytes(), static_cast<int64_t>(layout.header().size()), xxh3(layout.header())});
}

// Every rank's files and pieces, on every rank. Through the manifest's own text form: one format to check.
Manifest gather(Comm& comm, const Manifest& mine) {
  if (comm.size() == 1) return mine;
  const std::string text = to_text(mine);
  const size_t n = static_cast<size_t>(comm.size());
  int64_t length = static_cast<int64_t>(text.size()), most = 0;
  comm.all_reduce(&length, &most, 1, DType::kI64, Reduce::kMax, {"checkpoint manifest size"});
  std::string padded = text + std::string(static_cast<size_t>(most) - text.size(), ' '), all(n * static_cast<size_t>(most), ' ');
  comm.all_gather(padded.data(), all.data(), padded.size(), DType::kU8, {"checkpoint manifest"});
  Manifest out = mine;
  out.files.clear(), out.pieces.clear();
  for (size_t r = 0; r < n; ++r) {
    const Json part = parse_json(std::string_view(all).substr(r * padded.size(), padded.size()), "manifest of rank " + std::to_string(r));
    const int first = static_cast<int>(out.files.size());
    for (const Json& f : part["files"]) 
      out.files.push_back({f["name"].get<std::string>(), f["bytes"].get<int64_t>(), f["header_bytes"].get<int64_t>(), f["header_xxh3"].get<std::string>()});
    for (const Json& p : part["pieces"]) {
      int t = 0;
      while (p["dtype"].get<std::string>() != name(static_cast<DType>(t))) ++t;
      out.pieces.push_back({p["name"].get<std::string>(), static_cast<DType>(t), p["global"].get<std::vector<int64_t>>(),
                            {p["offset"].get<std::vector<int64_t>>(), p["shape"].get<std::vector<int64_t>>()}, first + p["file"].get<int>(),
                            p["at"].get<int64_t>(), p["bytes"].get<int64_t>(), p["xxh3"].get<std::string>()});
    }
  }
  return out;
}

void barrier(Comm& comm, const char* what) {
  int32_t in = 0, out = 0;
  comm.all_reduce(&in, &out, 1, DType::kI32, Reduce::kSum, {what});
}

void remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw IoError(path + ": removing failed: " + error.message());
}

// Out of sight first, then away: a half-deleted folder never looks like a checkpoint.
void discard(const std::string& folder, const std::string& path) {
  const std::string trash = folder + "/" + kTrash + fs::path(path).filename().string();
  remove_tree(trash);
  rename_durable(path, trash);
  remove_tree(trash);
}

}  // namespace

std::string Store::save(Comm& comm, Manifest m, std::span<const Source> sources, int keep_last) const {
  WEFT_CHECK(keep_last >= 1, "keep_last " + std::to_string(keep_last));
  const std::string leaf = fmt::format("{}{:08}", kPrefix, m.step), staging = folder_ + "/" + kStaging + leaf, path = folder_ + "/" + leaf;
  m.ranks = comm.size(), m.files.clear(), m.pieces.clear();
  try {
    if (comm.rank() == 0) {
      make_folders(folder_);
      remove_tree(staging);
      make_folders(staging);
    }
    barrier(comm, "checkpoint folder");
    std::vector<const Source*> model, optim;
    for (const Source& s : sources) (starts_with(s.piece.name, "optim.") ? optim : model).push_back(&s);
    write_shard(staging, fmt::format("model-{:05}.safetensors", comm.rank()), model, m.files, m.pieces);
    write_shard(staging, fmt::format("optim-{:05}.safetensors", comm.rank()), optim, m.files, m.pieces);
    m = gather(comm, m);  // also the barrier: all shards are on disk
    if (comm.rank() == 0) {
      check_cover(m.pieces);
      write_file_atomic(staging + "/" + kManifest, to_text(m));
      sync_folder(staging);
      if (fs::exists(path)) discard(folder_, path);
      rename_durable(staging, path);
    }
  } catch (...) {
    std::error_code ignored;  // the first error counts
    if (comm.rank() == 0) fs::remove_all(staging, ignored);
    throw;
  }
  if (comm.rank() == 0) {
    std::vector<std::string> all = committed();
    const auto self = std::find(all.begin(), all.end(), path);
    for (auto it = all.begin(); self - it >= keep_last; ++it) discard(folder_, *it);
  }
  barrier(comm, "checkpoint done");
  return path;
}

std::vector<std::string> Store::committed() const {
  std::vector<std::string> out;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error))
    if (starts_with(it->path().filename().string(), kPrefix)) out.push_back(it->path().string());
  if (error && error != std::errc::no_such_file_or_directory) throw IoError(folder_ + ": cannot be listed: " + error.message());
  std::sort(out.begin(), out.end());
  return out;
}

void Store::sweep() const {
  std::error_code error;
  std::vector<std::string> left;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    const std::string leaf = it->path().filename().string();
    if (starts_with(leaf, kStaging) || starts_with(leaf, kTrash)) left.push_back(it->path().string());
  }
  for (const std::string& path : left) remove_tree(path);
}

std::optional<Found> Store::newest_valid(std::vector<Refused>* refused) const {
  const std::vector<std::string> all = committed();
  std::string why;
  for (auto it = all.rbegin(); it != all.rend(); ++it) {
    try {
      Found found = open(*it);
      verify(found);
      return found;
    } catch (const InputError& e) {
      if (refused != nullptr) refused->push_back({*it, e.what()});
      why += "\n  " + *it + ": " + e.what();
    }
  }
  if (all.empty()) return std::nullopt;
  throw CheckpointError(folder_ + ": none of " + std::to_string(all.size()) + " checkpoints is valid:" + why +
                        "\n  try: another copy of the run, or a new run folder to start again");
}

Found open(const std::string& path) {
  Found f{path, manifest_of(read_file(path + "/" + kManifest), path + "/" + kManifest)};
  for (const File& file : f.manifest.files) {
    std::error_code error;
    const auto size = fs::file_size(path + "/" + file.name, error);
    if (error) throw InputError(path + "/" + file.name + ": cannot be read: " + error.message());
    if (static_cast<int64_t>(size) != file.bytes)
      throw InputError(path + "/" + file.name + ": got " + std::to_string(size) + " bytes, want " + std::to_string(file.bytes) + ": it is cut short or was changed");
  }
  return f;
}

void verify(const Found& f) {
  for (size_t i = 0; i < f.manifest.files.size(); ++i) {
    const File& file = f.manifest.files[i];
    const std::string path = f.path + "/" + file.name;
    const SafetensorsFile shard(path);
    if (xxh3(shard.header(file.header_bytes)) != file.header_xxh3) throw InputError(path + ": the header does not match its hash: the file is damaged");
    for (const Piece& p : f.manifest.pieces) {
      if (p.owner != static_cast<int>(i)) continue;
      const StoredTensor at{p.name, p.dtype, p.box.shape, p.byte_offset, p.bytes};
      if (xxh3(shard.data(at)) != p.xxh3) throw InputError(path + ": tensor '" + p.name + "' does not match its hash: the file is damaged");
    }
  }
}

void load(const Found& f, std::span<const Target> targets) {
  std::vector<Piece> want;
  for (const Target& t : targets) want.push_back(t.piece);
  const std::vector<Copy> copies = [&] {
    try {
      return plan_copies(f.manifest.pieces, want);
    } catch (const InputError& e) {
      throw InputError(f.path + ": " + e.what());
    }
  }();
  std::vector<std::unique_ptr<MappedFile>> files;
  for (const File& file : f.manifest.files) files.push_back(std::make_unique<MappedFile>(f.path + "/" + file.name));
  for (size_t i = 0; i < copies.size();) {  // copies of one target stand together: stage a device tensor once
    const Target& t = targets[static_cast<size_t>(copies[i].dst)];
    WEFT_CHECK(t.tensor.is_contiguous() && static_cast<int64_t>(t.tensor.nbytes()) == static_cast<int64_t>(bytes(t.piece.dtype, static_cast<size_t>(numel(t.piece.box.shape)))),
               "target of '" + t.piece.name + "' is not a contiguous tensor of its piece's size");
    at::Tensor host = t.tensor.is_cpu() ? t.tensor : at::empty_like(t.tensor, t.tensor.options().device(at::kCPU));
    size_t k = i;
    for (; k < copies.size() && copies[k].dst == copies[i].dst; ++k) {
      const Piece& p = f.manifest.pieces[static_cast<size_t>(copies[k].src)];
      copy_box(files[static_cast<size_t>(p.owner)]->bytes().data() + p.byte_offset, p.box, static_cast<std::byte*>(host.data_ptr()), t.piece.box, copies[k].box, p.dtype);
    }
    if (!t.tensor.is_cpu()) t.tensor.copy_(host);
    i = k;
  }
}

}  // namespace weft::ckpt
