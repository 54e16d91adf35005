#include "app/all_verbs.h"

namespace weft::app {
namespace {

constexpr Verb kVerbs[] = {
    {"prepare", "turn text into token files, with a tokenizer", prepare},
    {"train", "train a model, or go on with a run", train_verb},
    {"eval", "measure a model on text it has not learned from", eval},
    {"generate", "text from a trained model", generate},
    {"inspect", "show a run, a checkpoint, token files or a tokenizer; draw a run's curves", inspect},
    {"bench", "check and time the operators", bench},
    {"demo", "train a small model on text found here, then talk to it", demo},
    {"doctor", "what is here, how fast it is, what is missing", doctor},
    {"init", "write a commented recipe", init},
    {"config", "show, compare and document settings", config_verb},
    {"version", "the version and what it was built with", version},
    {"help", "help on a verb, on settings or on exit codes", help},
    {"completion", "a completion script for bash, zsh or fish", completion},
};

}  // namespace

std::span<const Verb> verbs() { return kVerbs; }

}  // namespace weft::app
