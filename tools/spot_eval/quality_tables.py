"""From the results of spot-eval to the tables of docs/quality.md. Plain Python, no packages."""
import json
import math
import pathlib
import re
import statistics

# SELECTOR quality floors: (what, limit at the target lengths). A model is judged at its longest context.
FLOORS = {
    "smollm2": {"density": 0.15, "kl": 0.008, "ppl": 0.006, "oracle": 0.995, "quest": 1 / 3},
    "qwen2.5-coder": {"density": 0.10, "kl": 0.015, "ppl": 0.005, "oracle": 0.985, "quest": 1 / 2},
}


def load(folder: pathlib.Path) -> dict:
    """{model name: {task: report}} of the files NAME-TASK.json."""
    results = {}
    for path in sorted(folder.glob("*.json")):
        for task in ("needle-keys", "track-keys", "qa-keys", "mass-keys", "keys", "floor", "serving", "uniform", "twilight", "ppl", "mass", "needle", "track", "qa"):
            if path.stem.endswith("-" + task):
                results.setdefault(path.stem.removesuffix("-" + task), {})[task] = json.loads(path.read_text())
                break
    return results


def with_stand_ins(tasks: dict) -> dict:
    """The tasks, those that were not run taken from ones that hold the same rows: every part of a document for its first parts; the
    runs that compare key formats for those of the default format, and the watched one for the plain one."""
    stand_ins = (("ppl", "mass"), ("ppl", "floor"), ("mass", "mass-keys"), ("keys", "mass-keys"))
    return {task: tasks[other] for task, other in stand_ins if other in tasks} | tasks


def longest(report: dict) -> int:
    return max(row["context"] for row in report["rows"])


def find(report: dict, policy: str, context: int, keys: str = "int4") -> dict | None:
    for row in report["rows"]:
        if row["policy"] == policy and row["context"] == context and row["keys"] in ("", keys):
            return row
    return None


def curve(report: dict, name: str, context: int, keys: str = "int4") -> list:
    """The rows of one kind of policy at one context, by density."""
    rows = [r for r in report["rows"]
            if r["policy"].split("@")[0] == name and r["context"] == context and r["keys"] in ("", keys)]
    return sorted(rows, key=lambda r: r["density"])


def interpolate(rows: list, x: str, y: str, at: float, log_y: bool = True) -> float | None:
    """y at x = `at`, linear between neighbours (in log y); None outside the measured range."""
    points = sorted((r[x], r[y]) for r in rows)
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x0 <= at <= x1 and x1 > x0:
            t = (at - x0) / (x1 - x0)
            if log_y and y0 > 0 and y1 > 0:
                return math.exp(math.log(y0) * (1 - t) + math.log(y1) * t)
            return y0 * (1 - t) + y1 * t
    return None


def at_equal_kl(rows: list, what: str, kl: float) -> float | None:
    """`what` where the curve reaches this KL: linear in log KL; None outside the measured range."""
    points = sorted((math.log(max(r["kl"], 1e-9)), r[what]) for r in rows)
    at = math.log(max(kl, 1e-9))
    for (k0, w0), (k1, w1) in zip(points, points[1:]):
        if k0 <= at <= k1 and k1 > k0:
            return w0 + (w1 - w0) * (at - k0) / (k1 - k0)
    return None


def percent(nll: float) -> str:
    return f"{100 * math.expm1(nll):+.2f}%"


def table(head: list, rows: list) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def policies_table(report: dict) -> str:
    rows = []
    for row in report["rows"]:
        if row["context"] != longest(report):
            continue
        rows.append([row["policy"], row["keys"], f"{row['density']:.3f}", f"{row['bytes']:.3f}",
                     f"{row['kl']:.4f} ± {row['kl_ci95']:.4f}", f"{row['top1']:.3f}",
                     f"{percent(row['nll_delta'])} ± {100 * row['nll_delta_ci95']:.2f}%"])
    return table(["policy", "keys", "density", "bytes read", "KL to dense", "top-1", "perplexity"], rows)


def context_table(report: dict) -> str:
    contexts = sorted({row["context"] for row in report["rows"]})
    rows = []
    for policy in ("distilled@0.8", "topk@0.10", "topk@0.15", "quest@0.15", "twilight@0.85", "oracle@0.15", "oracle-kv@0.15", "window"):
        found = [find(report, policy, context) for context in contexts]
        if any(found):
            rows.append([policy] + [f"{r['density']:.3f}: {r['kl']:.4f}" if r else "" for r in found])
    return table(["policy (density: KL)"] + [f"{c} tokens" for c in contexts], rows)


