#!/usr/bin/env python3
"""Runs spot-bench and llama.cpp side by side: same model file, same threads, same machine, alternating.

    pip install llama-cpp-python
    tools/spot_bench/compare_llama_cpp.py --model M.gguf --spot-bench build/release/bin/spot-bench

Prints one Markdown table: tokens/s of both and the ratio. Each figure is the best of --repeats runs, so that a busy
moment of the machine hurts neither side.
"""
import argparse
import json
import os
import subprocess
import sys
import time


def spot_bench(args, command, context, *extra):
    line = [args.spot_bench, command, "--backend", "cpu", "--model", args.model, "--threads", str(args.threads), "--context", str(context),
            "--steps", str(args.steps), "--json", *extra]
    if args.text:
        line += ["--text", args.text]
    return json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)


class LlamaCpp:
    """llama.cpp through llama-cpp-python's low-level evaluation: no sampling chain, no text."""

    def __init__(self, args, context):
        from llama_cpp import Llama
        self.llm = Llama(args.model, n_ctx=context + args.steps + 8, n_threads=args.threads,
                         n_threads_batch=args.threads, n_batch=512, verbose=False)

    def tokens(self, args, count):
        text = open(args.text, "rb").read() if args.text else b"The quick brown fox jumps over the lazy dog. " * 64
        tokens = self.llm.tokenize(text, add_bos=False)
        return (tokens * (count // len(tokens) + 1))[:count]

    def run(self, tokens, steps):
        """Seconds of the prefill and of `steps` greedy decode steps after it."""
        self.llm.reset()
        start = time.perf_counter()
        self.llm.eval(tokens)
        prefill = time.perf_counter() - start
        token = self.llm.sample(temp=0.0)
        start = time.perf_counter()
        for _ in range(steps):
            self.llm.eval([token])
            token = self.llm.sample(temp=0.0)
        return prefill, time.perf_counter() - start


def compare(args, context, policies):
    """Best seconds per token of each contender at one context: {"name": (prefill, decode)}."""
    llama = LlamaCpp(args, context)
    tokens = llama.tokens(args, context)
    best = {}

    def keep(name, prefill, decode):
        old = best.get(name, (float("inf"), float("inf")))
        best[name] = (min(old[0], prefill), min(old[1], decode))

    for _ in range(args.repeats):
        prefill, decode = llama.run(tokens, args.steps)
        keep("llama.cpp", prefill / context, decode / args.steps)
        mine = spot_bench(args, "prefill", context)["seconds"] / context
        for name, extra in policies.items():
            result = spot_bench(args, "decode", context, *extra)
            keep(name, mine, result["seconds"] / args.steps)
            best.setdefault("density", {})[name] = result["density"]
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--spot-bench", default="build/release/bin/spot-bench")
    parser.add_argument("--text", default="", help="text that fills the context of both")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--contexts", default="512,8000")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fraction", type=float, default=0.10, help="density of the quest runs")
    args = parser.parse_args()

    print(f"| context | what | llama.cpp tok/s | spotd tok/s | ratio |\n|---|---|---|---|---|")
    for context in map(int, args.contexts.split(",")):
        policies = {"full": ["--policy", "full"], "quest": ["--policy", "quest", "--fraction", str(args.fraction)]}
        best = compare(args, context, policies)
        reference = best["llama.cpp"]
        mine = best["full"][0]
        print(f"| {context} | prefill | {1 / reference[0]:.1f} | {1 / mine:.1f} | {reference[0] / mine:.2f} |")
        for name in policies:
            label = f"decode, {name} (density {best['density'][name]:.3f})"
            print(f"| {context} | {label} | {1 / reference[1]:.1f} | {1 / best[name][1]:.1f} "
                  f"| {reference[1] / best[name][1]:.2f} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
