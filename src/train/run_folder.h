// Where a run lives, and that only one process trains in it.
//   RUN/checkpoints/step-*  RUN/config.toml  RUN/tokenizer.json (or .model)  RUN/loss.tsv  RUN/metrics.jsonl  RUN/tensorboard/  RUN/lock
#pragma once
#include <memory>
#include <string>

#include "base/files.h"
#include "ckpt/store.h"

namespace weft::train {

class RunFolder {
 public:
  // Makes the folder. UnavailableError, with the other process's id, when somebody trains in it.
  explicit RunFolder(const std::string& path);
  std::string file(const std::string& leaf) const { return path_ + "/" + leaf; }
  std::string checkpoints() const { return file("checkpoints"); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::unique_ptr<FileLock> lock_;
};

// The checkpoint that PATH means: a run folder (its newest valid one; refused ones are told to the log) or one checkpoint's own
// folder. Verified. InputError when there is none, CheckpointError when none is valid.
ckpt::Found find_checkpoint(const std::string& path);
std::string run_of(const ckpt::Found&);  // the run folder that a checkpoint lies in

}  // namespace weft::train
