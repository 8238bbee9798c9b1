#!/usr/bin/env python3
"""Writes tokenizer_goldens.json: what the `tokenizers` library makes of the corpus of tests/runtime/text/corpus.cc.

  ninja -C BUILD dump_corpus && BUILD/bin/dump_corpus tests/data/text/seed.txt /tmp/corpus.bin
  python3 tests/data/text/make_tokenizer_goldens.py /tmp/corpus.bin [NAME=FILE.gguf ...]

For each tokenizer: FNV-64 of the ids of every mixed record and of every block of random strings, the text that random
ids decode to, and a few texts with their ids. The small tokenizers are the files in tokenizers/ (train_tokenizers.py
makes them); NAME=FILE.gguf adds one built from a GGUF file's vocabulary as transformers' converters do. Odd records
and blocks are encoded with control tokens recognised, even ones without. Decoded text is hashed per 100 sequences.
"""
import array
import json
import pathlib
import struct
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

HERE = pathlib.Path(__file__).resolve().parent
MIXED, BLOCKS, PER_BLOCK = 84, 100, 1000
DECODE_BLOCKS, PER_DECODE_BLOCK, IDS = 10, 100, 40
MASK = (1 << 64) - 1
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
SAMPLES = ["Hello, world!", "I'm here; they'Ll come at 12:45 on 2024-07-26.", "  two  spaces\n\n\tand a tab ",
           "naïve café — Ünïcödé", "e\u0301 is é", "日本語 한국어 中文 العربية עברית हिन्दी", "😀👩‍👩‍👧 🏳️‍🌈", "<|im_start|>user\nhi<|im_end|>",
           "a <tool_call> b [LEFT] c [RIGHT]  d", "\x00\x01\x7f\x80\u2028", "", " ", "\r\n\r\n", "1234567 12 ١٢٣ ⅷ"]


def fnv64(data, value=0xCBF29CE484222325):
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


class SeededRandom:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        return z ^ z >> 31


def read_corpus(path):
    data, at, texts = pathlib.Path(path).read_bytes(), 0, []
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        texts.append(data[at + 4:at + 4 + size].decode())
        at += 4 + size
    assert len(texts) == MIXED + BLOCKS * PER_BLOCK
    return texts


def from_gguf(path):
    from gguf import GGUFReader
    fields = GGUFReader(path).fields
    tokens, types = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    kind = fields["tokenizer.ggml.pre"].contents()
    keep = (1, 3, 4) if kind == "smollm" else (1,)
    tokenizer = Tokenizer(BPE(vocab={t: i for i, (t, y) in enumerate(zip(tokens, types)) if y in keep}, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "smollm")
    if kind == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    else:
        assert kind == "qwen2"
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN), behavior="isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types):
        if kind == 3:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == 4:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    return tokenizer


def encode(tokenizer, texts, parse_special):
    tokenizer.encode_special_tokens = not parse_special
    return [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def hash_ids(all_ids):
    value = 0xCBF29CE484222325
    for ids in all_ids:
        value = fnv64(struct.pack("<I", len(ids)) + array.array("i", ids).tobytes(), value)
    return f"{value:016x}"


def vocabulary_size(tokenizer):
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def decode_hashes(tokenizer):
    """Ids 0 .. vocabulary at random, unknown ones left out; with and without control tokens by turns."""
    size, hashes = vocabulary_size(tokenizer), []
    for block in range(DECODE_BLOCKS):
        random, value = SeededRandom(0xDEC0DE + block), 0xCBF29CE484222325
        for sequence in range(PER_DECODE_BLOCK):
            ids = [random.next() % size for _ in range(IDS)]
            text = tokenizer.decode(ids, skip_special_tokens=sequence % 2 == 0)
            value = fnv64(text.encode() + b"\0", value)
        hashes.append(f"{value:016x}")
    return hashes


def goldens(tokenizer, texts):
    mixed, strings = texts[:MIXED], texts[MIXED:]
    blocks = [strings[i * PER_BLOCK:(i + 1) * PER_BLOCK] for i in range(BLOCKS)]
    return {
        "mixed": [hash_ids(encode(tokenizer, [t], i % 2 == 1)) for i, t in enumerate(mixed)],
        "random": [hash_ids(encode(tokenizer, b, i % 2 == 1)) for i, b in enumerate(blocks)],
        "vocabulary": vocabulary_size(tokenizer),
        "decoded": decode_hashes(tokenizer),
        "samples": [{"text": t, "plain": encode(tokenizer, [t], False)[0], "special": encode(tokenizer, [t], True)[0]}
                    for t in SAMPLES],
    }


def main():
    texts = read_corpus(sys.argv[1])
    path = HERE / "tokenizer_goldens.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    for file in sorted((HERE / "tokenizers").glob("*.json")):
        result[file.stem] = goldens(Tokenizer.from_file(str(file)), texts)
    for argument in sys.argv[2:]:
        name, gguf = argument.split("=", 1)
        result[name] = goldens(from_gguf(gguf), texts)
    lines = [f"{json.dumps(k)}: {{\n" + ",\n".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in g.items()) + "\n}"
             for k, g in sorted(result.items())]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
