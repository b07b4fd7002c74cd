#!/usr/bin/env python3
"""Norma's training step beside PyTorch's, alternating in one run.

    python3 -m venv .venv && .venv/bin/pip install torch
    .venv/bin/python bench/compare_torch.py [--program build/release/bench/norma_bench_step] [--rounds 3] [--compile]

Every measurement is a fresh process. PyTorch gets the settings that were found best for it on two cores: a short OpenMP spin and a heap
that is never given back. Prints a table in Markdown: medians over the rounds of each process's median step, and the ratio.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TORCH_ENV = {"GOMP_SPINCOUNT": "2000", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_ARENA_MAX": "1"}
ROWS = [  # label, norma flags, variants of PyTorch's flags
    ("ViT-T/4 batch 64, softmax", ["--attention", "softmax"], "vit-tiny", [["--score", "softmax"], ["--score", "sdpa"]]),
    ("ViT-T/4 batch 64, x^3/sqrt(N)", ["--attention", "x^3/sqrt(N)"], "vit-tiny", [["--score", "x3"]]),
]


def run(command, env=None):
    done = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", default=HERE.parent / "build/release/bench/norma_bench_step")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--compile", action="store_true", help="also torch.compile (needs a C++ compiler; slow to start)")
    a = p.parse_args()
    print("| step, f32 | threads | Norma ms | share of FMA peak | PyTorch ms (best of) | ratio | Norma MiB | PyTorch MiB |")
    print("|---|---|---|---|---|---|---|---|")
    version = "?"
    for label, flags, model, variants in ROWS:
        if a.compile:
            variants = variants + [v + ["--compile"] for v in variants]
        for t in a.threads:
            ours, theirs = [], {str(v): [] for v in variants}
            for _ in range(a.rounds):
                ours.append(run([a.program, "--json", "--threads", str(t), *flags]))
                for v in variants:
                    theirs[str(v)].append(run([sys.executable, HERE / "torch_step.py", model, "--threads", str(t), "--steps", "7", *v], TORCH_ENV))
            ms = statistics.median(r["median_ms"] for r in ours)
            share = statistics.median(r["gflops"] / r["peak_gflops"] for r in ours)
            best = min(theirs.values(), key=lambda rows: statistics.median(r["median_ms"] for r in rows))
            torch_ms = statistics.median(r["median_ms"] for r in best)
            version = best[0]["torch"]
            how = best[0]["score"] + (", compile" if best[0]["compile"] else "")
            print(f"| {label} | {t} | {ms:.0f} | {100 * share:.0f} % | {torch_ms:.0f} ({how}) | {ms / torch_ms:.2f} | "
                  f"{max(r['peak_mib'] for r in ours):.0f} | {min(r['peak_mib'] for r in best)} |", flush=True)
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
    print(f"\nPyTorch {version}, {cpu}, {os.cpu_count()} cores; `bench/compare_torch.py --rounds {a.rounds}"
          f"{' --compile' if a.compile else ''}`")


if __name__ == "__main__":
    main()
