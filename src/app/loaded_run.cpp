#include "ops/aten.h"

#include "app/loaded_run.h"

#include "comm/comm.h"
#include "models/build.h"
#include "nn/init.h"
#include "train/checkpoint.h"
#include "train/run_folder.h"

namespace weft::app {

LoadedRun load_run(const std::string& path, const std::string& device) {
  const ckpt::Found found = train::find_checkpoint(path);
  const auto config = config::from_json<train::RunConfig>(found.manifest.config, found.path + "/manifest.json: config");
  auto model = models::build(config.model);
  const at::ScalarType dtype = config.train.precision == train::Precision::kBf16 ? at::kBFloat16 : at::kFloat;
  nn::materialize(*model, {at::Device(device), dtype, 0, /*fill=*/false});
  train::load_model(*model, Mesh::single(), found);
  return {config, std::move(model), text::Tokenizer::load(train::run_of(found)), found.path, found.manifest.step};
}

}  // namespace weft::app
