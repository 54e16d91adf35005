// The tensors of a state, cut as they lie on the mesh, under the names that a checkpoint gives them:
//   NAME                     weights (compute dtype) and buffers
//   optim.master.NAME        fp32 masters of weights that are not fp32;  optim.exp_avg.NAME, optim.exp_avg_sq.NAME
#pragma once
#include <functional>

#include "ckpt/piece.h"
#include "train/trainer.h"

namespace weft::train {

struct Part {
  ckpt::Piece piece;
  at::Tensor tensor;   // a view of the live tensor
  bool main_replica;  // this rank writes it
};
void for_each_model_part(nn::Module&, const Mesh&, const std::function<void(const Part&)>&);
void for_each_part(Trainer&, const Mesh&, const std::function<void(const Part&)>&);

}  // namespace weft::train