def keys_table(report: dict, mass: dict | None, answers: list) -> str:
    """KL, covered mass and retrieval with int4 and fp4 keys against bf16 keys."""
    context = longest(report)
    dim = report["selector_dim"]
    size = {"bf16": 2 * dim, "int4": dim // 2 + dim // 32 * 2, "fp4": dim // 2 + dim // 16}
    rows = []
    for policy in dict.fromkeys(r["policy"] for r in report["rows"] if r["keys"]):
        kl = {keys: find(report, policy, context, keys)["kl"] for keys in size}
        rows.append([f"KL, {policy}", f"{kl['bf16']:.4f}"] +
                    [f"{kl[k]:.4f} ({share_text(*difference_of_kl(report, policy, context, k))})" for k in ("int4", "fp4")])
    for policy in dict.fromkeys(r["policy"] for r in mass["rows"]) if mass else ():
        covered = {keys: find(mass, policy, context, keys)["mass"] for keys in size}
        rows.append([f"covered mass, {policy}", f"{covered['bf16']:.4f}"] +
                    [f"{covered[k]:.4f} ({100 * (covered[k] - covered['bf16']):+.2f} points)" for k in ("int4", "fp4")])
    scores = [r for answer in answers for r in answer["rows"] if "depth" not in r]
    for task, length in dict.fromkeys((r["task"], r["context"]) for r in scores):
        found = {r["keys"]: r for r in scores if (r["task"], r["context"]) == (task, length)}
        dense = found["bf16"]["dense_score"]
        rows.append([f"{task} at {length}, distilled@0.8 (dense {dense:.2f})"] + [f"{found[k]['score']:.2f}" for k in size])
    rows.append(["bytes of a key", str(size["bf16"])] + [f"{size[k]} ({size['bf16'] / size[k]:.2f}x smaller)" for k in ("int4", "fp4")])
    return table(["", "bf16", "int4", "fp4"], rows)


RULES = {"distilled": "distilled: dual top-p, as the selector file says for each layer", "topk": "topk: the same number of tokens in each layer",
         "quest": "quest: a share of the blocks for each KV head"}


def budget_table(report: dict, uniform: dict | None) -> str:
    """KL of each way to spend the same bytes, at the longest context."""
    context = longest(report)
    shares = (0.11, 0.125, 0.15, 0.20, 0.25)
    curves = {label: curve(report, name, context) for name, label in RULES.items()}
    if uniform:
        curves["distilled: dual top-p, the same p in each layer"] = curve(uniform, "distilled", context)
    rows = []
    for name, points in curves.items():
        kls = [interpolate(points, "bytes", "kl", share) for share in shares]
        rows.append([name] + [f"{kl:.4f}" if kl else "" for kl in kls])
    return table(["KL where this share of the dense bytes is read"] + [f"{100 * s:g}%" for s in shares], rows)


def twilight_table(emulated: dict, report: dict) -> str:
    """What others read where they lose as much as each setting of the emulated Twilight."""
    context = longest(report)
    rows = []
    for row in curve(emulated, "twilight", context):
        cells = [row["policy"], f"{row['kl']:.4f}", f"{row['bytes']:.3f}"]
        for name in ("distilled", "topk", "quest"):
            other = at_equal_kl(curve(report, name, context), "bytes", row["kl"])
            cells.append(f"{other:.3f} ({row['bytes'] / other:.2f}x)" if other else "outside the range")
        rows.append(cells)
    return table(["Twilight, emulated", "KL", "bytes read", "distilled at this KL (Twilight / it)", "topk", "quest"], rows)


def mass_table(report: dict) -> str:
    rows = []
    for row in report["rows"]:
        if row["keys"] not in ("", "int4") or row["policy"] not in ("distilled@0.7", "distilled@0.8", "distilled@0.9", "topk@0.10", "topk@0.15", "quest@0.15"):
            continue
        layers = row["layers"]["mass"]
        worst = min(range(len(layers)), key=lambda i: layers[i])
        mass, layer, head = min((m, i, h) for i, heads in enumerate(row["layers"]["head_mass"]) for h, m in enumerate(heads))
        rows.append([row["policy"], row["context"], f"{row['density']:.3f}", f"{row['mass']:.4f}", f"{row['layer_oracle_share']:.4f}",
                     f"{row['oracle_share']:.4f}",
                     f"{layers[worst]:.3f} (layer {worst})", f"{mass:.3f} (layer {layer}, head {head})", f"{row['believed_mass']:.4f}",
                     f"{100 * row['reliability']['calibration_error']:.1f}"])
    return table(["policy", "context", "density", "true mass", "of a layer's oracle", "of the freest oracle", "worst layer", "worst KV head", "believed mass",
                  "calibration error, points"], rows)


def retrieval_table(reports: list) -> str:
    """Scores of every policy beside the dense ones; bold where the interval of the difference leaves out 0."""
    rows, policies = {}, {}
    for report in reports:
        for row in report["rows"]:
            if "depth" not in row:
                rows.setdefault((row["task"], row["context"]), {})[row["policy"]] = row
                policies[row["policy"]] = None
    lines = []
    for (task, context), found in rows.items():
        any_row = next(iter(found.values()))
        judged = any_row["dense_score"] >= 0.5
        cells = [task, context, any_row["prompts"], f"{any_row['dense_score']:.2f}" + ("" if judged else " (not judged)")]
        for policy in policies:
            row = found.get(policy)
            if row is None:
                cells.append("")
                continue
            text = f"{row['score']:.2f} ({row['difference']:+.2f} ± {row['difference_ci95']:.2f})"
            differs = judged and abs(row["difference"]) > row["difference_ci95"] + 1e-9
            cells.append(f"**{text}**" if differs else text)
        lines.append(cells)
    return table(["task", "context", "prompts", "dense", *policies], lines)


def verdict(met: bool) -> str:
    return "met" if met else "**not met**"


def floors_table(name: str, tasks: dict) -> str:
    """Every floor of the selector's quality table against what was measured at the longest context."""
    tasks = with_stand_ins(tasks)
    floor = next((f for key, f in FLOORS.items() if name.startswith(key)), None)
    if floor is None or "ppl" not in tasks:
        return "No floors are set for this model."
    report = tasks.get("floor", tasks["ppl"])
    context = longest(report)
    default = find(report, "distilled@0.8", context)
    rows = [["", "contexts judged", "", str(default["documents"]), ""]] if default else []
    for policy in judged_policies(report, context, floor["density"]):
        row = find(report, policy, context)
        upper = math.expm1(row["nll_delta"] + row["nll_delta_ci95"])
        rows.append([policy, "density", f"<= {floor['density']}", f"{row['density']:.3f}", verdict(row["density"] <= floor["density"])])
        rows.append(["", "KL to dense", f"<= {floor['kl']}", f"{row['kl']:.4f} ± {row['kl_ci95']:.4f}", verdict(row["kl"] <= floor["kl"])])
        rows.append(["", "perplexity, upper end of the interval", f"<= {100 * floor['ppl']:+.1f}%",
                     f"{percent(row['nll_delta'])}, up to {100 * upper:+.2f}%", verdict(upper <= floor["ppl"])])
        mass = find(tasks["mass"], policy, context) if "mass" in tasks else None
        if mass:
            rows.append(["", "share of the oracle's mass (one choice a layer)", f">= {floor['oracle']}",
                         f"{mass['layer_oracle_share']:.4f}", verdict(mass["layer_oracle_share"] >= floor["oracle"])])
            rows.append(["", "the same, the oracle choosing as freely as the policy", "", f"{mass['oracle_share']:.4f}", ""])
        quest = interpolate(curve(report, "quest", context), "density", "kl", row["density"])
        if quest:
            rows.append(["", "KL / Quest's at equal density", f"<= {floor['quest']:.2f}", f"{row['kl'] / quest:.2f}",
                         verdict(row["kl"] / quest <= floor["quest"])])
    rows += retrieval_floors(tasks, "distilled@0.8") + calibration_floors(tasks, "distilled@0.8") + key_floors(tasks, "distilled@0.8")
    return table(["policy", "what", "floor", "measured", ""], rows)


def retrieval_floors(tasks: dict, policy: str) -> list:
    """Every task and length at which dense decoding gets half or more."""
    rows = []
    for report in (tasks[t] for t in ("needle", "track", "qa") if t in tasks):
        for row in report["rows"]:
            if row["policy"] != policy or "depth" in row or row["dense_score"] < 0.5:
                continue
            rows.append(["" if rows else policy, f"{row['task']} at {row['context']}: score - dense", "0 within the interval",
                         f"{row['difference']:+.3f} ± {row['difference_ci95']:.3f} (dense {row['dense_score']:.2f})",
                         verdict(abs(row["difference"]) <= row["difference_ci95"] + 1e-9)])
    return rows


def calibration_floors(tasks: dict, policy: str) -> list:
    found = [r for r in tasks.get("mass", {"rows": []})["rows"] if r["policy"] == policy and r["keys"] in ("", "int4")]
    ends = sorted(found, key=lambda r: r["context"])
    return [["", f"calibration error at {r['context']}", "<= 2 points", f"{100 * r['reliability']['calibration_error']:.1f} points",
             verdict(r["reliability"]["calibration_error"] <= 0.02)] for r in (ends[:1] + ends[-1:] if len(ends) > 1 else ends)]


def student_t975(degrees: int) -> float:
    """The 0.975 quantile of Student's t distribution, as spot-eval's statistics.cc has it."""
    small = (12.706, 4.303, 3.182, 2.776)
    if degrees <= len(small):
        return small[degrees - 1]
    z, n = 1.959964, degrees
    return (z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2) +
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3))


