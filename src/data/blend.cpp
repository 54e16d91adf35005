#include "data/blend.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "data/npy.h"

namespace weft::data {
namespace {

constexpr int64_t kBlock = 4096;

}  // namespace

BlendWalk::BlendWalk(std::vector<double> weights) { begin(std::move(weights)); }

BlendWalk::BlendWalk(std::vector<int64_t> sizes) : sizes_(std::move(sizes)) {
  const double total = static_cast<double>(std::accumulate(sizes_.begin(), sizes_.end(), int64_t{0}));
  std::vector<double> weights;
  for (int64_t n : sizes_) weights.push_back(static_cast<double>(n) / total);
  begin(std::move(weights));
}

void BlendWalk::begin(std::vector<double> weights) {
  if (weights.empty() || weights.size() >= 32767) throw ConfigError("data: blend: got " + std::to_string(weights.size()) + " sets, want 1 to 32766");
  weights_ = std::move(weights);
  taken_.assign(weights_.size(), 0);
  counts_.assign(weights_.size(), 0);
  for (size_t d = 0; d < weights_.size(); ++d) {
    if (sizes_.empty() || sizes_[d] > 0) open_.push_back(static_cast<int32_t>(d));
  }
}

void BlendWalk::next(std::span<int16_t> datasets, std::span<int64_t> samples) {
  for (size_t i = 0; i < datasets.size(); ++i, ++place_) {
    const double scale = std::max(static_cast<double>(place_), 1.0);
    size_t best = 0;
    double best_error = -std::numeric_limits<double>::infinity();
    for (size_t k = 0; k < open_.size(); ++k) {
      const size_t d = static_cast<size_t>(open_[k]);
      const double error = weights_[d] * scale - taken_[d];
      if (error > best_error) best_error = error, best = k;
    }
    WEFT_CHECK(!open_.empty(), "a blend is not read behind its end");
    const size_t d = static_cast<size_t>(open_[best]);
    datasets[i] = static_cast<int16_t>(d);
    samples[i] = counts_[d]++;
    taken_[d] += 1;
    if (!sizes_.empty() && counts_[d] == sizes_[d]) open_.erase(open_.begin() + static_cast<int64_t>(best));
  }
}

PlannedBlend::PlannedBlend(BlendWalk walk, int64_t size) : size_(size), step_(std::max<int64_t>(kBlock, 8 * static_cast<int64_t>(walk.counts().size()))) {
  std::vector<int16_t> datasets;
  std::vector<int64_t> samples;
  for (int64_t at = 0; at < size_; at += step_) {
    marks_.push_back(walk);
    const size_t n = static_cast<size_t>(std::min(step_, size_ - at));
    datasets.resize(n), samples.resize(n);
    walk.next(datasets, samples);
  }
  counts_ = walk.counts();
}

size_t PlannedBlend::kept_bytes() const { return marks_.size() * (sizeof(BlendWalk) + counts_.size() * 36); }

BlendOrder::From PlannedBlend::at(int64_t place) const {
  const int64_t number = place / step_;
  std::shared_ptr<const Block> block;
  {
    std::lock_guard lock(mutex_);
    block = recent_;
  }
  if (!block || block->number != number) {
    auto made = std::make_shared<Block>();
    made->number = number;
    const size_t n = static_cast<size_t>(std::min(step_, size_ - number * step_));
    made->datasets.resize(n), made->samples.resize(n);
    BlendWalk walk = marks_[static_cast<size_t>(number)];
    walk.next(made->datasets, made->samples);
    block = made;
    std::lock_guard lock(mutex_);
    recent_ = block;
  }
  const size_t i = static_cast<size_t>(place - number * step_);
  return {block->datasets[i], block->samples[i]};
}

StoredBlend::StoredBlend(const std::string& base) : base_(base) {
  auto files = std::make_shared<std::pair<NpyFile, NpyFile>>(NpyFile(base + "dataset_index.npy"), NpyFile(base + "dataset_sample_index.npy"));
  datasets_ = files->first.values<int16_t>();
  samples_ = files->second.values<int64_t>();
  owner_ = std::move(files);
  if (datasets_.size() != samples_.size()) {
    throw InputError("data: the cache '" + base + "*' does not fit together: got " + std::to_string(datasets_.size()) + " and " + std::to_string(samples_.size()) + " places\ntry: remove these files");
  }
}

std::vector<int64_t> StoredBlend::counts(size_t sets) const {
  std::vector<int64_t> out(sets, 0);
  for (size_t i = 0; i < datasets_.size(); ++i) {
    const int16_t d = datasets_[i];
    if (d < 0 || static_cast<size_t>(d) >= sets || samples_[i] < 0) {
      throw InputError("data: the cache '" + base_ + "*' does not fit: place " + std::to_string(i) + ": got sample " + std::to_string(samples_[i]) + " of set " + std::to_string(d) + " of " + std::to_string(sets) + "\ntry: remove these files");
    }
    out[static_cast<size_t>(d)] = std::max(out[static_cast<size_t>(d)], samples_[i] + 1);
  }
  return out;
}

void write_blend(const std::string& base, const BlendWalk& walk, int64_t size) {
  NpyWriter datasets(base + "dataset_index.npy", "<i2", {size}), samples(base + "dataset_sample_index.npy", "<i8", {size});
  BlendWalk at = walk;
  std::vector<int16_t> d;
  std::vector<int64_t> s;
  for (int64_t done = 0; done < size; done += kBlock) {
    const size_t n = static_cast<size_t>(std::min(kBlock, size - done));
    d.resize(n), s.resize(n);
    at.next(d, s);
    datasets.write(d.data(), 2 * n);
    samples.write(s.data(), 8 * n);
  }
  datasets.finish(), samples.finish();
}

BlendedDataset::BlendedDataset(std::vector<std::shared_ptr<const Dataset>> parts, std::shared_ptr<const BlendOrder> order) : parts_(std::move(parts)), order_(std::move(order)) {
  const std::vector<int64_t> counts = order_->counts(parts_.size());
  for (size_t d = 0; d < parts_.size(); ++d) {
    if (counts[d] > parts_[d]->size()) {
      throw ConfigError("data: the blend asks for more than set " + std::to_string(d) + " has: got " + std::to_string(counts[d]) + " samples, want at most " +
                        std::to_string(parts_[d]->size()) + "\ntry: a larger surplus");
    }
  }
}

BlendOrder::From BlendedDataset::from(int64_t index) const {
  if (index < 0 || index >= size()) throw InputError("data: sample outside the blend: got " + std::to_string(index) + ", want below " + std::to_string(size()));
  return order_->at(index);
}

void BlendedDataset::read(int64_t index, Sample& out) const {
  const BlendOrder::From f = from(index);
  parts_[static_cast<size_t>(f.dataset)]->read(f.sample, out);
}

DocumentStarts BlendedDataset::starts(int64_t index) const {
  const BlendOrder::From f = from(index);
  return parts_[static_cast<size_t>(f.dataset)]->starts(f.sample);
}

}  // namespace weft::data
