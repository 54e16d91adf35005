#include "data/chat_format.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "data/prepare_state.h"

namespace weft::data {
namespace {

namespace fs = std::filesystem;

std::string text_in(const Json& j, const char* key) {  // "x", or {"content": "x"}
  const auto it = j.find(key);
  if (it == j.end()) return "";
  if (it->is_string()) return it->get<std::string>();
  return it->is_object() ? it->value("content", std::string()) : "";
}

// The template in tokenizer_config.json: a text, or a list of named ones of which "default" counts.
std::string template_in(const Json& config) {
  const auto it = config.find("chat_template");
  if (it == config.end()) return "";
  if (it->is_string()) return it->get<std::string>();
  for (const Json& named : it->is_array() ? *it : Json::array()) {
    if (named.is_object() && named.value("name", std::string()) == "default") return named.value("template", std::string());
  }
  return "";
}

Json messages_of(const Conversation& c, size_t count) {
  Json out = Json::array();
  for (size_t i = 0; i < count; ++i) {
    Json m = c[i].raw.is_object() ? c[i].raw : Json::object();
    for (const char* key : {"from", "value", "weight"}) m.erase(key);
    m["role"] = c[i].role;
    if (!m.contains("content") || !m["content"].is_null()) m["content"] = c[i].content;
    out.push_back(std::move(m));
  }
  return out;
}


}  // namespace

ChatRenderer template_renderer(std::shared_ptr<const text::ChatTemplate> source, Json variables) {
  return [source, variables](const Conversation& c) {
    const auto render = [&](size_t count, bool prompt) {
      Json v = variables;
      v["messages"] = messages_of(c, count);
      v["add_generation_prompt"] = prompt;
      v["tools"] = c.tools;
      if (c.tools.is_null()) v.erase("tools");
      return source->render(v);
    };
    const text::RenderedChat whole = render(c.size(), false);
    RenderedChat out;
    out.text = whole.text;
    std::vector<double> weights;
    for (const Message& m : c) {
      if (m.role == "assistant") weights.push_back(m.weight);
    }
    if (!whole.generated.empty()) {
      for (const auto& r : whole.generated) out.trained.emplace_back(r.begin, r.end);
      const bool plain = std::all_of(weights.begin(), weights.end(), [](double w) { return w == 1; });
      if (out.trained.size() != weights.size() && !plain) {
        throw InputError("chat: the template has " + std::to_string(out.trained.size()) + " generated parts for " + std::to_string(weights.size()) + " turns of the assistant: their weights cannot be told apart");
      }
      if (out.trained.size() != weights.size()) weights.assign(out.trained.size(), 1.0);
      out.weights = std::move(weights);
      return out;
    }
    for (size_t i = 0, turn = 0; i < c.size(); ++i) {
      if (c[i].role != "assistant") continue;
      const std::string before = render(i, true).text, upto = i + 1 == c.size() ? whole.text : render(i + 1, false).text;
      if (!upto.starts_with(before) || !std::string_view(whole.text).starts_with(upto)) {
        throw InputError("chat: turn " + std::to_string(i + 1) + ": the template writes a turn differently once more turns follow, so what is learned cannot be found\ntry: a template with {% generation %}");
      }
      out.trained.emplace_back(before.size(), upto.size());
      out.weights.push_back(weights[turn++]);
    }
    return out;
  };
}

ChatFormat chat_format(const text::Tokenizer& tokenizer, const std::string& tokenizer_path, const std::string& chosen) {
  const fs::path given(tokenizer_path);
  const fs::path folder = fs::is_directory(given) ? given : given.parent_path();
  const std::string config_path = (folder / "tokenizer_config.json").string(), jinja_path = (folder / "chat_template.jinja").string();
  const Json config = fs::exists(config_path) ? read_json_file(config_path) : Json::object();
  std::string source, name = chosen;
  if (chosen.empty()) {
    if (fs::exists(jinja_path)) source = read_file(jinja_path), name = jinja_path;
    else if (source = template_in(config); !source.empty()) name = config_path;
    else name = "chatml";
  } else if (chosen != "chatml") {
    source = read_file(chosen);
  }
  if (name == "chatml") {
    if (tokenizer.id_of("<|im_start|>") < 0 || tokenizer.id_of("<|im_end|>") < 0) {
      throw ConfigError("chat: " + (chosen.empty() ? "no chat template beside '" + tokenizer_path + "', and" : std::string("chatml:")) + " the vocabulary has no <|im_start|> and <|im_end|>\ntry: a Jinja file as chat template");
    }
    return {render_chatml, "chatml", name};
  }
  Json variables = Json::object();
  for (const char* key : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
    if (const std::string text = text_in(config, key); !text.empty()) variables[key] = text;
  }
  // Where no configuration names them, the vocabulary's own.
  if (!variables.contains("bos_token") && tokenizer.bos_id() >= 0) variables["bos_token"] = tokenizer.token_text(tokenizer.bos_id());
  if (!variables.contains("eos_token") && tokenizer.eos_id() >= 0) variables["eos_token"] = tokenizer.token_text(tokenizer.eos_id());
  return {template_renderer(std::make_shared<const text::ChatTemplate>(source, name), variables), "jinja " + hex_hash(source) + hex_hash(variables.dump()), name};
}

}  // namespace weft::data