def difference_of_kl(report: dict, policy: str, context: int, keys: str) -> tuple:
    """KL with `keys` against bf16 keys, as a share of the latter, and the 95% half-width, paired by document."""
    exact, rounded = (find(report, policy, context, k) for k in ("bf16", keys))
    if exact["kl"] == 0:  # everything is read
        return (0.0 if rounded["kl"] == 0 else math.inf), None
    share = rounded["kl"] / exact["kl"] - 1
    pairs = zip(rounded.get("per_document", {}).get("kl", []), exact.get("per_document", {}).get("kl", []))
    differences = [a - b for a, b in pairs]
    if len(differences) < 2:
        return share, None
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return share, student_t975(len(differences) - 1) * error / exact["kl"]


def share_text(share: float, half: float | None) -> str:
    return f"{100 * share:+.1f}%" + (f" ± {100 * half:.1f}%" if half is not None else "")


def key_floors(tasks: dict, policy: str) -> list:
    if "keys" not in tasks:
        return []
    rows = []
    context = longest(tasks["keys"])
    for keys in ("int4", "fp4"):
        kl, half = difference_of_kl(tasks["keys"], policy, context, keys)
        rows.append(["", f"KL with {keys} keys against bf16", "<= +5%", share_text(kl, half), verdict(kl <= 0.05)])
        if "mass-keys" in tasks:
            mass = [find(tasks["mass-keys"], policy, context, k)["mass"] for k in (keys, "bf16")]
            rows.append(["", f"covered mass with {keys} keys against bf16", "within 0.3 points", f"{100 * (mass[0] - mass[1]):+.2f} points",
                         verdict(mass[0] >= mass[1] - 0.003)])
    return rows


