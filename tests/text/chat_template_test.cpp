#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace weft::text {
namespace {

using J = nlohmann::ordered_json;

std::string render(const std::string& source, const J& variables = J::object()) { return ChatTemplate(source).render(variables).text; }

TEST(ChatTemplate, BlocksTakeTheirLineEnds) {
  EXPECT_EQ(render("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
  EXPECT_EQ(render("a  {%- if true -%}  b  {%- endif %} c"), "ab c");
  EXPECT_EQ(render("{# note #}\nx {{- ' y ' -}} z"), "x y z");
}

TEST(ChatTemplate, Messages) {
  const std::string source =
      "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m.content | trim + eos_token }}{% if loop.last %}!{% endif %}{% endfor %}";
  const J v = {{"messages", {{{"role", "user"}, {"content", " hi "}}, {{"role", "assistant"}, {"content", "yo"}}}}, {"eos_token", "</s>"}};
  EXPECT_EQ(render(source, v), "<|user|>hi</s><|assistant|>yo</s>!");
}

TEST(ChatTemplate, ValuesPrintAsPythonPrintsThem) {
  EXPECT_EQ(render("{{ [1, 2.0, none, true, 'a\\'b', {'k': (1,)}] }}"), "[1, 2.0, None, True, \"a'b\", {'k': (1,)}]");
  EXPECT_EQ(render("{{ {'a': [1, {'b': 'x\"y'}]} | tojson }}"), "{\"a\": [1, {\"b\": \"x\\\"y\"}]}");
  EXPECT_EQ(render("{{ 7 // -2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 1e3 if false else 1.5 }}"), "-4 2 3.5 1024 1.5");
}

TEST(ChatTemplate, WhatIsAddedToSafeTextIsEscaped) {
  EXPECT_EQ(render("{{ 'a<' | safe + '<b>' + \"'\" }}{{ 'x<' + 'y' }}{{ ('<' | safe) ~ '<' }}{{ '<' | e | e }}"), "a<&lt;b&gt;&#39;x<y<<&lt;");
}

TEST(ChatTemplate, NamespacesMacrosSlices) {
  EXPECT_EQ(render("{% set ns = namespace(n=0) %}{% for x in [1,2,3] %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}"), "6");
  EXPECT_EQ(render("{% macro f(a, b='z') %}{{ a }}{{ b }}{% endmacro %}{{ f('x') }}{{ f('x', b='y') }}"), "xzxy");
  EXPECT_EQ(render("{{ 'abcdef'[1:-1] }}{{ [1,2,3][::-1] }}"), "bcde[3, 2, 1]");
  EXPECT_EQ(render("{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}"), "1");
}

TEST(ChatTemplate, GenerationSaysWhatTheAssistantSaid) {
  const RenderedChat r = ChatTemplate("u{% generation %}abc{% endgeneration %}v").render(J::object());
  EXPECT_EQ(r.text, "uabcv");
  ASSERT_EQ(r.generated.size(), 1u);
  EXPECT_EQ(r.text.substr(r.generated[0].begin, r.generated[0].end - r.generated[0].begin), "abc");
}

TEST(ChatTemplate, WorkIsBounded) {
  EXPECT_THROW(render("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"), InputError);
  EXPECT_THROW(render("{% set ns = namespace(s='x') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"), InputError);
  EXPECT_THROW(render("{{ 'x' * 9999999999 }}"), InputError);
  EXPECT_THROW(render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), InputError);
  EXPECT_THROW(render("{% set ns = namespace(l=[]) %}{% for a in range(1000) %}{% set ns.l = [ns.l] %}{% endfor %}"), InputError);
  EXPECT_THROW(ChatTemplate("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}"), InputError);
  std::string sum = "{{ 1";
  for (int i = 0; i < 5000; ++i) sum += "+1";
  EXPECT_THROW(ChatTemplate(sum + " }}"), InputError);
}

TEST(ChatTemplate, WrongTemplatesAreRefusedByLine) {
  for (const char* source : {"{% if %}", "{{ 1 + }}", "{% for x in y %}", "{% nope %}", "{{ 'a", "{# a", "{% endif %}", "{% include 'x' %}", "{{ x | nope }}", "{{ a.b.c }}",
                             "{{ raise_exception('no') }}", "{{ [1].append(2) }}", "{{ 1 / 0 }}", "{% break %}"}) {
    try {
      render(source);
      ADD_FAILURE() << "taken: " << source;
    } catch (const InputError& e) {
      EXPECT_NE(std::string(e.what()).find("line 1"), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace weft::text
