// The tensor-core form of the indexer's loss (loss.h) for the shape that it is built for.
#pragma once
#include "kernels/indexer/loss.h"

namespace weft::kernels::indexer {

bool takes_chosen_loss(const IndexerLoss&);
void chosen_loss(const IndexerLoss&, cudaStream_t);

}  // namespace weft::kernels::indexer
