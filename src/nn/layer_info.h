// What a layer is told of its place.
#pragma once

namespace weft::nn {

struct LayerInfo {
  int index, depth, model_dim;
  double norm_eps, init_std;
  // The standard deviation of a branch's last projection: std / sqrt(branches), so that the stream's variance stays put.
  double output_std() const;
};

}  // namespace weft::nn
