#!/usr/bin/env python3
"""Records what llama.cpp (PyPI llama-cpp-python) makes of a GGUF model: greedy continuations and the top token after each position.

    python3 tests/data/make_llamacpp_goldens.py MODEL.gguf OUT.json

Prompts are stored as token ids, so that a test against these goldens does not involve the tokenizer. For each prompt:
    tokens        the prompt
    continuation  the next 48 tokens, greedy (end-of-sequence tokens do not stop it)
    top1          llama.cpp's top token after each position of prompt and continuation but the last
    margin        how far its logit is above the second, for each of these: how near a tie was
    exact_top1    the same from llama.cpp with every weight unpacked to F32 and F32 keys and values: its answer without the
    exact_margin  rounding of activations to 8 bits that it does for quantised weights
"""
import json
import pathlib
import sys
import tempfile

import gguf
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
        chat("Summarise this licence in one paragraph:\n\n" + prose[:4500]),
        code[:3000],
        prose[2000:7000],
        script[:3500] + "\n\n# What follows is a summary of the script above:\n#",
    ]


def load(path, **options):
    # One thread: on a busy machine llama.cpp's spinning workers only wait for each other.
    return llama_cpp.Llama(str(path), n_ctx=2048, n_batch=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False,
                           **options)


def continue_greedily(model, tokens):
    model.reset()
    model.eval(tokens)
    continuation = []
    for _ in range(CONTINUATION):
        continuation.append(int(np.argmax(model.scores[len(tokens) + len(continuation) - 1])))
        model.eval(continuation[-1:])
    return continuation


def top_and_margin(model, count):
    """Of the first `count` positions that the model has evaluated."""
    top, margin = [], []
    for logits in model.scores[:count]:
        second, first = np.partition(logits, -2)[-2:]
        top.append(int(np.argmax(logits)))
        margin.append(round(float(first - second), 3))
    return top, margin


def unpack(source, target):
    """A copy of the model with every tensor in F32."""
    reader = gguf.GGUFReader(source)
    arch = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(str(target), arch)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    model_path, out_path = sys.argv[1:]
    cases = []
    model = load(model_path)
    for text in prompts():
        tokens = model.tokenize(text.encode(), add_bos=False, special=True)
        continuation = continue_greedily(model, tokens)
        top, margin = top_and_margin(model, len(tokens) + CONTINUATION - 1)
        cases.append({"tokens": tokens, "continuation": continuation, "top1": top, "margin": margin})
        print(f"{len(tokens)} tokens -> {model.detokenize(continuation).decode(errors='replace')!r}", flush=True)
    model.close()

    with tempfile.TemporaryDirectory() as directory:
        unpacked = pathlib.Path(directory) / "f32.gguf"
        unpack(model_path, unpacked)
        model = load(unpacked, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
        for case in cases:
            model.reset()
            model.eval(case["tokens"] + case["continuation"][:-1])
            case["exact_top1"], case["exact_margin"] = top_and_margin(model, len(case["top1"]))
            same = np.mean(np.array(case["top1"]) == np.array(case["exact_top1"]))
            print(f"{len(case['tokens'])} tokens: top-1 of the unpacked model is the same at {same:.4f}", flush=True)
        model.close()
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    pathlib.Path(out_path).write_text(f'{{"model":"{pathlib.Path(model_path).name}","cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
