#!/usr/bin/env python3
"""Checks the demo: each fact stands once and early in the document, and the model finds it with full attention.

    deploy/demo/check.py MODEL.gguf               all of it, about two minutes on one core
    deploy/demo/check.py MODEL.gguf --text        only the document and the questions
    deploy/demo/check.py MODEL.gguf --role user   the document as a user message instead of the system message

Needs llama-cpp-python, so that the answers come from another engine than the one being shown.
"""

import argparse
import json
import pathlib
import sys

import llama_cpp

HERE = pathlib.Path(__file__).resolve().parent
CONTEXT = 8192
MAX_BYTES = 40_000
TOKENS = range(4500, 6001)
TAIL_TOKENS = 400  # A fact this close to the end could be in the recent window, which is always read.
MAX_ANSWER_TOKENS = 48
# What the model's template puts first when a conversation does not begin with a system message.
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def tokens(model, text):
    return model.tokenize(text.encode(), add_bos=False, special=True)


def text_faults(model, document, questions):
    """Yields what is wrong with the document or with a question's place in it."""
    total = len(tokens(model, document))
    if total not in TOKENS or len(document.encode()) >= MAX_BYTES:
        yield f"the document has {total} tokens and {len(document.encode())} bytes"
    for item in questions:
        passage = item["passage"]
        sentence = document[document.find(passage) :].split("\n")[0]
        if document.count(passage) != 1:
            yield f"not in the document exactly once: {passage}"
        for answer in item["answer_contains"]:
            if document.lower().count(answer.lower()) != 1 or answer not in sentence:
                yield f"not in the document exactly once, after its passage: {answer}"
        at = len(tokens(model, document[: document.find(passage)]))
        if at > total * 2 / 3 or at > total - TAIL_TOKENS:
            yield f"token {at} of {total} is too late: {passage}"
        print(f"token {at:4} of {total}: {passage}")


def turn(role, content):
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def ask(model, role, document, question):
    """The greedy answer to a user message that follows the document, which is a message of `role`."""
    prompt = "" if role == "system" else turn("system", DEFAULT_SYSTEM)
    prompt += turn(role, document) + turn("user", question)
    answer = []
    for token in model.generate(tokens(model, prompt + "<|im_start|>assistant\n"), temp=0.0, top_k=1):
        if token == model.token_eos() or len(answer) == MAX_ANSWER_TOKENS:
            break
        answer.append(token)
    return model.detokenize(answer).decode(errors="replace").strip()


def answer_faults(model, role, document, questions):
    """Yields the questions the model answers wrongly; the document's cache is reused between them."""
    for item in questions:
        answer = ask(model, role, document, item["question"])
        print(f"{item['question']}\n  -> {answer}")
        if not all(part.lower() in answer.lower() for part in item["answer_contains"]):
            yield f"wrong answer: {item['question']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", action="store_true")
    parser.add_argument("--role", choices=["system", "user"], default="system")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    model = llama_cpp.Llama(
        options.model, n_ctx=CONTEXT, n_threads=options.threads, n_threads_batch=options.threads,
        vocab_only=options.text, verbose=False)
    document = (HERE / "document.txt").read_text(encoding="utf-8")
    questions = json.loads((HERE / "questions.json").read_text(encoding="utf-8"))
    faults = list(text_faults(model, document, questions))
    if not options.text:
        faults += answer_faults(model, options.role, document, questions)
    for fault in faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
