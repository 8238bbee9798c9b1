#!/usr/bin/env python3
"""Writes tests/data/models: tiny random checkpoints in both file formats, and the logits `transformers` gives for them.

    python3 tests/data/make_model_goldens.py        (needs torch, transformers, tokenizers, safetensors, gguf)

Every weight is exact in bf16 and in f16, so that one set of logits holds for every element type a family is stored in.
Each family's golden.safetensors holds
    tokens        [T]         the prompt (as F32)
    logits        [T, vocab]  fp32 throughout
    logits_bf16kv [T, vocab]  the same with keys and values rounded to bf16 as they enter the cache, which is how spotd keeps
                              them: what is left against it is rounding of fp32 arithmetic alone
    inv_freq      [head_dim / 2] the rotary frequencies, and the [1] magnitude of their cosines
"""
import json
import pathlib
import shutil

import gguf
import numpy as np
import safetensors.torch
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (DynamicCache, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM)

OUT = pathlib.Path(__file__).resolve().parent / "models"
VOCAB = 300
PROMPT_TOKENS = 40
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
GEOMETRY = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=2, pad_token_id=0,
                attn_implementation="eager")

# name: (model class, configuration, element type of the directory's tensors, shards, GGUF type or None)
FAMILIES = {
    "llama3": (LlamaForCausalLM, LlamaConfig(
        **GEOMETRY, tie_word_embeddings=False,
        rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=32)), torch.float32, 2, "F32"),
    "llama_linear": (LlamaForCausalLM, LlamaConfig(
        **GEOMETRY, tie_word_embeddings=False,
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0)), torch.bfloat16, 1, "Q8_0"),
    "llama_yarn": (LlamaForCausalLM, LlamaConfig(
        **GEOMETRY, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)),
        torch.bfloat16, 1, "F16"),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(
        **GEOMETRY, tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
        torch.bfloat16, 1, "F16"),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(
        **GEOMETRY, head_dim=32, tie_word_embeddings=False,
        rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), torch.float16, 1, "BF16"),
}


def save_file(tensors, path, metadata=None):
    path.write_bytes(safetensors.torch.save(tensors, metadata))


class Bf16Cache(DynamicCache):
    def update(self, key_states, value_states, *args, **kwargs):
        rounded = [x.to(torch.bfloat16).to(torch.float32) for x in (key_states, value_states)]
        return super().update(*rounded, *args, **kwargs)


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            values = torch.randn(p.shape, generator=generator)
            if name.endswith("norm.weight"):
                values = 1.0 + 0.2 * values
            elif name.endswith("bias"):
                values = 0.3 * values
            elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
                values = 0.5 * values
            else:
                values = 0.06 * values
            p.copy_(values.to(torch.bfloat16).to(torch.float16).to(torch.float32))


def write_golden(model, tokens, path):
    model.eval()
    ids = torch.tensor([tokens])
    with torch.no_grad():
        exact = model(ids, use_cache=False).logits[0]
        rounded = model(ids, past_key_values=Bf16Cache(config=model.config), use_cache=True).logits[0]
    rope = model.model.rotary_emb
    save_file({"tokens": torch.tensor(tokens, dtype=torch.float32), "logits": exact.float().contiguous(),
               "logits_bf16kv": rounded.float().contiguous(), "inv_freq": rope.inv_freq.float().contiguous(),
               "magnitude": torch.tensor([float(rope.attention_scaling)])}, path)
    difference = torch.linalg.norm(exact - rounded) / torch.linalg.norm(exact)
    print(f"{path}: bf16 KV changes the logits by {difference:.2e}")


def train_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([__doc__] * 4, trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


def save_directory(model, tokenizer, directory, dtype, shards):
    directory.mkdir(parents=True)
    model.config.dtype = dtype
    config = model.config.to_dict()
    config["architectures"] = [type(model).__name__]
    (directory / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}, indent=1,
                                                      default=str) + "\n")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}) + "\n")
    (directory / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0], "add_bos_token": False,
         "chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=1) + "\n")
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    tensors = {n: p.detach().to(dtype).contiguous() for n, p in model.named_parameters()}
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map = {}
    for i in range(shards):
        part = {n: tensors[n] for n in names[i::shards]}
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map.update({n: file for n in part})
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1))


def interleave(weights, heads):
    """The row order in which llama.cpp stores Q and K of the `llama` architecture."""
    half = weights.shape[0] // heads // 2
    return weights.reshape(heads, 2, half, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


GGUF_NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
              "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
              "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
              "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    base, kind = name.rsplit(".", 1)
    if base in ("model.embed_tokens", "model.norm", "lm_head"):
        return {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[base] + "." + kind
    _, _, layer, rest = base.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[rest]}.{kind}"


def add_metadata(writer, config, arch, head_dim):
    rope = config.rope_parameters
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    if arch == "qwen3":
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def add_tokenizer(writer, tokenizer):
    saved = json.loads(tokenizer.to_str())
    tokens = [tokenizer.id_to_token(i) for i in range(VOCAB)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in SPECIAL else 1 for t in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in saved["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def llama3_factors(config, head_dim):
    """What llama.cpp's converter writes for Llama 3.1's scaling: the divisor of each frequency."""
    rope = config.rope_parameters
    inv_freq = 1.0 / rope["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = rope["original_max_position_embeddings"] * inv_freq / (2 * np.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1.0 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def save_gguf(model, tokenizer, path, kind):
    """Returns {parameter: values} of the tensors that quantisation changed."""
    config = model.config
    arch = config.model_type
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    quant = getattr(gguf.GGMLQuantizationType, kind)
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_name(path.stem)
    add_metadata(writer, config, arch, head_dim)
    add_tokenizer(writer, tokenizer)
    changed = {}
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config, head_dim))
    for name, p in model.named_parameters():
        values = p.detach().float().numpy()
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            values = interleave(values, config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads)
        values = np.ascontiguousarray(values)
        if values.ndim == 1 or kind == "F32":
            writer.add_tensor(gguf_name(name), values)
            continue
        packed = gguf.quants.quantize(values, quant)
        writer.add_tensor(gguf_name(name), packed, raw_dtype=quant)
        if kind == "Q8_0":
            # The order of rows does not matter to blocks within a row: quantise the original order again.
            original = p.detach().float().numpy()
            changed[name] = torch.tensor(gguf.quants.dequantize(gguf.quants.quantize(original, quant), quant))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return changed


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    tokenizer = train_tokenizer()
    for seed, (name, (cls, config, dtype, shards, kind)) in enumerate(FAMILIES.items()):
        torch.manual_seed(seed)
        model = cls(config).to(torch.float32)
        randomize(model, seed + 1)
        tokens = np.random.default_rng(seed).integers(3, VOCAB, PROMPT_TOKENS).tolist()
        save_directory(model, tokenizer, OUT / name, dtype, shards)
        write_golden(model, tokens, OUT / name / "golden.safetensors")
        changed = save_gguf(model, tokenizer, OUT / f"{name}.{kind}.gguf", kind)
        if changed:
            with torch.no_grad():
                for parameter, values in changed.items():
                    model.get_parameter(parameter).copy_(values)
            write_golden(model, tokens, OUT / f"{name}.{kind}.golden.safetensors")


if __name__ == "__main__":
    main()
