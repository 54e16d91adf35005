// .npy files, version 1.0, as numpy.save writes them: C order, one or two dimensions.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "data/part_file.h"

namespace weft::data {

template <class T> constexpr const char* npy_type();
template <> constexpr const char* npy_type<int16_t>() { return "<i2"; }
template <> constexpr const char* npy_type<int32_t>() { return "<i4"; }
template <> constexpr const char* npy_type<uint32_t>() { return "<u4"; }
template <> constexpr const char* npy_type<int64_t>() { return "<i8"; }

class NpyWriter {  // piece by piece; atomic
 public:
  NpyWriter(const std::string& path, const char* type, const std::vector<int64_t>& shape);
  void write(const void* data, size_t bytes) { out_.write(data, bytes); }
  void finish() { out_.close_as(path_); }

 private:
  std::string path_;
  PartFile out_;
};
void write_npy(const std::string& path, const char* type, const std::vector<int64_t>& shape, const void* data, int64_t bytes);

class NpyFile {  // mapped
 public:
  explicit NpyFile(const std::string& path);  // InputError, naming the rule
  const std::string& type() const { return type_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  template <class T>
  std::span<const T> values() const {
    check_type(npy_type<T>());
    return {reinterpret_cast<const T*>(map_->bytes().data() + offset_), static_cast<size_t>(count_)};
  }

 private:
  void check_type(const char* want) const;
  std::string path_, type_;
  std::shared_ptr<const MappedFile> map_;
  std::vector<int64_t> shape_;
  int64_t offset_ = 0, count_ = 1;
};

}  // namespace weft::data
