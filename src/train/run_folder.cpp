#include "ops/aten.h"

#include "train/run_folder.h"

#include <filesystem>

#include "base/error.h"
#include "base/log.h"

namespace weft::train {
namespace fs = std::filesystem;

RunFolder::RunFolder(const std::string& path) : path_(path) {
  make_folders(path);
  std::string holder;
  lock_ = FileLock::try_take(file("lock"), &holder);
  if (!lock_) throw UnavailableError(path + ": another process trains in this folder: got the lock of process " + holder + "\n  try: wait for it, or another --run folder");
}

ckpt::Found find_checkpoint(const std::string& path) {
  if (fs::exists(path + "/manifest.json") && !fs::exists(path + "/checkpoints")) {
    ckpt::Found found = ckpt::open(path);
    ckpt::verify(found);
    return found;
  }
  std::vector<ckpt::Refused> refused;
  auto found = ckpt::Store(path + "/checkpoints").newest_valid(&refused);
  for (const ckpt::Refused& r : refused) log::warn("checkpoint refused: " + r.why);
  if (!found) throw InputError(path + ": no checkpoint: want a run folder of `weft train`, or one of its checkpoints/step-* folders");
  return std::move(*found);
}

std::string run_of(const ckpt::Found& f) { return fs::path(f.path).parent_path().parent_path().string(); }

}  // namespace weft::train
