#include "data/conversation.h"

#include "base/error.h"
#include "data/json_line.h"
#include "data/utf8.h"

namespace weft::data {
namespace {

std::string clean(const std::string& s) {
  std::string out;
  append_clean_utf8(s, out);
  return out;
}

std::string text_of(const Json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end()) throw InputError(where + ": no member \"" + key + "\"");
  if (it->is_null()) return "";  // an assistant's turn that only calls tools
  if (!it->is_string()) throw InputError(where + ": \"" + key + "\" is no string: got " + it->type_name() + ", want text");
  return clean(it->get<std::string>());
}

Message message_of(const Json& m, const std::string& where) {
  if (!m.is_object()) throw InputError(where + ": a message is no object: got " + std::string(m.type_name()));
  Message out;
  const bool sharegpt = m.contains("from");
  out.role = text_of(m, sharegpt ? "from" : "role", where);
  if (sharegpt) {
    for (const auto& [from, to] : {std::pair("human", "user"), {"gpt", "assistant"}, {"model", "assistant"}, {"function_response", "tool"}}) {
      if (out.role == from) out.role = to;
    }
  }
  bool known = false;
  for (const char* role : {"system", "developer", "user", "assistant", "tool"}) known |= out.role == role;
  if (!known) throw InputError(where + ": unknown role: got \"" + out.role + "\", want system, developer, user, assistant or tool");
  out.content = text_of(m, sharegpt ? "value" : "content", where);
  if (const auto w = m.find("weight"); w != m.end()) {
    if (!w->is_number() || w->get<double>() < 0) throw InputError(where + ": \"weight\" of a turn: got " + w->dump() + ", want a number of at least 0");
    out.weight = w->get<double>();
  }
  out.raw = m;
  return out;
}

std::vector<Conversation> split_at_system(const Json& row, const char* key, const std::string& where) {
  const Json& messages = row[key];
  if (!messages.is_array() || messages.empty()) throw InputError(where + ": no messages: got " + std::string(messages.is_array() ? "an empty list" : messages.type_name()));
  std::vector<Conversation> out;
  for (const Json& m : messages) {
    Message message = message_of(m, where);
    if (out.empty() || (message.role == "system" && !out.back().empty())) out.emplace_back();
    out.back().push_back(std::move(message));
  }
  if (const auto tools = row.find("tools"); tools != row.end()) {
    for (Conversation& c : out) c.tools = tools->is_string() ? parse_json(tools->get<std::string>(), where + ": tools") : *tools;
  }
  return out;
}

Conversation two_turns(std::string user, std::string assistant) {
  Conversation c(2);
  c[0].role = "user", c[0].content = std::move(user);
  c[1].role = "assistant", c[1].content = std::move(assistant);
  return c;
}

const char* first_of(const Json& j, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    if (j.contains(key)) return key;
  }
  return nullptr;
}

}  // namespace

std::vector<Conversation> conversations_of(std::string_view row, const std::string& where) {
  const Json j = parse_json(row, where);
  if (!j.is_object()) throw InputError(where + ": got " + std::string(j.type_name()) + ", want an object");
  if (j.contains("messages") && !j["messages"].is_null()) return split_at_system(j, "messages", where);
  if (j.contains("conversations") && !j["conversations"].is_null()) return split_at_system(j, "conversations", where);
  const char* question = first_of(j, {"instruction", "prompt", "question"});
  const char* answer = first_of(j, {"output", "response", "completion", "answer"});
  if (question != nullptr && answer != nullptr) {
    std::string text = text_of(j, question, where);
    if (const char* extra = first_of(j, {"input", "context"})) {
      if (const std::string more = text_of(j, extra, where); !more.empty()) text += "\n\n" + more;
    }
    return {two_turns(std::move(text), text_of(j, answer, where))};
  }
  if (j.contains("text")) {
    Conversation c(1);
    c[0].role = "assistant", c[0].content = text_of(j, "text", where);
    return {std::move(c)};
  }
  throw InputError(where + ": no known schema\ntry: members \"messages\", \"conversations\", \"instruction\" and \"output\", or \"text\"");
}

