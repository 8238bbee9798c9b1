#!/usr/bin/env python3
"""Records what llama.cpp (PyPI llama-cpp-python) makes of a GGUF model: greedy continuations and the top token after each position.

    python3 tests/data/make_llamacpp_goldens.py MODEL.gguf OUT.json

Prompts are stored as token ids, so that a test against these goldens does not involve the tokenizer. For each prompt:
    tokens        the prompt
    continuation  the next 48 tokens, greedy (end-of-sequence tokens do not stop it)
    margin        the gap between the best and the second logit at each continuation step: how near a tie was
    prompt_top1   the top token after each position of the prompt but the last
"""
import json
import pathlib
import sys

import llama_cpp
import numpy as np

CONTINUATION = 48
ROOT = pathlib.Path(__file__).resolve().parents[2]


def chat(text):
    return f"<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def prompts():
    prose = (ROOT / "LICENSE").read_text()
    code = (ROOT / "runtime/formats/gguf_parser.cc").read_text()
    script = pathlib.Path(__file__).read_text()
    return [
        chat("What is the capital of France?"),
        chat("Explain in two sentences why the sky is blue."),
        chat("Write a Python function that returns the n-th Fibonacci number."),
        "Once upon a time, in a small village by the sea, there lived a",
        "def quicksort(items):\n    \"\"\"Sorts a list.\"\"\"\n    if len(items) <= 1:\n",
        "The three laws of thermodynamics are as follows.\n\n1. ",
        "#include <vector>\n#include <string>\n\nint main(int argc, char** argv) {\n",
        "Q: If a train travels 60 miles in 1.5 hours, how fast does it go?\nA:",
        "{\"name\": \"Ada Lovelace\", \"born\": 1815, \"occupation\": \"",
        "La photosynthèse est le processus par lequel les plantes",
        chat("Summarise this licence in one paragraph:\n\n" + prose[:5000]),
        code[:3600],
        prose[2000:9000],
        script[:4000] + "\n\n# What follows is a summary of the script above:\n#",
    ]


def main():
    model_path, out_path = sys.argv[1:]
    model = llama_cpp.Llama(model_path, n_ctx=4096, n_batch=512, n_threads=2, logits_all=True, verbose=False, seed=0)
    cases = []
    for text in prompts():
        tokens = model.tokenize(text.encode(), add_bos=False, special=True)
        model.reset()
        model.eval(tokens)
        n = len(tokens)
        prompt_top1 = np.argmax(model.scores[: n - 1], axis=-1).tolist()
        continuation, margin = [], []
        for step in range(CONTINUATION):
            logits = model.scores[n + step - 1]
            best = int(np.argmax(logits))
            second, first = np.partition(logits, -2)[-2:]
            continuation.append(best)
            margin.append(round(float(first - second), 4))
            model.eval([best])
        cases.append({"tokens": tokens, "continuation": continuation, "margin": margin, "prompt_top1": prompt_top1})
        print(f"{n} tokens -> {model.detokenize(continuation).decode(errors='replace')!r}", flush=True)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    pathlib.Path(out_path).write_text(f'{{"model":"{pathlib.Path(model_path).name}","cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
