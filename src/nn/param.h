// What a layer says of each parameter: how it may be cut, who computes a part of its gradient, how it starts, who updates it.
// Every field is required; nothing is read with a default later (training.md 2: parameter tags).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "dist/layout.h"
#include "ops/weight.h"

namespace weft::nn {

enum class Split : uint8_t { kNone, kColumn, kRow, kVocab, kExpert };
enum class GradUse : uint8_t { kPerToken, kPerHead, kReplicated };  // who computes a part of dW: decides its reduction

struct Init {
  enum Kind : uint8_t { kZero, kOne, kConstant, kNormal, kUniform, kCustom } kind;
  double scale;                         // kConstant: the value; kNormal: standard deviation; kUniform: values in (-scale, scale)
  double (*custom)(double u) = nullptr;  // kCustom: the value from u, uniform in (0, 1)
};

struct ParamSpec {
  std::string name;            // within its module; "" gives the parameter the module's own path
  std::vector<int64_t> shape;  // of the whole tensor
  Split split;
  std::vector<int64_t> segments;  // of a fused split dim (q|k|v, gate|up): each is cut on its own; empty is one
  Init init;
  GradUse grad_use;
  bool decay;     // weight decay applies
  bool keep_f32;  // stored in fp32 whatever the compute dtype
  bool matrix;    // may be given to Muon
};

struct Param {
  ops::Weight weight;
  ParamSpec spec;
  Layout layout;  // none: whole on every rank
};

}  // namespace weft::nn
