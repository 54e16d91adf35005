// What a checkpoint is: written last, so that without it there is none. It hashes every tensor and itself.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "ckpt/piece.h"

namespace weft::ckpt {

struct File {
  std::string name;
  int64_t bytes = 0, header_bytes = 0;
  std::string header_xxh3;  // of what stands before the tensors: with the pieces' hashes every byte is covered
};

struct Manifest {
  int version = 1;
  std::string build_id, isa;     // bitwise claims hold for the same binary, ISA and
  int threads = 0, ranks = 1;    // thread count; ranks that wrote the shards
  Json config = Json::object();  // of the run
  Json kernels = Json::object();  // which candidate each op ran
  Json state = Json::object();    // of the trainer: what is neither a tensor nor named below
  int64_t step = 0, consumed_samples = 0, data_order_version = 1;
  uint64_t rng_seed = 0;
  std::vector<File> files;
  std::vector<Piece> pieces;  // owner is an index into files
};

std::string to_text(const Manifest&);  // JSON, ends with its own hash
// InputError when it is not a manifest, was changed by one bit, is of a later version, or contradicts itself.
Manifest manifest_of(const std::string& text, const std::string& where);

}  // namespace weft::ckpt
