#!/usr/bin/env python3
"""How time and memory of the training step grow with tokens, width, depth, batch and threads.

    bench/growth.py [--program build/release/bench/norma_bench_step] [--quick] [--tables-only]

One fresh process a point, from a base of ViT 192/6/3 on 32x32 pixels, patch 4, batch 16. Fits time ~ size^e over the upper half of each
range by least squares in logarithms. Writes docs/growth.json, docs/growth.svg (log-log plots) and the table of docs/performance.md.
"""
import argparse
import json
import math
import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
BASE = {"width": 192, "depth": 6, "heads": 3, "image": 32, "patch": 4, "batch": 16, "threads": 2}
AXES = {  # what grows -> [(size on the axis, changed flags)]
    "tokens": [((side // 4) ** 2 + 1, {"image": side}) for side in (16, 32, 64, 96, 128)],
    "width": [(w, {"width": w, "heads": w // 64}) for w in (64, 128, 192, 384, 768)],
    "depth": [(d, {"depth": d}) for d in (1, 3, 6, 12, 24)],
    "batch": [(b, {"batch": b}) for b in (1, 4, 16, 64)],
    "threads": [(t, {"threads": t}) for t in (1, 2)],
}
FUNCTIONS = {"softmax": "softmax", "x³/√N": "x^3/sqrt(N)"}
COLOURS = {"softmax": "#1f6fb4", "x³/√N": "#d1495b"}


def measure(program, attention, changes, steps):
    flags = [f for name, value in {**BASE, **changes}.items() for f in (f"--{name}", str(value))]
    done = subprocess.run([program, "--json", "--attention", attention, "--steps", str(steps), *flags], capture_output=True, text=True, check=True)
    row = json.loads(done.stdout.strip().splitlines()[-1])
    return {"ms": row["median_ms"], "mib": row["peak_mib"], "share": row["gflops"] / row["peak_gflops"]}


def exponent(points, key):
    """Slope of log(value) over log(size) for the upper half of the sizes."""
    upper = points[len(points) // 2 if len(points) > 2 else 0:]
    x, y = [math.log(p["size"]) for p in upper], [math.log(p[key]) for p in upper]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def plot(x0, y0, title, series, key, unit):
    """One log-log panel of 260 x 200 at (x0, y0)."""
    w, h = 190, 130
    xs = [p["size"] for pts in series.values() for p in pts]
    ys = [p[key] for pts in series.values() for p in pts]
    low, high = min(ys) * 0.8, max(ys) * 1.25
    if high < 4 * low:  # what hardly changes is to look so
        low, high = low / 2, high * 2
    lx, hx, ly, hy = math.log(min(xs)), math.log(max(xs)), math.log(low), math.log(high)
    px = lambda v: x0 + 50 + w * (math.log(v) - lx) / ((hx - lx) or 1)
    py = lambda v: y0 + 30 + h - h * (math.log(v) - ly) / (hy - ly)
    out = [f'<text x="{x0 + 50}" y="{y0 + 18}" class="t">{title}</text>',
           f'<path d="M{x0 + 50} {y0 + 30}V{y0 + 30 + h}H{x0 + 50 + w}" class="a"/>']
    for size in sorted(set(xs)):
        out.append(f'<text x="{px(size):.1f}" y="{y0 + 46 + h}" text-anchor="middle">{size}</text>')
    ticks = [m * 10 ** e for e in range(5) for m in (1, 2, 5) if low < m * 10 ** e < high]
    if len(ticks) > 5:
        ticks = [t for t in ticks if str(t)[0] != "2"]
    for v in ticks:
        out.append(f'<text x="{x0 + 46}" y="{py(v) + 4:.1f}" text-anchor="end">{v:,}</text>')
        out.append(f'<path d="M{x0 + 50} {py(v):.1f}h{w}" class="g"/>')
    out.append(f'<text x="{x0 + 46}" y="{y0 + 18}" text-anchor="end">{unit}</text>')
    for name, pts in series.items():
        path = "L".join(f"{px(p['size']):.1f} {py(p[key]):.1f}" for p in pts)
        out.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        out += [f'<circle cx="{px(p["size"]):.1f}" cy="{py(p[key]):.1f}" r="2.5" fill="{COLOURS[name]}"/>' for p in pts]
    return out


def picture(results):
    body = []
    slope = lambda axis, key: f" against {axis}" if axis == "threads" else f" ~ {axis}^{exponent(results['softmax'][axis], key):.2f}"
    for column, axis in enumerate(AXES):
        series = {name: results[name][axis] for name in FUNCTIONS}
        body += plot(260 * column, 30, f"time of a step{slope(axis, 'ms')}", series, "ms", "ms")
        body += plot(260 * column, 240, f"memory{slope(axis, 'mib')}", series, "mib", "MiB")
    legend = "".join(f'<text x="{60 + 90 * i}" y="22" style="fill:{c};font-weight:bold">{n}</text>' for i, (n, c) in enumerate(COLOURS.items()))
    style = "<style>text{font:11px sans-serif;fill:#333}.t{font-weight:bold}.a{stroke:#999;fill:none}.g{stroke:#eee;fill:none}</style>"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {260 * len(AXES)} 460">{style}<rect width="100%" height="100%" fill="#fff"/>'
            + legend + "\n".join(body) + "</svg>\n")


def table(results):
    out = ["| grows | sizes | function | ms | MiB | time ~ size^e | memory ~ size^e |", "|---|---|---|---|---|---|---|"]
    for axis in AXES:
        for name in FUNCTIONS:
            points = results[name][axis]
            cell = lambda key: ", ".join(f"{p[key]:.0f}" for p in points)
            out.append(f"| {axis} | {', '.join(str(p['size']) for p in points)} | {name} | {cell('ms')} | {cell('mib')} | {exponent(points, 'ms'):.2f} | {exponent(points, 'mib'):.2f} |")
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", default=HERE.parent / "build/release/bench/norma_bench_step")
    p.add_argument("--quick", action="store_true", help="three timed steps a point instead of seven")
    p.add_argument("--tables-only", action="store_true", help="measure nothing; draw docs/growth.json again")
    a = p.parse_args()
    kept = DOCS / "growth.json"
    if a.tables_only:
        results = json.loads(kept.read_text())
    else:
        results = {name: {axis: [{"size": size, **measure(a.program, formula, changes, 3 if a.quick else 7)} for size, changes in points]
                          for axis, points in AXES.items()} for name, formula in FUNCTIONS.items()}
        kept.write_text(json.dumps(results, indent=1) + "\n")
    (DOCS / "growth.svg").write_text(picture(results))
    lines = table(results)
    print("\n".join(lines))
    page = DOCS / "performance.md"
    begin, end = "<!-- growth: bench/growth.py -->", "<!-- end of growth -->"
    text = page.read_text()
    head, rest = text.split(begin)
    page.write_text(head + begin + "\n" + f"`bench/growth.py{' --quick' if a.quick else ''}`, {os.cpu_count()} cores.\n\n" + "\n".join(lines) + "\n" + end + rest.split(end)[1])


if __name__ == "__main__":
    main()
