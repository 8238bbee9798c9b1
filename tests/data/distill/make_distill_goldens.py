#!/usr/bin/env python3
"""Records the distillation loss and every gradient as PyTorch's autograd computes them (double precision).

    python3 tests/data/distill/make_distill_goldens.py    # needs torch; rewrites distill_goldens.json beside it

tests/kernels/distill_golden_test.cc compares the kernels with the file.
"""
import json
import math
import pathlib

import torch

HIDDEN, ROWS, HEADS, DIM, Q_HEADS, KV_HEADS, HEAD_DIM = 10, 36, 3, 8, 4, 2, 8
GROUPS = [1, KV_HEADS]  # one problem each
QUERIES = [7, 18, 27, 35]
SINKS, RECENCY = 4, 8
FULL_WEIGHT, RESIDUAL_WEIGHT = 0.6, 1.5
EPS, TEACHER_SCALE = 1e-5, 0.4
INV_FREQ = [1.0, 0.4, 0.1, 0.02]


def rope(x, positions):
    """Rotate-half on the last dimension of [rows, ..., DIM]."""
    angle = positions[:, None].double() * torch.tensor(INV_FREQ, dtype=torch.float64)
    shape = [len(positions)] + [1] * (x.dim() - 2) + [DIM // 2]
    cos, sin = angle.cos().view(shape), angle.sin().view(shape)
    a, b = x[..., : DIM // 2], x[..., DIM // 2:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def kl(teacher, student):
    teacher, student = teacher / teacher.sum(), student / student.sum()
    return (teacher * (teacher.log() - student.log())).sum()


def problem(groups):
    """One layer whose heads choose in `groups` groups, with the loss and its gradients."""
    torch.manual_seed(11)
    rand = lambda *shape: torch.randn(*shape, dtype=torch.float32).double()  # exactly representable in fp32
    x, q = rand(ROWS, HIDDEN), rand(ROWS, Q_HEADS, HEAD_DIM)
    keys = torch.randn(ROWS, KV_HEADS, HEAD_DIM).bfloat16().double()
    positions = torch.arange(ROWS)
    positions[20:] += 300
    weights = {"q": rand(HEADS * DIM, HIDDEN) * 0.4, "k": rand(DIM, HIDDEN) * 0.4,
               "w": rand(groups * HEADS, HIDDEN) * 0.5, "k_norm": rand(DIM) * 0.2 + 1}
    weights = {name: w.float().double().requires_grad_() for name, w in weights.items()}

    k_s = x @ weights["k"].T
    k_s = k_s / (k_s.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weights["k_norm"]
    k_s = rope(k_s, positions)
    loss = torch.zeros((), dtype=torch.float64)
    for row in QUERIES:
        logits = torch.stack([keys[: row + 1, h // (Q_HEADS // KV_HEADS)] @ q[row, h] for h in range(Q_HEADS)])
        teachers = (logits * TEACHER_SCALE).softmax(-1).view(groups, Q_HEADS // groups, row + 1).mean(1)
        q_s = rope((weights["q"] @ x[row]).view(1, HEADS, DIM), positions[row: row + 1])[0]
        dots = torch.relu(q_s @ k_s[: row + 1].T)
        students = ((weights["w"] @ x[row]).view(groups, HEADS) @ dots / math.sqrt(DIM)).softmax(-1)
        for teacher, student in zip(teachers, students):
            loss = loss + FULL_WEIGHT * kl(teacher, student) / groups
            begin, end = min(SINKS, row + 1), row + 1 - RECENCY
            if end > begin:
                loss = loss + RESIDUAL_WEIGHT * kl(teacher[begin:end], student[begin:end]) / groups
    loss.backward()

    flat = lambda t: [float(v) for v in t.detach().flatten()]
    return {
        "hidden": HIDDEN, "rows": ROWS, "heads": HEADS, "groups": groups, "dim": DIM, "q_heads": Q_HEADS,
        "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "queries": QUERIES, "sinks": SINKS, "recency": RECENCY,
        "full_weight": FULL_WEIGHT, "residual_weight": RESIDUAL_WEIGHT, "eps": EPS, "teacher_scale": TEACHER_SCALE,
        "inv_freq": INV_FREQ, "positions": positions.tolist(), "x": flat(x), "q": flat(q), "keys": flat(keys),
        "loss": float(loss), "weights": {name: flat(w) for name, w in weights.items()},
        "gradients": {name: flat(w.grad) for name, w in weights.items()},
    }


def main():
    goldens = [problem(groups) for groups in GROUPS]
    path = pathlib.Path(__file__).with_name("distill_goldens.json")
    path.write_text(json.dumps(goldens) + "\n")
    print(f"losses {[golden['loss'] for golden in goldens]} -> {path}")


if __name__ == "__main__":
    main()
