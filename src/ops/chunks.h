// Documents cut into chunks of L tokens counted from each document's start, the last one padded with zeros: the shape on which
// chunked recurrences become batched GEMMs. Sources only: include after ops/aten.h.
#pragma once
#include "ops/aten.h"
#include "ops/packing.h"

namespace weft::ops {

class Chunks {
 public:
  Chunks(const Packing&, int64_t length, at::Device);
  at::Tensor cut(const at::Tensor& x_T) const;     // [T, ...] -> [chunks, L, ...], zeros in padding
  at::Tensor join(const at::Tensor& x_cL) const;   // its inverse: padding is dropped
  int64_t count() const { return count_; }
  int64_t length() const { return length_; }
  int64_t documents() const { return static_cast<int64_t>(first_.size()) - 1; }
  int64_t first(int64_t document) const { return first_[static_cast<size_t>(document)]; }  // its first chunk; first(documents()) is count()

 private:
  int64_t length_, count_ = 0, tokens_;
  bool whole_ = true;  // no padding: cut and join are views
  std::vector<int64_t> first_{0};
  at::Tensor row_of_slot_, slot_of_row_;
};

}  // namespace weft::ops
