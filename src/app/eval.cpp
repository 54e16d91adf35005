// weft eval RUN [--data D]: the validation loss of a checkpoint.
#include "ops/aten.h"

#include <fmt/format.h>

#include "app/all_verbs.h"
#include "app/flags.h"
#include "base/error.h"
#include "base/text.h"
#include "data/open.h"
#include "ops/tensors.h"
#include "text/tokenizer.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/run_folder.h"
#include "train/session.h"

namespace weft::app {
namespace {

struct Options {
  std::string run, data, split = "val";
  int64_t samples = 0, micro_batch = 0;
};

// Ids mean the same only under the same tokenizer.
void check_tokenizer(const std::string& run, const data::OpenedData& d) {
  const std::string ours = text::Tokenizer::find_in(run);
  if (d.tokenizer_path.empty() || ours.empty()) return;
  if (text::Tokenizer::load(ours).content_hash() != text::Tokenizer::load(d.tokenizer_path).content_hash())
    throw InputError(d.tokenizer_path + ": another tokenizer than that of " + run + "\n  try: weft prepare --tokenizer " + ours);
}

int run(const Options& o, const Common& common) {
  const ckpt::Found found = train::find_checkpoint(o.run);
  const auto c = config::from_json<train::RunConfig>(found.manifest.config, found.path + "/manifest.json: config");
  data::DataConfig config = c.data;
  if (!o.data.empty()) config.path = o.data, config.source = data::PreparedSource{};
  const data::RunShape shape{c.train.steps, c.train.batch, c.train.micro_batch, 1, c.eval.every, c.eval.samples, c.train.seed};
  const data::OpenedData d = data::open_data(config, shape);
  check_tokenizer(train::run_of(found), d);
  const auto set = o.split == "val" ? d.val : o.split == "train" ? d.train : data::open_split(config, shape, o.split);
  if (!set) throw InputError(d.description + ": it has no validation split\n  try: --split train");
  const double bytes_per_token = o.split == "val" ? d.val_bytes_per_token : o.split == "train" ? d.train_bytes_per_token : 0;
  const at::Device device(use_device(common));
  const auto model = train::build_model(c, device, false);
  train::load_model(*model, Mesh::single(), found);
  train::EvalOptions e{o.samples, o.micro_batch > 0 ? o.micro_batch : c.train.micro_batch, bytes_per_token, device, {}};
  e.policy.device = ops::device_of(device);
  const train::EvalReport r = train::evaluate(*model, set, e, found.manifest.step);
  fmt::print("{} of {}, step {}: loss {:.4f} nats a token, {:.4f} bits/byte, perplexity {:.3f} ({} tokens, {})\n", o.split, d.description, r.step, r.loss, r.bits_per_byte, r.perplexity, r.tokens,
             human_seconds(r.seconds));
  write_figures(common, {{"step", r.step}, {"loss", r.loss}, {"bits_per_byte", r.bits_per_byte}, {"perplexity", r.perplexity}, {"tokens", r.tokens}, {"samples", r.samples}, {"wall_s", r.seconds},
                         {"checkpoint", found.path}});
  return 0;
}

}  // namespace

Action eval(Flags& flags, Common& common) {
  auto o = std::make_shared<Options>();
  flags.option("run", o->run, "A run's folder, or one of its checkpoints.").required();
  flags.option("--data", o->data, "Folder that weft prepare made; the run's own when left out.");
  flags.option("--split", o->split, "val, train, or test of a megatron source.").one_of({"val", "train", "test"});
  flags.option("--samples", o->samples, "Only so many samples; 0 is all.").non_negative();
  flags.option("--micro-batch", o->micro_batch, "Samples at once; the run's when left out.").non_negative();
  add_compute_flags(flags, common);
  add_json_flag(flags, common);
  flags.footer("JSON keys: step loss bits_per_byte perplexity tokens samples wall_s checkpoint");
  return [o, &common] { return run(*o, common); };
}

}  // namespace weft::app