std::vector<std::string> conversation_columns() {
  return {"messages", "conversations", "tools", "instruction", "prompt", "question", "input", "context", "output", "response", "completion", "answer", "text", "chosen", "rejected"};
}

RenderedChat render_chatml(const Conversation& conversation) {
  RenderedChat out;
  for (const Message& m : conversation) {
    out.text += "<|im_start|>" + m.role + "\n";
    const size_t begin = out.text.size();
    out.text += m.content + "<|im_end|>";
    if (m.role == "assistant") out.trained.emplace_back(begin, out.text.size()), out.weights.push_back(m.weight);
    out.text += "\n";
  }
  return out;
}

TokenRow encode_chat(const text::Tokenizer& tokenizer, const RenderedChat& chat) {
  const text::Encoding e = tokenizer.encode_with_offsets(chat.text, {.parse_special = true, .add_special = false});
  TokenRow out{e.ids, std::vector<float>(e.ids.size(), 0.0f), static_cast<int64_t>(chat.text.size())};
  size_t range = 0;
  for (size_t i = 0; i < e.ids.size(); ++i) {
    while (range < chat.trained.size() && chat.trained[range].second <= e.offsets[i].begin) ++range;
    if (range < chat.trained.size() && e.offsets[i].end > chat.trained[range].first && e.offsets[i].end > e.offsets[i].begin) {
      out.weights[i] = static_cast<float>(chat.weights[range]);
    }
  }
  return out;
}

RowEncoder chat_rows(std::shared_ptr<const text::Tokenizer> tokenizer, ChatRenderer render) {
  return [tokenizer, render](std::string_view line, const std::string& where) {
    std::vector<TokenRow> out;
    for (const Conversation& c : conversations_of(line, where)) out.push_back(encode_chat(*tokenizer, render(c)));
    return out;
  };
}

RowEncoder preference_rows(std::shared_ptr<const text::Tokenizer> tokenizer, ChatRenderer render) {
  return [tokenizer, render](std::string_view line, const std::string& where) {
    const Json j = parse_json(line, where);
    const auto turns_of = [&](const char* key, const char* role) {
      if (!j.is_object() || !j.contains(key)) throw InputError(where + ": no member \"" + key + "\": want prompt, chosen and rejected");
      Conversation out;
      if (j[key].is_string()) {
        out.emplace_back();
        out[0].role = role, out[0].content = clean(j[key].get<std::string>());
      } else {
        for (const Json& m : j[key]) out.push_back(message_of(m, where));
      }
      return out;
    };
    const Conversation prompt = turns_of("prompt", "user");
    std::vector<TokenRow> out;
    for (const char* key : {"chosen", "rejected"}) {
      Conversation c = prompt;
      for (Message& m : c) m.weight = 0;  // earlier answers are context
      for (Message& m : turns_of(key, "assistant")) c.push_back(std::move(m));
      out.push_back(encode_chat(*tokenizer, render(c)));
    }
    return out;
  };
}

RowEncoder text_rows(std::shared_ptr<const text::Tokenizer> tokenizer, std::string key, int32_t eod) {
  return [tokenizer, key, eod](std::string_view line, const std::string& where) {
    const JsonText text = json_text_member(line, key, where);
    if (!text.found) throw InputError(where + ": no member \"" + key + "\"");
    TokenRow row;
    tokenizer->encode_append(text.text, {}, row.tokens);
    if (!row.tokens.empty() && eod >= 0) row.tokens.push_back(eod);
    row.weights.assign(row.tokens.size(), 1.0f);
    row.bytes = static_cast<int64_t>(text.text.size());
    return std::vector<TokenRow>{std::move(row)};
  };
}

}  // namespace weft::data
