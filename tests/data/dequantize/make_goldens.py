#!/usr/bin/env python3
"""Writes <TYPE>.bin for tests/kernels/dequantize_test.cc: blocks of random bits and what `gguf` decodes them to.

Layout, little-endian: uint32 n, the encoded bytes of n weights, n float32.
Needs the `gguf` Python package. Usage: make_goldens.py [output directory]
"""
import pathlib
import sys

import gguf
import numpy as np

WEIGHTS = 1024
# Byte offsets of the fp16 fields in a block. Their exponents are kept below that of infinity and NaN.
HALF_FIELDS = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "F16": [0], "BF16": [],
}


def main() -> None:
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    random = np.random.default_rng(20240611)
    for name, halves in HALF_FIELDS.items():
        kind = gguf.GGMLQuantizationType[name]
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (WEIGHTS // block_elements, block_bytes), dtype=np.uint8)
        for offset in halves:
            high = blocks[:, offset + 1]
            infinite = (high & 0x7C) == 0x7C
            blocks[:, offset + 1] = np.where(infinite, high & 0xBF, high)
        if name == "BF16":  # no infinity, no NaN
            blocks[:, 1] &= 0xBF
        values = gguf.dequantize(blocks.reshape(-1), kind).astype("<f4").reshape(-1)
        assert values.size == WEIGHTS and np.isfinite(values).all()
        (out / f"{name}.bin").write_bytes(np.uint32(WEIGHTS).tobytes() + blocks.tobytes() + values.tobytes())


if __name__ == "__main__":
    main()
