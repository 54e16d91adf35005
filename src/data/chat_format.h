// Conversations through a model's own chat template, with the parts that the model is to write.
#pragma once
#include <memory>
#include <string>

#include "data/conversation.h"
#include "text/chat_template.h"

namespace weft::data {

struct ChatFormat {
  ChatRenderer render;
  std::string identity;  // changes when the rendering does
  std::string name;      // for messages: a file, or "chatml"
};

// `chosen`: a Jinja file, "chatml", or "" for the template that lies beside the tokenizer (chat_template.jinja, or chat_template in
// tokenizer_config.json); where there is none, ChatML when the vocabulary has its tokens. ConfigError when nothing is found.
ChatFormat chat_format(const text::Tokenizer& tokenizer, const std::string& tokenizer_path, const std::string& chosen = "");

// What is trained: the parts inside {% generation %}; in a template without it, for each assistant's turn what the template adds
// behind the prompt for that turn. InputError when a template fits neither way, or gives other parts than there are turns with a
// weight of their own.
ChatRenderer template_renderer(std::shared_ptr<const text::ChatTemplate> source, Json variables);

}  // namespace weft::data
