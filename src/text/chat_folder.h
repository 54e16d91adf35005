// The chat template that a model's folder holds, and the strings of its special tokens, where Hugging Face keeps them.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "text/chat_template.h"

namespace weft::text {

struct ChatFolder {
  ChatTemplate chat_template;
  nlohmann::ordered_json variables;  // bos_token, eos_token, ...: those that the folder names
};

// `path`: a folder with chat_template.jinja, or additional_chat_templates/NAME.jinja, or the member "chat_template" of
// tokenizer_config.json (a string, or a list of {name, template}); or such a file itself. `name` chooses one of several,
// "" is the one called "default" or the only one. Throws InputError that says where it looked or which names there are.
ChatFolder load_chat_folder(const std::string& path, const std::string& name = "");

}  // namespace weft::text
