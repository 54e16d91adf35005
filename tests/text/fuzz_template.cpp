// Any bytes as a chat template: refused with InputError, or rendered within its limits, the marked ranges inside the text.
#include <cstdlib>

#include "base/error.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace weft;
  static const nlohmann::ordered_json variables = nlohmann::ordered_json::parse(
      R"({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": " hi \u00e9"}, {"role": "assistant", "content": null,
          "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2.5, true]}}}]}], "tools": [{"type": "function"}],
          "add_generation_prompt": true, "bos_token": "<s>"})");
  try {
    const text::ChatTemplate t({reinterpret_cast<const char*>(bytes), size}, "fuzz");
    const text::TemplateLimits limits{.operations = 20000, .output_bytes = 1 << 16, .now = 1};
    const text::RenderedChat chat = t.render(variables, limits);
    if (chat.text.size() > limits.output_bytes) std::abort();
    for (const auto& r : chat.generated) {
      if (r.begin > r.end || r.end > chat.text.size()) std::abort();
    }
  } catch (const InputError&) {
  }
  return 0;
}
