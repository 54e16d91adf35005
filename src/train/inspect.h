// What a checkpoint holds, for people and as JSON.
#pragma once
#include <string>

#include "base/json.h"
#include "ckpt/store.h"

namespace weft::train {

// Keys: path step consumed_samples consumed_tokens ranks build_id isa threads parameters weight_bytes state_bytes files tensors
// (name, dtype, shape, pieces, and of floats: min, max, mean, rms, non_finite) kernels config.
Json inspect_checkpoint(const ckpt::Found&, bool statistics);
std::string checkpoint_text(const Json& inspected);

}  // namespace weft::train
