#include "train/run_config.h"

namespace weft::config {

template std::unique_ptr<Node> bind(train::RunConfig&);

}  // namespace weft::config