def judged_policies(report: dict, context: int, density: float) -> list:
    """The default policy, and the selector's best one within the density."""
    within = [r for r in report["rows"] if r["context"] == context and r["keys"] == "int4" and r["density"] <= density + 5e-4]
    best = min(within, key=lambda r: r["kl"])["policy"] if within else None
    return list(dict.fromkeys(p for p in ("distilled@0.8", best) if p))


def write(results: dict, path: pathlib.Path) -> None:
    """Replaces what stands between <!-- NAME:PART --> and <!-- end -->."""
    text = path.read_text(encoding="utf-8")
    for name, tasks in results.items():
        tasks = with_stand_ins(tasks)
        parts = {"floors": floors_table(name, tasks)}
        if "ppl" in tasks:
            parts |= {"policies": policies_table(tasks["ppl"]), "contexts": context_table(tasks["ppl"]),
                      "budgets": budget_table(tasks["ppl"], tasks.get("uniform"))}
        if "ppl" in tasks and "twilight" in tasks:
            parts["twilight"] = twilight_table(tasks["twilight"], tasks["ppl"])
        if "keys" in tasks:
            parts["keys"] = keys_table(tasks["keys"], tasks.get("mass-keys"),
                                       [tasks[t] for t in ("needle-keys", "track-keys", "qa-keys") if t in tasks])
        if "mass" in tasks:
            parts["mass"] = mass_table(tasks["mass"])
        answers = [tasks[t] for t in ("needle", "track", "qa") if t in tasks]
        if answers:
            parts["retrieval"] = retrieval_table(answers)
        if "serving" in tasks:
            parts["serving"] = retrieval_table([tasks["serving"]])
        for part, body in parts.items():
            place = re.compile(rf"(<!-- {re.escape(name)}:{part} -->\n).*?(<!-- end -->)", re.DOTALL)
            text = place.sub(lambda m, body=body: m.group(1) + body + "\n" + m.group(2), text)
    path.write_text(text, encoding="utf-8")
