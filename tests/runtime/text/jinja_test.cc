// The engine against Jinja itself: jinja_goldens.json holds what transformers' environment renders.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "nlohmann/json.hpp"
#include "runtime/text/jinja/interpreter.h"
#include "runtime/text/jinja/parser.h"
#include "tests/runtime/text/test_files.h"

namespace spotd::text::jinja {
namespace {

using testing::HasSubstr;
using testing::Not;
using Globals = std::vector<std::pair<std::string, Value>>;

Value FromJson(const nlohmann::ordered_json& json) {
  if (json.is_null()) return Value();
  if (json.is_boolean()) return Value::Bool(json.get<bool>());
  if (json.is_number_integer()) return Value::Int(json.get<int64_t>());
  if (json.is_number()) return Value::Float(json.get<double>());
  if (json.is_string()) return Value::String(json.get<std::string>());
  if (json.is_array()) {
    std::vector<Value> items;
    for (const auto& item : json) items.push_back(FromJson(item));
    return *MakeList(std::move(items));
  }
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [key, value] : json.items()) {
    entries.emplace_back(Value::String(key), FromJson(value));
  }
  return *MakeDict(std::move(entries));
}

// 2024-07-26 13:05:09, the clock of the goldens.
RenderOptions FixedClock() {
  setenv("TZ", "UTC", 1);
  RenderOptions options;
  options.now = std::chrono::system_clock::from_time_t(1721999109);
  return options;
}

absl::StatusOr<std::string> RenderText(const std::string& source, const Globals& globals = {},
                                       const RenderOptions& options = FixedClock()) {
  auto body = Parse(source);
  if (!body.ok()) return body.status();
  return Render(*body, globals, options);
}

TEST(JinjaTest, RendersAsJinjaDoes) {
  const auto snippets = nlohmann::ordered_json::parse(ReadGolden("jinja_snippets.json"));
  Globals globals;
  for (const auto& [name, value] : snippets["context"].items()) {
    globals.emplace_back(name, FromJson(value));
  }
  size_t checked = 0;
  for (const auto& golden : nlohmann::json::parse(ReadGolden("jinja_goldens.json"))) {
    const auto source = golden["template"].get<std::string>();
    const auto rendered = RenderText(source, globals);
    if (golden.contains("error")) {
      EXPECT_FALSE(rendered.ok()) << source << "\n-> " << *rendered
                                  << "\nJinja: " << golden["error"];
    } else {
      EXPECT_TRUE(rendered.ok()) << source << "\n-> " << rendered.status();
      EXPECT_EQ(rendered.value_or(""), golden["output"].get<std::string>()) << source;
    }
    ++checked;
  }
  EXPECT_GT(checked, 400u);
}

TEST(JinjaTest, ErrorsHaveLineAndColumn) {
  EXPECT_THAT(RenderText("a\n  {{ 1 + }}").status().message(), HasSubstr("line 2, column 10"));
  EXPECT_THAT(RenderText("\n{% frob %}").status().message(), HasSubstr("line 2, column 4"));
  EXPECT_THAT(RenderText("{% frob %}").status().message(), HasSubstr("\"frob\""));
  EXPECT_THAT(RenderText("x\ny {{ 1 / 0 }}").status().message(),
              HasSubstr("line 2, column 8: division"));
  EXPECT_THAT(RenderText("{{ missing.x }}").status().message(),
              HasSubstr("'missing' is undefined"));
}

TEST(JinjaTest, RaiseExceptionGivesTheTemplatesWords) {
  EXPECT_EQ(RenderText("{{ raise_exception('No tools, please') }}").status().message(),
            "No tools, please");
}

TEST(JinjaTest, WorkIsBounded) {
  const char* endless[] = {
      "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
      "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for a in range(99) %}{% set ns.s = ns.s + "
      "ns.s %}{% endfor %}",
      "{{ 'x' * 999999999999 }}",
      "{{ [1] * 999999999999 }}",
      "{% set ns = namespace(l=[1]) %}{% for a in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% "
      "endfor %}{{ ns.l }}",
      "{% set ns = namespace(l=[1]) %}{% for a in range(99999) %}{% set ns.l = [ns.l] %}{% endfor "
      "%}",
      "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
      "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
      "{{ range(100000000) }}",
      "{{ 'a'|replace('a', 'b' * 1000000)|replace('b', 'c' * 1000000) }}",
      "{{ 'ab'.replace('a', 'b' * 100000).replace('b', 'c' * 100000) }}",
      "{{ 'a' | indent(1000) | tojson(indent=1000) ~ ('a\\n' * 9999999)|indent(1000) }}",
  };
  for (const char* source : endless) {
    RenderOptions options = FixedClock();
    options.max_work = size_t{64} << 20;
    const auto rendered = RenderText(source, {}, options);
    EXPECT_EQ(rendered.status().code(), absl::StatusCode::kInvalidArgument) << source;
  }
}

// Whatever looks at long text, or at many values, pays for it each time.
TEST(JinjaTest, WorkOnLongTextIsBounded) {
  const std::string setup =
      "{% set x = 'a' * 4000000 %}{% set y = 'a' * 4000000 %}{% set d = {x: 1} %}"
      "{% set e = {'n0': 0} %}";
  const char* repeated[] = {
      "{% if x is lower %}{% endif %}",
      "{% if x is upper %}{% endif %}",
      "{% if x is sameas y %}{% endif %}",
      "{% if x == y %}{% endif %}",
      "{% if x < y %}{% endif %}",
      "{% if y in [x] %}{% endif %}",
      "{% if [x] == [y] %}{% endif %}",
      "{% set z = d[y] %}",
      "{% set z = d.get(y) %}",
      "{% set z = e[y] %}",
      "{% set z = 'a'.removeprefix(y) %}",
      "{% set z = 'a'.find(y) %}",
      "{% set z = ['a'] | join(y) %}",
      "{% set z = {x: 1, y: 2} %}",
      "{% set z = x | length %}",
      "{% set z = x.upper() %}",
      "{% set z = dict(names) %}",
      "{% set z = namespace(names) %}",
  };
  std::string names = "{% set names = {";
  for (int i = 0; i < 500; ++i) names += "'n" + std::to_string(i) + "': 1, ";
  names += "} %}";
  RenderOptions options = FixedClock();
  options.max_work = size_t{16} << 20;
  for (const std::string part : repeated) {
    const std::string source = setup + names +
                               "{% for a in range(99999) %}{% for b in range(99999) %}" + part +
                               "{% endfor %}{% endfor %}";
    const auto begin = std::chrono::steady_clock::now();
    const auto rendered = RenderText(source, {}, options);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    EXPECT_EQ(rendered.status().code(), absl::StatusCode::kInvalidArgument) << part;
    EXPECT_LT(took.count(), 20) << part;  // a second or so; far more where it is for nothing
  }
}

TEST(JinjaTest, ManyNamesAreFoundAsQuicklyAsFew) {
  std::string source;
  for (int i = 0; i < 40000; ++i) source += "{% set n" + std::to_string(i) + " = 1 %}";
  source += "{% for i in range(99999) %}{% set z = n1 %}{% set z = absent %}{% endfor %}";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(RenderText(source, {}, FixedClock()).ok());
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(took.count(), 10);  // a fifth of a second; far more where each is looked at
}

TEST(JinjaTest, NestingIsBounded) {
  const auto repeat = [](const std::string& text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += text;
    return out;
  };
  const std::string deep[] = {
      "{{ " + repeat("(", 100000) + "1" + repeat(")", 100000) + " }}",
      "{{ " + repeat("[", 100000) + repeat("]", 100000) + " }}",
      "{{ " + repeat("not ", 100000) + "1 }}",
      "{{ " + repeat("-", 100000) + "1 }}",
      "{{ 1" + repeat(" + 1", 100000) + " }}",
      "{{ x" + repeat(".y", 100000) + " }}",
      "{{ x" + repeat("|upper", 100000) + " }}",
      "{{ 1" + repeat(" if 1 else 1", 50000) + " }}",
      "{{ x" + repeat(" is defined", 50000) + " }}",
      "{{ 1" + repeat(" ** 1", 50000) + " }}",
      repeat("{% if 1 %}", 50000) + repeat("{% endif %}", 50000),
      repeat("{% for a in [1] %}", 20000) + repeat("{% endfor %}", 20000),
  };
  for (const std::string& source : deep) {
    EXPECT_EQ(RenderText(source).status().code(), absl::StatusCode::kInvalidArgument)
        << source.substr(0, 40);
  }
  EXPECT_TRUE(
      RenderText("{{ " + repeat("(", 12) + "1" + repeat(")", 12) + repeat(" + 1", 60) + " }}")
          .ok());
}

TEST(JinjaTest, ValuesCannotFormCycles) {
  EXPECT_FALSE(RenderText("{% set n = namespace() %}{% set n.n = n %}").ok());
  EXPECT_FALSE(RenderText("{% set n = namespace() %}{% set n.n = [n] %}").ok());
  EXPECT_FALSE(RenderText("{% macro f() %}{% endmacro %}{% set n = namespace(f=f) %}").ok());
  EXPECT_FALSE(RenderText("{% for a in [1] %}{% set x = [loop] %}{% endfor %}").ok());
}

TEST(JinjaTest, BrokenTemplatesAreRefusedAndNotMore) {
  // Every prefix of a template that uses all of the syntax, and the template with any one character
  // gone.
  const std::string source =
      ReadGolden("chat/qwen3.jinja").substr(0, 2500) + ReadGolden("chat/strict.jinja");
  const Globals globals = {{"messages", FromJson({{{"role", "user"}, {"content", "x"}}})}};
  for (size_t i = 0; i < source.size(); i += 3) {
    (void)RenderText(source.substr(0, i), globals).ok();
    (void)RenderText(source.substr(0, i) + source.substr(i + 1), globals).ok();
  }
  EXPECT_THAT(RenderText("\xff").status().message(), HasSubstr("UTF-8"));
  EXPECT_FALSE(RenderText(std::string(2 << 20, 'x')).ok());
  EXPECT_THAT(RenderText(std::string("a\0b", 3)).value(), testing::Eq(std::string("a\0b", 3)));
}

}  // namespace
}  // namespace spotd::text::jinja
