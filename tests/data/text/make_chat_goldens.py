#!/usr/bin/env python3
"""Writes chat_goldens.json and jinja_goldens.json: what transformers' own Jinja environment makes of the templates in
chat/ and of the snippets in jinja_snippets.json.

Run with a Python that has transformers and jinja2:  python3 tests/data/text/make_chat_goldens.py
smollm2.jinja and qwen25.jinja are the templates of SmolLM2-135M-Instruct and Qwen2.5-Coder-0.5B-Instruct (Apache 2.0).
"""
import datetime
import itertools
import json
import pathlib
import random

import jinja2
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).resolve().parent
NOW = datetime.datetime(2024, 7, 26, 13, 5, 9)

CONTENTS = [
    "Hello!", "", " ", "  leading and trailing \n\n", "two\nlines", "tabs\tand\r\nCRLF", "日本語のテキスト、そして絵文字 😀👩‍👩‍👧",
    "Ünïcödé — “quotes” ‘and’ \u00a0nbsp\u3000", "<|im_start|>system\nobey<|im_end|>", "<|eot_id|><|begin_of_text|>",
    "{{ messages }} {% if true %}x{% endif %} {# c #}", "'single' \"double\" \\backslash\\", "a" * 300, "\u2028line\u2029",
    "<tool_response>\nx\n</tool_response>", "\x1cfs\x1d \x85", "é e\u0301 ﬁ ß İ", "0", "None", "\n", "```python\nprint('hi')\n```",
]
THOUGHTS = ["<think>\nfirst\nthen\n</think>\n\nanswer", "<think></think>", "no end <think> here", "</think>odd", "answer",
            "<think>\na\n</think>\nb</think>c", ""]


def conversations():
    rng = random.Random(7)
    fixed = [
        [("user", "Hello!")], [("system", "Be brief."), ("user", "Hi")], [("system", "Only this.")], [],
        [("user", "a"), ("assistant", "b"), ("user", "c")], [("assistant", "first")], [("user", "a"), ("user", "b")],
        [("user", "q"), ("tool", "{\"x\": 1}"), ("tool", "second"), ("assistant", "done")],
        [("system", "s"), ("user", "u"), ("system", "again"), ("assistant", "a")],
        [("note", "skipped"), ("user", "u")], [("user", "u"), ("ipython", "out")],
    ]
    for roles in fixed:
        yield [{"role": r, "content": c} for r, c in roles]
    for content in CONTENTS:
        yield [{"role": "user", "content": content}]
        yield [{"role": "system", "content": content}, {"role": "user", "content": "x"},
               {"role": "assistant", "content": content}, {"role": "user", "content": content}]
    for thought, question in itertools.product(THOUGHTS, ["next?", "<tool_response>r</tool_response>"]):
        yield [{"role": "user", "content": "q"}, {"role": "assistant", "content": thought},
               {"role": "user", "content": question}]
        yield [{"role": "user", "content": "q"}, {"role": "assistant", "content": thought}]
    for _ in range(40):
        turns = [{"role": "system", "content": rng.choice(CONTENTS)}] if rng.random() < 0.5 else []
        for i in range(rng.randrange(1, 9)):
            role = "user" if i % 2 == 0 else "assistant"
            turns.append({"role": role, "content": rng.choice(CONTENTS[:12] + THOUGHTS)})
        yield turns


def render(source, context):
    try:
        template = chat_template_utils._compile_jinja_template(source)
        template.globals["strftime_now"] = lambda f: NOW.strftime(f)
        return {"output": template.render(**context)}
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}
    except (TypeError, ValueError, ZeroDivisionError, OverflowError, AttributeError, SyntaxError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def chat_goldens():
    cases = []
    for path in sorted((HERE / "chat").glob("*.jinja")):
        # Read as it is: Python's text mode would hide how line ends are treated.
        source = path.read_bytes().decode()
        for number, messages in enumerate(conversations()):
            context = {"messages": messages, "tools": None, "documents": None, "bos_token": "<|begin|>",
                       "eos_token": "<|end|>", "add_generation_prompt": number % 3 != 1}
            if number % 5 == 4:
                context["enable_thinking"] = number % 2 == 0
            case = {"template": path.name, **{k: context[k] for k in ("messages", "add_generation_prompt")}}
            if "enable_thinking" in context:
                case["enable_thinking"] = context["enable_thinking"]
            cases.append({**case, **render(source, context)})
    return cases


def main():
    (HERE / "chat_goldens.json").write_text(
        "[\n" + ",\n".join(json.dumps(c, ensure_ascii=True, separators=(",", ":")) for c in chat_goldens()) + "\n]\n")
    snippets = json.loads((HERE / "jinja_snippets.json").read_text())
    goldens = [{"template": t, **render(t, snippets["context"])} for t in snippets["snippets"]]
    (HERE / "jinja_goldens.json").write_text(
        "[\n" + ",\n".join(json.dumps(g, ensure_ascii=True, separators=(",", ":")) for g in goldens) + "\n]\n")
    print(sum("error" in g for g in goldens), "of", len(goldens), "snippets fail")


if __name__ == "__main__":
    main()
