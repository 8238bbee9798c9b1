#!/usr/bin/env python3
"""Draws decode time against context length from the JSON lines of `spot-bench decode --sweep --json`.

    plot_context.py LINES.json OUT.svg
"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 64, 150, 34, 48
NAMES = {"full": "full (dense)", "quest": "quest, 5%", "topk": "distilled scores, 5%"}
COLOURS = {"full": "#b03030", "quest": "#c08a20", "topk": "#2060a0"}


def main():
    rows = [json.loads(line) for line in open(sys.argv[1]) if line.startswith("{")]
    for row in rows:
        row["ms"], row["floor_ms"] = 1e3 * row["median_step_seconds"], 1e3 * row["floor_seconds"]
    contexts = sorted({row["context"] for row in rows})
    top = max(row["ms"] for row in rows) * 1.05

    def x(context):
        span = math.log2(contexts[-1] / contexts[0]) or 1
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log2(context / contexts[0]) / span

    def y(ms):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * ms / top

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">']
    out.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
    out.append(f'<text x="{LEFT}" y="20">Milliseconds of a decode step, batch {rows[0]["batch"]}; dotted: the bytes it must read</text>')
    step = 10 ** math.floor(math.log10(top / 3))
    step *= next(f for f in (1, 2, 5, 10) if top / (step * f) <= 7)
    for i in range(int(top / step) + 1):
        at = y(i * step)
        out.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{i * step:g}</text>')
    for context in contexts:
        out.append(f'<text x="{x(context):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{context // 1024}K</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">tokens in the context</text>')
    for policy, name in NAMES.items():
        line = sorted((row for row in rows if row["policy"].split("@")[0] == policy), key=lambda row: row["context"])
        if not line:
            continue
        for field, style in (("ms", 'stroke-width="2"'), ("floor_ms", 'stroke-dasharray="2 4"')):
            points = " ".join(f'{x(row["context"]):.1f},{y(row[field]):.1f}' for row in line)
            out.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[policy]}" {style}/>')
        out.append(f'<text x="{WIDTH - RIGHT + 8}" y="{y(line[-1]["ms"]) + 4:.1f}" fill="{COLOURS[policy]}">{name}</text>')
    out.append("</svg>")
    with open(sys.argv[2], "w") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
