// From settings to a session: what train, demo and bench share.
#pragma once
#include <string>

#include "ops/policy.h"
#include "train/session.h"

namespace weft::app {

ops::Policy policy_for(const std::string& device);  // "cpu" or "cuda:N"
// Everything but the run's folder and its resume command.
train::SessionOptions session_options(const train::RunConfig&, const std::string& device);

}  // namespace weft::app
