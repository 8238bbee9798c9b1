"""From the results of spot-eval to the pictures of docs/quality.md."""
import pathlib
import re

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from quality_tables import curve, longest, with_stand_ins  # noqa: E402

# The same bytes for the same figures.
matplotlib.rcParams.update({"svg.hashsalt": "spotd", "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})

STYLES = {"distilled": ("C0", "o"), "topk": ("C1", "s"), "quest": ("C2", "^"), "twilight": ("C3", "D"), "oracle": ("0.4", "x"),
          "oracle-kv": ("0.2", "+"), "window": ("0.6", "*")}


def save(figure, path: pathlib.Path) -> None:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    # Trailing blanks would only trouble those who read diffs; a thousandth of a point is seen by nobody.
    text = re.sub(r"(\d\.\d{2})\d+", r"\1", path.read_text())
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def context_with_a_curve(report):
    """The longest context at which the selector was judged at three densities or more."""
    contexts = sorted({r["context"] for r in report["rows"]}, reverse=True)
    return next((c for c in contexts if len(curve(report, "distilled", c)) > 2), longest(report))


def draw_curves(name, report, emulated, folder):
    """KL against density, and against bytes read, of every policy at one context."""
    context = context_with_a_curve(report)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, x in zip(axes, ("density", "bytes")):
        for policy, (color, marker) in STYLES.items():
            if x == "bytes" and policy.startswith("oracle"):
                continue  # they read every key to choose
            rows = curve(emulated if policy == "twilight" else report, policy, context) if emulated or policy != "twilight" else []
            rows = [r for r in rows if ":" not in r["policy"]]
            if rows:
                axis.plot([r[x] for r in rows], [r["kl"] for r in rows], color=color, marker=marker, label=policy, ms=4)
        axis.set_yscale("log")
        axis.set_xlabel("blocks read / visible" if x == "density" else "bytes read / dense (choosing included)")
    axes[0].set_ylabel("KL(dense || policy), nats a token")
    axes[0].legend()
    figure.suptitle(f"{name}, {context} tokens, int4 selector keys")
    save(figure, folder / f"quality-{name}-curves.svg")


def draw_keys(name, report, folder):
    context = longest(report)
    figure, axis = plt.subplots(figsize=(5.5, 3.6))
    for keys, style in (("bf16", "-"), ("int4", "--"), ("fp4", ":")):
        for policy in ("distilled", "topk"):
            rows = [r for r in curve(report, policy, context, keys) if r["keys"]]
            if rows:
                axis.errorbar([r["density"] for r in rows], [r["kl"] for r in rows], yerr=[r["kl_ci95"] for r in rows],
                              color=STYLES[policy][0], linestyle=style, marker=STYLES[policy][1], ms=3, capsize=2, lw=1,
                              label=f"{policy}, {keys}")
    axis.set_yscale("log")
    axis.set_xlabel("blocks read / visible")
    axis.set_ylabel("KL(dense || policy)")
    axis.legend(fontsize=8)
    figure.suptitle(f"{name}, {context} tokens: selector key formats")
    save(figure, folder / f"quality-{name}-keys.svg")


def draw_layers(name, report, folder):
    """Density and missed mass of the default policy, by layer and context length."""
    rows = sorted(curve_of_all(report, "distilled@0.8"), key=lambda r: r["context"])
    if not rows:
        return
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for row in rows:
        layers = range(len(row["layers"]["density"]))
        axes[0].plot(layers, row["layers"]["density"], marker=".", label=f"{row['context']} tokens")
        axes[1].plot(layers, 1 - np.array(row["layers"]["mass"]), marker=".", label=f"{row['context']} tokens")
    axes[0].set_ylabel("blocks read / visible")
    axes[1].set_ylabel("true mass missed")
    for axis in axes:
        axis.set_xlabel("layer")
        axis.set_ylim(bottom=0)
    axes[1].legend()
    figure.suptitle(f"{name}, distilled@0.8, int4 keys")
    save(figure, folder / f"quality-{name}-layers.svg")


def curve_of_all(report, policy):
    return [r for r in report["rows"] if r["policy"] == policy and r["keys"] in ("", "int4")]


def draw_mass(name, report, folder):
    """Recalled mass against density, and believed against true mass."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    for context in sorted({r["context"] for r in report["rows"]}):
        rows = curve(report, "topk", context)
        axes[0].plot([r["density"] for r in rows], [r["mass"] for r in rows], marker="s", ms=3, label=f"topk, {context} tokens")
        axes[0].plot([r["density"] for r in rows], [r["oracle_mass"] for r in rows], color="0.5", ls=":", lw=1)
        for row in curve_of_all(report, "distilled@0.8"):
            if row["context"] == context:
                bins = [b for b in row["reliability"]["bins"] if b["share"] > 0.002]
                axes[1].plot([b["believed"] for b in bins], [b["mass"] for b in bins], marker="o", ms=3, label=f"{context} tokens")
    axes[0].set_xlabel("blocks read / visible")
    axes[0].set_ylabel("true mass covered (dotted: the oracle's)")
    axes[0].legend(fontsize=8)
    low = min((b["believed"] for r in curve_of_all(report, "distilled@0.8") for b in r["reliability"]["bins"]), default=0.5)
    axes[1].plot([low, 1], [low, 1], color="0.5", lw=1)
    axes[1].set_xlabel("mass the selector believes it covers")
    axes[1].set_ylabel("true mass")
    axes[1].legend(fontsize=8)
    figure.suptitle(f"{name}: recalled attention mass, and how reliable its estimate is (distilled@0.8)")
    save(figure, folder / f"quality-{name}-mass.svg")


def all_found(rows: list) -> bool:
    """Whether every policy but the window answers everything: then a picture tells nothing."""
    return all(r["score"] == 1 for r in rows if r["policy"] != "window")


def draw_needles(name, report, folder):
    """Single needle: score by depth and length, dense beside the policies."""
    rows = [r for r in report["rows"] if r["task"] == "single" and "depth" in r]
    if all_found(rows):
        return
    contexts = sorted({r["context"] for r in rows})
    depths = sorted({r["depth"] for r in rows})
    policies = ["full"] + list(dict.fromkeys(r["policy"] for r in rows))
    figure, axes = plt.subplots(1, len(policies), figsize=(2.6 * len(policies), 3.2), sharey=True)
    for axis, policy in zip(axes, policies):
        grid = np.full((len(depths), len(contexts)), np.nan)
        for r in rows:
            if r["policy"] == (policies[1] if policy == "full" else policy):
                grid[depths.index(r["depth"]), contexts.index(r["context"])] = r["dense_score" if policy == "full" else "score"]
        axis.grid(False)
        axis.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        axis.set_title("dense" if policy == "full" else policy, fontsize=9)
        axis.set_xticks(range(len(contexts)), [str(c) for c in contexts], rotation=45)
        axis.set_yticks(range(len(depths)), [f"{d:g}" for d in depths])
        for (y, x), value in np.ndenumerate(grid):
            axis.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7)
    axes[0].set_ylabel("depth of the needle (0 = start)")
    figure.suptitle(f"{name}: single needle, share of right answers by depth and context length", y=1.02)
    save(figure, folder / f"quality-{name}-needle.svg")


def draw_recall(name, report, folder):
    """Single needle at the longest context: which layers read its line while the reply is decoded."""
    rows = [r for r in report["rows"] if r["task"] == "single" and "fact_recall_layers" in r and r["context"] == longest(report)]
    if all_found(rows):
        return
    figure, axis = plt.subplots(figsize=(8, 3.2))
    for r in rows:
        if r["policy"] != "window":
            axis.plot(r["fact_recall_layers"], marker=".", label=f"{r['policy']} (score {r['score']:.2f})",
                      ls=":" if r["policy"].startswith("oracle") else "-")
    axis.set_xlabel("layer")
    axis.set_ylabel("needle's blocks read")
    axis.legend(fontsize=8)
    figure.suptitle(f"{name}, {longest(report)} tokens: where the needle is read")
    save(figure, folder / f"quality-{name}-recall.svg")


def draw_all(results: dict, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, tasks in results.items():
        tasks = with_stand_ins(tasks)
        if "ppl" in tasks:
            draw_curves(name, tasks["ppl"], tasks.get("twilight"), folder)
        if "keys" in tasks:
            draw_keys(name, tasks["keys"], folder)
        if "mass" in tasks:
            draw_layers(name, tasks["mass"], folder)
            draw_mass(name, tasks["mass"], folder)
        if "needle" in tasks:
            draw_needles(name, tasks["needle"], folder)
            draw_recall(name, tasks["needle"], folder)
