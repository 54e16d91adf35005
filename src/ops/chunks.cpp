#include "ops/aten.h"

#include "ops/chunks.h"

namespace weft::ops {

Chunks::Chunks(const Packing& packing, int64_t length, at::Device device) : length_(length), tokens_(packing.tokens()) {
  std::vector<int64_t> row_of_slot, slot_of_row;
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const int64_t begin = packing.host_cu_q[d], n = packing.host_cu_q[d + 1] - begin, chunks = (n + length - 1) / length;
    whole_ = whole_ && n % length == 0;
    for (int64_t i = 0; i < chunks * length; ++i) {
      if (i < n) slot_of_row.push_back(count_ * length + i);
      row_of_slot.push_back(i < n ? begin + i : tokens_);
    }
    count_ += chunks;
    first_.push_back(count_);
  }
  if (whole_) return;
  row_of_slot_ = at::tensor(row_of_slot, at::kLong).to(device);
  slot_of_row_ = at::tensor(slot_of_row, at::kLong).to(device);
}

at::Tensor Chunks::cut(const at::Tensor& x) const {
  std::vector<int64_t> shape = x.sizes().vec();
  shape[0] = count_, shape.insert(shape.begin() + 1, length_);
  if (whole_) return x.reshape(shape);
  std::vector<int64_t> one = x.sizes().vec();
  one[0] = 1;
  return at::cat({x, at::zeros(one, x.options())}, 0).index_select(0, row_of_slot_).view(shape);
}

at::Tensor Chunks::join(const at::Tensor& x) const {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.erase(shape.begin()), shape[0] = count_ * length_;
  const at::Tensor flat = x.reshape(shape);
  return whole_ ? flat : flat.index_select(0, slot_of_row_);
}

}  // namespace weft::ops
