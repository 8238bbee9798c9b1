#!/usr/bin/env python3
"""Trains the small tokenizers in tokenizers/: the families' own steps around a vocabulary of some thousand tokens.

  python3 tests/data/text/train_tokenizers.py TEXT_FILE...

The training text decides only which merges there are. The files in the repository were trained on seed.txt and the
sources of Python 3.11's standard library. `alphabet` of smollm_small leaves bytes out, as SmolLM2's vocabulary does.
"""
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

HERE = pathlib.Path(__file__).resolve().parent
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
FULL = pre_tokenizers.ByteLevel.alphabet()


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def special(*texts):
    return [AddedToken(t, normalized=False, special=True) for t in texts]


def save(name, tokenizer, alphabet, size):
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train(sys.argv[1:], trainer)
    return HERE / "tokenizers" / f"{name}.json"


def llama3():
    tokenizer = Tokenizer(BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = split(LLAMA3)
    path = save("llama3_small", tokenizer, FULL, 4000)
    tokenizer.add_special_tokens(special("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                                         "<|end_header_id|>", "<|eot_id|>"))
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)])])
    tokenizer.save(str(path), pretty=False)


def qwen():
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split(QWEN)
    path = save("qwen_small", tokenizer, FULL, 4000)
    tokenizer.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False),
                          AddedToken("[LEFT]", normalized=False, lstrip=True), AddedToken("\u00e9clair", normalized=True),
                          AddedToken("[RIGHT]", normalized=True, rstrip=True), AddedToken("<|", normalized=False)])
    tokenizer.save(str(path), pretty=False)


def smollm():
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False)])
    missing = "ĀāĂăĄąĆćĈċ"  # bytes 0 .. 8 and 0x0B
    path = save("smollm_small", tokenizer, [c for c in FULL if c not in missing], 4000)
    tokenizer.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"))
    tokenizer.save(str(path), pretty=False)


if __name__ == "__main__":
    (HERE / "tokenizers").mkdir(exist_ok=True)
    llama3()
    qwen()
    smollm()
