#!/usr/bin/env python3
"""Times PyTorch's FlashAttention and cuDNN attention on the shapes of spot-bench attention: the dense baseline on the same card.

    torch_baseline.py [--json]

Decode is one query row of 32 heads over 8 KV heads of dimension 128; prefill is causal over the whole prompt. Each figure is
the median over replays of a captured graph (decode) or of event-timed calls (prefill).
"""
import json
import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

Q_HEADS, KV_HEADS, DIM = 32, 8, 128
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def attention(q, k, v, causal):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def time_calls(call, repeats):
    seconds = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return statistics.median(seconds)


def time_decode(backend, length, batch):
    """Seconds per layer, over several layers' caches so that none stays in the L2 cache."""
    bytes_per_layer = batch * length * KV_HEADS * DIM * 4
    layers = max(3, min(36, int(8e9 / bytes_per_layer)))
    q = torch.randn(batch, Q_HEADS, 1, DIM, device="cuda", dtype=torch.bfloat16)
    caches = [
        torch.randn(2, batch, KV_HEADS, length, DIM, device="cuda", dtype=torch.bfloat16) for _ in range(layers)
    ]
    with sdpa_kernel(backend):
        for _ in range(3):
            attention(q, caches[0][0], caches[0][1], False)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for cache in caches:
                attention(q, cache[0], cache[1], False)
    for _ in range(3):
        graph.replay()
    return time_calls(graph.replay, 15) / layers


def time_prefill(backend, length):
    q = torch.randn(1, Q_HEADS, length, DIM, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(1, KV_HEADS, length, DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    with sdpa_kernel(backend):
        for _ in range(2):
            attention(q, k, v, True)
        return time_calls(lambda: attention(q, k, v, True), 7)


def report(as_json, name, seconds, **rates):
    if as_json:
        print(json.dumps({"name": name, "us": round(seconds * 1e6, 2), **rates}), flush=True)
    else:
        print(f"{name:46s} {seconds * 1e6:9.1f} us  " + "  ".join(f"{k} {v}" for k, v in rates.items()), flush=True)


def main():
    as_json = "--json" in sys.argv
    print(f"# PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {torch.cuda.get_device_name()}")
    for name, backend in BACKENDS.items():
        for length in (2048, 8192, 32768, 131072):
            for batch in (1, 4, 8):
                try:
                    seconds = time_decode(backend, length, batch)
                except RuntimeError as error:
                    print(f"# {name} decode L={length // 1024}K B={batch}: {str(error).splitlines()[0]}")
                    continue
                rate = batch * length * KV_HEADS * DIM * 4 / seconds / 1e9
                report(as_json, f"L={length // 1024}K B={batch} {name} dense", seconds, gb_per_s=round(rate))
                torch.cuda.empty_cache()
        for length in (2048, 16384, 65536):
            try:
                seconds = time_prefill(backend, length)
            except RuntimeError as error:
                print(f"# {name} prefill {length}: {str(error).splitlines()[0]}")
                continue
            rate = 2 * length * length * Q_HEADS * DIM / seconds / 1e12
            report(as_json, f"prefill {length // 1024}K {name}", seconds, tflop_per_s=round(rate))
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    seconds = time_calls(lambda: a @ b, 15)
    report(as_json, "GEMM 8192^3", seconds, tflop_per_s=round(2 * 8192**3 / seconds / 1e12))


if __name__ == "__main__":
    main()
