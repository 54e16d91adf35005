// A trainer's state as a checkpoint, and back; what must be equal for a resumed run to give the same bits.
#pragma once
#include <optional>
#include <string>

#include "ckpt/store.h"
#include "train/trainer.h"

namespace weft::train {

struct Identity {  // bitwise claims hold for the same three
  std::string build_id;  // hash of the running binary, and of the tensor library's version
  std::string isa;
  int threads = 0;
};
Identity this_process();

// Every tensor of the state that this rank is the one to write: weights, buffers, optimizer states.
std::vector<ckpt::Source> state_sources(Trainer&, const Mesh&);
ckpt::Manifest state_manifest(const Trainer&, const Identity&, const Json& config, uint64_t seed, const Json& extra);
void load_state(Trainer&, const Mesh&, const ckpt::Found&);  // InputError when a tensor is missing or of another shape

// The weights and buffers of a model alone, for evaluation and inference.
void load_model(nn::Module&, const Mesh&, const ckpt::Found&);

// Why the run cannot go on with these settings, as lines for people; empty when it can. `inexact` gets what would only change
// the bits: another binary, ISA, thread count or data.
struct ResumeProblems { std::vector<std::string> refused, inexact; };
ResumeProblems resume_problems(const ckpt::Manifest&, const std::vector<config::Change>& changes, const Identity&, const std::string& data_hash);

}  // namespace weft::train
