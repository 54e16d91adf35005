// Moves a tensor from one layout to another; differentiable.
//
// The backward moves the gradient from `cotangent` (how it comes back for `to`) to the dual of `from`: a shard's gradient is that
// shard, an addend's gradient is whole, a copy's gradient is a copy. So the caller, who knows whether a replicated result is
// used by everyone alike (cotangent: replicated) or by each for a part of the sum (cotangent: addends), fixes the backward.
#pragma once
#include <ATen/core/Tensor.h>

#include "dist/layout.h"

namespace weft {

// `t` is this rank's local tensor under `from`; returns it under `to`. Collective over every axis that changes. ShapeError when a
// dim cannot be cut, or a sum over replicas of a slice would be needed. One axis that goes from addends to shards is one
// reduce-scatter, from one dim's shards to another's one all-to-all; other changes are made one axis after another.
at::Tensor redistribute(const at::Tensor& t, const Layout& from, const Layout& to, const Layout& cotangent, const Mesh&);

}  // namespace weft
