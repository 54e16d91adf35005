// The safetensors format: u64 little-endian header length, a JSON header padded with spaces to 8 bytes, then the tensors packed
// without holes. Written files are plain: any reader takes them. Nothing of a file is believed before it is checked.
#pragma once
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/files.h"

namespace weft::ckpt {

using Metadata = std::map<std::string, std::string>;

struct StoredTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  int64_t offset, bytes;  // in the file
};

const char* safetensors_name(DType);  // "BF16"

class SafetensorsFile {
 public:
  // InputError `PATH: safetensors: ...` for a file that breaks the format in any way, cut short or with bytes to spare.
  explicit SafetensorsFile(const std::string& path);
  std::span<const StoredTensor> tensors() const { return tensors_; }  // in the order of their bytes
  const StoredTensor* find(const std::string& name) const;            // null when there is none
  std::span<const std::byte> data(const StoredTensor& t) const;       // valid as long as this object
  std::span<const std::byte> header(int64_t bytes) const;              // the first bytes of the file, at most all of it
  const Metadata& metadata() const { return metadata_; }

 private:
  std::string path_;
  MappedFile file_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, size_t> by_name_;
  Metadata metadata_;
};

// The header and the place of each tensor, from names, dtypes and shapes; offset and bytes are filled in. The widest dtypes
// come first (then by name), so that every tensor is aligned to its element.
class SafetensorsLayout {
 public:
  SafetensorsLayout(std::vector<StoredTensor> tensors, const Metadata& metadata);
  const std::string& header() const { return header_; }                // with its length in front
  std::span<const StoredTensor> tensors() const { return tensors_; }  // in the order in which the bytes follow
  int64_t file_bytes() const { return file_bytes_; }

 private:
  std::vector<StoredTensor> tensors_;
  std::string header_;
  int64_t file_bytes_ = 0;
};

}  // namespace weft::ckpt
