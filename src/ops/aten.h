// The one seam to ATen for sources; it is the precompiled header. Headers include only <ATen/core/Tensor.h>.
#pragma once
#define FMT_HEADER_ONLY 1  // torch's include folder has a newer {fmt} than the one that base/fmt.cpp compiles; they differ in namespace
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>
