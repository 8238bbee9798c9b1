#!/usr/bin/env python3
"""Writes the seeds of every fuzz target: make_seeds.py FOLDER makes FOLDER/<target>/*.

They are small and valid, so that a mutation reaches past the first check.
"""
import hashlib
import json
import pathlib
import struct
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[2]
DATA = SOURCE / "tests/data"
SELECTOR_HASH = "40136b1ed4f1dd512e77f22c8f8e30b3"  # ModelConfig::Fingerprint of the model of selector_fuzzer.cc


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_value(value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    element = 8 if isinstance(value[0], str) else 5
    items = b"".join(gguf_string(v) if element == 8 else struct.pack("<i", v) for v in value)
    return struct.pack("<IIQ", 9, element, len(value)) + items


def gguf(values: dict, tensors: dict, version: int = 3) -> bytes:
    """`tensors` gives the shape of each, innermost first; all are F32 zeros."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    for key, value in values.items():
        head += gguf_string(key) + gguf_value(value)
    offset = 0
    for name, shape in tensors.items():
        count = 1
        for dim in shape:
            count *= dim
        head += gguf_string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        head += struct.pack("<IQ", 0, offset)
        offset += (4 * count + 31) // 32 * 32
    return head + bytes(-len(head) % 32) + bytes(offset)


def byte_alphabet() -> list:
    """The characters that byte-level BPE writes bytes with."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters, extra = [], 0
    for byte in range(256):
        characters.append(chr(byte) if byte in shown else chr(256 + extra))
        extra += byte not in shown
    return characters


def few_characters() -> list:
    """As little of it as makes a vocabulary: a small seed is tried often."""
    return [character for character in byte_alphabet() if character in "abcef 123Ġ\u00a9\u0102<>|_"]


def tiny_gguf(alphabet: list) -> bytes:
    tokens = alphabet + ["ab", "<|im_start|>", "<|im_end|>"]
    hidden, ffn, vocab = 8, 16, len(tokens)
    values = {
        "general.architecture": "llama", "general.name": "fuzz", "llama.block_count": 1, "llama.context_length": 64,
        "llama.embedding_length": hidden, "llama.feed_forward_length": ffn, "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1, "llama.rope.freq_base": 10000.0, "llama.rope.dimension_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [1] * (vocab - 2) + [3, 3],
        "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.bos_token_id": vocab - 2,
        "tokenizer.ggml.eos_token_id": vocab - 1, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    tensors = {
        "token_embd.weight": [hidden, vocab], "output_norm.weight": [hidden], "blk.0.attn_norm.weight": [hidden],
        "blk.0.ffn_norm.weight": [hidden], "blk.0.attn_q.weight": [hidden, 8], "blk.0.attn_k.weight": [hidden, 4],
        "blk.0.attn_v.weight": [hidden, 4], "blk.0.attn_output.weight": [8, hidden],
        "blk.0.ffn_gate.weight": [hidden, ffn], "blk.0.ffn_up.weight": [hidden, ffn],
        "blk.0.ffn_down.weight": [ffn, hidden],
    }
    return gguf(values, tensors)


def safetensors(tensors: dict, metadata: dict = None) -> bytes:
    """`tensors` gives dtype and shape of each; all zeros."""
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "I64": 8}
    header, offset = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape) in tensors.items():
        count = sizes[dtype]
        for dim in shape:
            count *= dim
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + count]}
        offset += count
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(offset)


def tiny_selector(groups: int, int8: bool) -> bytes:
    """For the model of selector_fuzzer.cc, which has two KV heads."""
    tensors = {}
    for layer in range(2):
        for part, rows in (("q", 32), ("k", 32), ("w", groups)):
            name = f"layers.{layer}.selector.{part}.weight"
            tensors |= {name: ("I8" if int8 else "BF16", [rows, 32])} | ({name + ".scale": ("F32", [rows])} if int8 else {})
        tensors[f"layers.{layer}.selector.k_norm.weight"] = ("F32", [32])
    metadata = {"format_version": "2" if int8 else "1", "groups": str(groups), "base_model": "tiny", "config_hash": SELECTOR_HASH,
                "heads": "1", "dim": "32", "rope_theta": "10000", "block_size": "16", "training_tokens": "1000", "training_length": "64",
                "calibration": "1.0,0.9", "budget_p_residual": "0.5,1", "budget_p_total": "1,0.9",
                "budget_k_min_tokens": "0,512"}
    return safetensors(tensors, metadata)


def tiny_tokenizers() -> list:
    """Each test tokenizer with a vocabulary of a few characters and one merge, and one with all bytes."""
    seeds = []
    paths = sorted((DATA / "text/tokenizers").glob("*.json"))
    for path, alphabet in [(path, few_characters()) for path in paths] + [(paths[0], byte_alphabet())]:
        tokenizer = json.loads(path.read_text())
        vocab = {c: i for i, c in enumerate(alphabet)} | {"ab": len(alphabet)}
        tokenizer["model"].update(vocab=vocab, merges=["a b"])
        for index, token in enumerate(tokenizer["added_tokens"]):
            token["id"] = len(vocab) + index
        text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
        seeds.append(text.encode() + b"\0abc caf\xc3\xa9 <|im_end|> 123\n")
    return seeds


def chat_templates() -> list:
    seeds = [path.read_bytes() for path in sorted((DATA / "text/chat").glob("*.jinja"))]
    snippets = json.loads((DATA / "text/jinja_snippets.json").read_text())["snippets"]
    return seeds + [snippet.encode() for snippet in snippets]


def seeds() -> dict:
    config = json.loads((DATA / "models/llama3/config.json").read_text())
    yaml = "# all kinds\nmodel: m.gguf\nthreads: 2\nkv_memory: 2GiB\ndrain_timeout: 30s\nreflection: auto\npolicy: quest\n"
    return {
        "gguf": [tiny_gguf(few_characters()), tiny_gguf(byte_alphabet()), gguf({"general.architecture": "llama"}, {}),
                 gguf({"a": [1, 2], "b": True}, {"t": [2, 2]}, 2)],
        "safetensors": [safetensors({"a": ("F32", [2, 3]), "b": ("BF16", [4])}, {"k": "v"}), safetensors({})],
        "selector": [tiny_selector(1, False), tiny_selector(2, True)],
        "tokenizer_json": tiny_tokenizers(),
        "chat_template": chat_templates(),
        "hf_config": [(path / "config.json").read_bytes() for path in sorted((DATA / "models").iterdir())
                      if path.is_dir()] + [json.dumps(config | {"rope_scaling": None}).encode()],
        "config_yaml": [yaml.encode(), b"model: &a m\nselector: *a\n", b"{model: m, max_running: 3}", b""],
        "token_file": [f"# ours\n{hashlib.sha256(b't').hexdigest()} team-a\n".encode()],
    }


def main():
    folder = pathlib.Path(sys.argv[1])
    for target, inputs in seeds().items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for data in inputs:
            (folder / target / hashlib.sha1(data).hexdigest()).write_bytes(data)


if __name__ == "__main__":
    main()
