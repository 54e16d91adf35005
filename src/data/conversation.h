// Chat data: rows of the common schemas as conversations, and conversations as tokens with a weight on what is learned.
#pragma once
#include <functional>
#include <memory>
#include <utility>

#include "base/json.h"
#include "data/row_dataset.h"
#include "text/tokenizer.h"

namespace weft::data {

struct Message {
  std::string role, content;
  double weight = 1;  // of learning this turn; "weight" in the row, only of the assistant's turns
  Json raw;           // with all other members, for templates (tool calls)
};
struct Conversation : std::vector<Message> {
  using std::vector<Message>::vector;
  Json tools;  // of the row, for templates; null when there are none
};

// Schemas by the members that are there, in this order: "messages" [{role, content}]; "conversations" [{from, value}] (human,
// gpt, system and tool become user, assistant, system and tool); "instruction" with "input" or "context" and "output" or
// "response"; "text" (one turn of the assistant). A system turn inside begins a new conversation. InputError with `where` for a
// row of no schema, an unknown role, content that is no string.
std::vector<Conversation> conversations_of(std::string_view row, const std::string& where);

std::vector<std::string> conversation_columns();  // every member that a row of a schema can have

struct RenderedChat {
  std::string text;
  std::vector<std::pair<size_t, size_t>> trained;  // byte ranges that the model is to write, by turn
  std::vector<double> weights;                     // one for each range
};
using ChatRenderer = std::function<RenderedChat(const Conversation&)>;
// <|im_start|>role\ncontent<|im_end|>\n; the assistant's content and its <|im_end|> are trained.
RenderedChat render_chatml(const Conversation&);

// Tokens of a whole rendered conversation; a token is trained when it overlaps a trained range.
TokenRow encode_chat(const text::Tokenizer&, const RenderedChat&);
// Rows of chat data: each conversation of a row is a sequence of its own.
RowEncoder chat_rows(std::shared_ptr<const text::Tokenizer> tokenizer, ChatRenderer render);
// Rows {prompt, chosen, rejected}: two sequences side by side, chosen first, both answers trained. The prompt is a string or
// messages, an answer a string or messages.
RowEncoder preference_rows(std::shared_ptr<const text::Tokenizer> tokenizer, ChatRenderer render);
// Rows with a text: the plain text, all of it trained, `eod` behind it unless -1.
RowEncoder text_rows(std::shared_ptr<const text::Tokenizer> tokenizer, std::string key, int32_t eod);

}  // namespace weft::data
