// A folder of checkpoints: RUN/checkpoints/step-00000200/{model-00000.safetensors, optim-00000.safetensors, manifest.json}.
//
// Save: shards into a staging folder, each synced; after a barrier the manifest, synced; the folder is renamed, its parent
// synced. So at every moment a checkpoint is whole or not there, and "the latest" is derived by looking: no pointer to tear.
// Load: the newest whose every hash holds; the others are refused by name and reason.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "ckpt/manifest.h"

namespace weft::ckpt {

struct Source {  // one local piece: name, dtype, global and box of the piece are given
  Piece piece;
  at::Tensor tensor;  // of the box's shape, any device; read during save() only
};

struct Target {
  Piece piece;
  at::Tensor tensor;  // contiguous, written
};

struct Found {
  std::string path;
  Manifest manifest;
};

struct Refused {
  std::string path, why;
};

class Store {
 public:
  explicit Store(std::string folder) : folder_(std::move(folder)) {}

  // Collective over `comm`; manifest and result of rank 0 count. `keep_last` >= 1 newest checkpoints stay. Tensors whose names
  // begin with "optim." go to a file of their own. Throws IoError (then the staging folder is gone and nothing has changed).
  std::string save(Comm& comm, Manifest manifest, std::span<const Source> sources, int keep_last) const;

  // The newest valid one. Empty when nothing was ever committed; CheckpointError when there are some and none is valid.
  std::optional<Found> newest_valid(std::vector<Refused>* refused = nullptr) const;
  std::vector<std::string> committed() const;  // paths, oldest first, valid or not
  void sweep() const;                          // removes what an ended process left half-written or half-deleted

 private:
  std::string folder_;
};

Found open(const std::string& path);  // one checkpoint's folder: everything but the tensors' hashes. InputError
void verify(const Found&);            // every tensor's hash and every file's header. InputError names file and tensor
void load(const Found&, std::span<const Target>);  // InputError when a tensor is missing or of another shape

}  // namespace weft::ckpt
