// Chat templates: the part of Jinja that models' templates use, with transformers' environment (trim_blocks, lstrip_blocks,
// loop controls, tojson, strftime_now, raise_exception, {% generation %}).
//
// Goals: the same text as transformers; bounded work on any template and any messages; no code of the template ever leaves it.
// Non-goals: include, import, extends, call blocks, recursive loops, methods that change a list or a dict (upstream's sandbox
// refuses these too). What is refused is named with its line.
#pragma once
#include <cstdint>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace weft::text {

struct TemplateLimits {
  int64_t operations = 1'000'000;
  size_t output_bytes = size_t{4} << 20;  // of the result and of any string on the way
  int calls = 50;                         // macros inside macros
  std::time_t now = 0;                    // for strftime_now; 0 is the clock
};
struct RenderedChat {
  std::string text;
  struct Range {
    size_t begin, end;
  };
  std::vector<Range> generated;  // bytes of the text inside {% generation %}: what the assistant says
};

class ChatTemplate {
 public:
  // Throws InputError `where: line N: what`.
  explicit ChatTemplate(std::string_view source, const std::string& where = "chat template");
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  // `variables` is an object: messages, tools, add_generation_prompt, bos_token ... Throws InputError for what the template
  // refuses (raise_exception), does wrongly, or does too much of.
  RenderedChat render(const nlohmann::ordered_json& variables, const TemplateLimits& = {}) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace weft::text
