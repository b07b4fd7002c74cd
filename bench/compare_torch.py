#!/usr/bin/env python3
"""Norma beside PyTorch: training steps, also with second derivatives, products and attention alone, start-up, and the demo's training,
alternating in one run.

    python3 -m venv .venv && .venv/bin/pip install torch
    .venv/bin/python bench/compare_torch.py [--only steps equation gemm gemm-bf16 attention attention-bf16 start demo]
                                             [--rows 1 3 8] [--rounds 3]
                                             [--threads 2] [--no-compile] [--cpu avx2]
    python3 bench/compare_torch.py --device cuda [--only steps attention] [--rows 1 3 8] [--rounds 1] [--limit 240] [--within S]
                                             [--programs FOLDER] [--results FILE]     on a machine with a GPU: bench/compare_cuda.py
    python3 bench/compare_torch.py --merge FILE...                                    its results into docs/performance.md

Every measurement is a fresh process; Norma's and PyTorch's take turns. PyTorch gets the settings that were found best for it on two
cores (a short OpenMP spin, a heap that is never given back, all its instruction sets) and the fastest of its forms counts: eager and
compiled, and its fused attention, eager and in f32 (compiled, or in bf16 on a CPU, it was slower wherever it was tried). Medians over
the rounds: of each process's median step, and of its best time for attention alone, which both take of as many calls as fit into 0.2
seconds, four at least, as ops with their graph. Of several rounds the least and the largest ratio stand in brackets. Prints the tables,
and writes them into docs/performance.md between the marker lines of each part; some of the steps' rows (--rows) are printed only, but
with --cpu, which keeps both to an instruction set that this processor surpasses, and has tables of its own.
"""
import argparse
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import compare_cuda

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parent / "build/release"
PAGE = HERE.parent / "docs/performance.md"
TORCH_ENV = {"GOMP_SPINCOUNT": "2000", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_ARENA_MAX": "1"}
LIMITED = {  # both programs without the instructions that other processors lack
    "avx2": {"NORMA_CPU": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {"NORMA_CPU": "avx512", "ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
}
X3 = "x^3/sqrt(N)"
GOAL = 0.85  # test accuracy of the demo
SHORT = ["--steps", "40", "--batch"]  # steps that take milliseconds
STEPS = [  # label, Norma's flags, PyTorch's model and flags, PyTorch's attention forms
    ("ViT-T/4 batch 64, softmax", [], ["vit-tiny"], ["softmax", "sdpa"]),
    ("the same, measuring every head", ["--stats"], ["vit-tiny"], ["softmax", "sdpa"]),
    ("ViT-T/4 batch 64, x³/√N", ["--attention", X3], ["vit-tiny"], ["x3"]),
    ("the same, measuring every head", ["--attention", X3, "--stats"], ["vit-tiny"], ["x3"]),
    ("ViT-T/4 batch 64, softmax, bf16", ["--dtype", "bf16"], ["vit-tiny", "--dtype", "bf16"], ["softmax"]),
    ("ViT-T/4 batch 64, x³/√N, bf16", ["--dtype", "bf16", "--attention", X3], ["vit-tiny", "--dtype", "bf16"], ["x3"]),
    ("ViT-S/4 batch 16, softmax", ["--width", "384", "--heads", "6", "--batch", "16"], ["vit-small"], ["softmax", "sdpa"]),
    ("decoder 6/6/384, N = 256, batch 8, softmax", ["--model", "decoder"], ["decoder"], ["softmax", "sdpa"]),
    ("the same, dropout 0.2", ["--model", "decoder", "--dropout", "0.2"], ["decoder", "--dropout", "0.2"], ["softmax", "sdpa"]),
    ("decoder, x³/√N, dropout 0.2", ["--model", "decoder", "--dropout", "0.2", "--attention", X3], ["decoder", "--dropout", "0.2"], ["x3"]),
    ("ViT-T/4 batch 4, softmax", SHORT + ["4"], ["vit-tiny"] + SHORT + ["4"], ["softmax", "sdpa"]),
    ("ViT-T/4 batch 4, softmax, bf16", ["--dtype", "bf16"] + SHORT + ["4"], ["vit-tiny", "--dtype", "bf16"] + SHORT + ["4"], ["softmax"]),
    ("ViT-T/4 batch 1, softmax", SHORT + ["1"], ["vit-tiny"] + SHORT + ["1"], ["softmax", "sdpa"]),
    ("ViT-T/4 batch 1, softmax, bf16", ["--dtype", "bf16"] + SHORT + ["1"], ["vit-tiny", "--dtype", "bf16"] + SHORT + ["1"], ["softmax"]),
    ("ViT-T/4 batch 64, softmax, PyTorch's last block rewritten for the class token alone", [], ["vit-tiny", "--class-only"], ["softmax", "sdpa"]),
    ("the same, bf16", ["--dtype", "bf16"], ["vit-tiny", "--class-only", "--dtype", "bf16"], ["softmax"]),
    ("ViT-T/4 batch 64, softmax, bf16, measuring every head", ["--dtype", "bf16", "--stats"], ["vit-tiny", "--dtype", "bf16"], ["softmax"]),
    ("ViT-T/4 batch 64, x³/√N, bf16, measuring every head", ["--dtype", "bf16", "--attention", X3, "--stats"], ["vit-tiny", "--dtype", "bf16"], ["x3"]),
]
ATTENTION = [(n, d) for d in (32, 64, 128) for n in (64, 256, 1024, 4096)]


def run(command, env=None):
    done = subprocess.run([str(c) for c in command], env={**os.environ, **(env or {})}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def torch(script, *flags):
    return run([sys.executable, HERE / script, *flags], TORCH_ENV)


def has_avx512():
    return "avx512f" in pathlib.Path("/proc/cpuinfo").read_text()


def median(rows, key):
    return statistics.median(r[key] for r in rows)


def ratio_of(ours, theirs):
    """Norma's time as a share of PyTorch's, of the medians; in brackets the least and the largest of the rounds."""
    rounds = [x / y for x, y in zip(ours, theirs)]
    middle = f"{statistics.median(ours) / statistics.median(theirs):.2f}"
    return middle if len(rounds) == 1 else f"{middle} ({min(rounds):.2f} to {max(rounds):.2f})"


def alternate(a, ours, theirs):
    """Rounds of Norma's command and each of PyTorch's forms in turn; the rows of Norma, and of the fastest form by `key`."""
    mine, forms = [], {}
    for _ in range(a.rounds):
        mine.append(ours())
        for name, form in theirs.items():
            forms.setdefault(name, []).append(form())
    return mine, forms


def with_compile(a, forms):
    """Each form of PyTorch's attention, eager and compiled."""
    plain = {f: [] for f in forms}
    return plain if a.no_compile else {**plain, **{f"{f}, compile": ["--compile"] for f in forms if f != "sdpa"}}


def steps(a):
    out = ["| training step | Norma ms | share of the FMA peak | PyTorch ms (its fastest form) | ratio | MiB resident: Norma, PyTorch |", "|---|---|---|---|---|---|"]
    for number, (label, flags, model, forms) in enumerate(STEPS, 1):
        if a.rows and number not in a.rows:
            continue
        theirs = {name: lambda name=name, more=more: torch("torch_step.py", "--steps", 5, *model, "--threads", a.threads, "--score", name.split(",")[0], *more)
                  for name, more in with_compile(a, forms).items()}
        mine, all_forms = alternate(a, lambda: run([BUILD / "bench/norma_bench_step", "--json", "--threads", a.threads, *flags]), theirs)
        best = min(all_forms, key=lambda n: median(all_forms[n], "median_ms"))
        ms, torch_ms = median(mine, "median_ms"), median(all_forms[best], "median_ms")
        share = statistics.median(r["gflops"] / r["peak_gflops"] for r in mine)
        out.append(f"| {label} | {ms:.0f} | {100 * share:.0f} % | {torch_ms:.0f} ({best}) | {ratio_of([r['median_ms'] for r in mine], [r['median_ms'] for r in all_forms[best]])} | "
                   f"{max(r['peak_mib'] for r in mine):.0f}, {min(r['peak_mib'] for rows in all_forms.values() for r in rows)} |")
        print(out[-1], file=sys.stderr, flush=True)
    return out


def equation(a):
    """Second derivatives: PyTorch has them of attention that is written out, eagerly."""
    out = ["| step of a physics-informed transformer | Norma ms | PyTorch ms | ratio | MiB resident: Norma, PyTorch |", "|---|---|---|---|---|"]
    for points in (64, 2601):
        for dtype in ("f64", "f32"):
            for label, formula, score in (("softmax", "softmax", "softmax"), ("x³/√N", X3, "x3")):
                shape = ["--points", points, "--dtype", dtype, "--threads", a.threads, "--steps", 100 if points == 64 else 7]
                mine, theirs = alternate(a, lambda: run([BUILD / "bench/norma_bench_equation", "--json", "--attention", formula, *shape]),
                                         {"": lambda: torch("torch_equation.py", "--score", score, *shape)})
                ours, peer = ([r["median_ms"] for r in rows] for rows in (mine, theirs[""]))
                out.append(f"| {points:,} points, {dtype}, {label} | {statistics.median(ours):.1f} | {statistics.median(peer):.1f} | {ratio_of(ours, peer)} | "
                           f"{max(r['peak_mib'] for r in mine):.0f}, {min(r['peak_mib'] for r in theirs['']):.0f} |")
                print(out[-1], file=sys.stderr, flush=True)
    return out


def attention(a, dtype="f32"):
    out = ["| N, d | function | Norma ms forward + backward | GFLOP/s forward, backward | PyTorch ms forward + backward (its fastest form) | ratio |", "|---|---|---|---|---|---|"]
    for n, d in ATTENTION:
        heads, batch = 6, max(1, min(16, 4096 * 64 // (n * n) * 4))
        shape = ["--n", n, "--d", d, "--heads", heads, "--batch", batch, "--threads", a.threads, "--dtype", dtype]
        for label, ours_flag, forms in (("softmax", "softmax", ["softmax", "sdpa"]), ("x³/√N", X3, ["x3"])):
            theirs = {name: lambda name=name, more=more: torch("torch_attention.py", *shape, "--score", name.split(",")[0], *more)
                      for name, more in with_compile(a, forms).items()}
            mine, all_forms = alternate(a, lambda: run([BUILD / "bench/norma_bench_attention", "--json", "--ops", "--no-stats", "--scoring", ours_flag, *shape]), theirs)
            both = {name: [r["forward_ms"] + r["backward_ms"] for r in rows] for name, rows in {"": mine, **all_forms}.items()}
            best = min(all_forms, key=lambda name: statistics.median(both[name]))
            f, b = median(mine, "forward_ms"), median(mine, "backward_ms")
            out.append(f"| {n}, {d} | {label} | {f:.2f} + {b:.2f} | {median(mine, 'forward_gflops'):.0f}, {median(mine, 'backward_gflops'):.0f} | "
                       f"{median(all_forms[best], 'forward_ms'):.2f} + {median(all_forms[best], 'backward_ms'):.2f} ({best}) | {ratio_of(both[''], both[best])} |")
            print(out[-1], file=sys.stderr, flush=True)
    return out


def shapes_of(rows):
    return list(dict.fromkeys(f"{r['rows']},{r['out']},{r['in']}" for r in rows))


def gemm(a):
    newer = {"OPENBLAS_CORETYPE": "SkylakeX"} if has_avx512() else {}  # which an older library does not find out
    mine, theirs = [], []
    for _ in range(a.rounds):
        mine.append(run([BUILD / "norma", "bench", "gemm", "--threads", a.threads, "--log-format", "json"], newer)["rows"])
        theirs.append(torch("torch_gemm.py", "--threads", a.threads, "--shapes", *shapes_of(mine[0]))["rows"])
    out = ["| rows, out, in | product | Norma GFLOP/s | share of the FMA peak | `--gemm fma` | OpenBLAS | PyTorch | time, Norma to PyTorch |", "|---|---|---|---|---|---|---|---|"]
    for ours, peer in zip(zip(*mine), zip(*theirs)):
        row, rate, other = ours[0], median(ours, "own_gflops"), median(peer, "gflops")
        ratio = ratio_of([1 / r["own_gflops"] for r in ours], [1 / r["gflops"] for r in peer])
        assert row["product"] == peer[0]["product"] and row["rows"] == peer[0]["rows"]
        out.append(f"| {row['rows']}, {row['out']}, {row['in']} | {row['product']} | {rate:.0f} | {100 * rate / median(ours, 'peak_gflops'):.0f} % | {median(ours, 'fma_gflops'):.0f} | {median(ours, 'openblas_gflops'):.0f} | {other:.0f} | {ratio} |")
    return out


def gemm_bf16(a):
    mine, theirs = [], []
    for _ in range(a.rounds):
        mine.append(run([BUILD / "bench/norma_bench_gemm_bf16", "--threads", a.threads, "--json"]))
        theirs.append(torch("torch_gemm.py", "--threads", a.threads, "--dtype", "bf16", "--shapes", *shapes_of(mine[0]["rows"]))["rows"])
    out = ["| rows, out, in | product | Norma GFLOP/s | share of the peak of bf16 | of the FMA peak | PyTorch | time, Norma to PyTorch |", "|---|---|---|---|---|---|---|"]
    for ours, peer in zip(zip(*(m["rows"] for m in mine)), zip(*theirs)):
        row, rate, other = ours[0], median(ours, "gflops"), median(peer, "gflops")
        ratio = ratio_of([1 / r["gflops"] for r in ours], [1 / r["gflops"] for r in peer])
        assert row["product"] == peer[0]["product"] and row["rows"] == peer[0]["rows"]
        peak = median(mine, "bf16_peak_gflops")
        share = f"{100 * rate / peak:.0f} %" if peak else ""
        out.append(f"| {row['rows']}, {row['out']}, {row['in']} | {row['product']} | {rate:.0f} | {share} | {100 * rate / median(mine, 'peak_gflops'):.0f} % | {other:.0f} | {ratio} |")
    return out


def first_step(command):
    """Seconds from the start of the process until it reports its first step."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        p = subprocess.Popen([str(c) for c in command(folder)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        told = ""
        for line in p.stderr:
            told += line
            if "step 1/" in line:
                break
        else:
            sys.exit(f"{' '.join(map(str, command(folder)))} took no step:\n{told}")
        seconds = time.perf_counter() - start
        p.kill()
        p.wait()
        return seconds


def start(a):
    norma = BUILD / "norma"
    sizes = ["--width", 64, "--depth", 3, "--heads", 2, "--pool", "mean"]
    ours, theirs = [], []
    for _ in range(a.rounds):
        ours.append(first_step(lambda folder: [norma, "train", "vit", "--data", "fashion-mnist", *sizes, "--threads", a.threads, "--out", pathlib.Path(folder) / "run"]))
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], env={**os.environ, **TORCH_ENV}, check=True)
        theirs.append(time.perf_counter() - begin)
    return ["| from the command | seconds |", "|---|---|", f"| `norma train` until its first step is done (60,000 images read, the demo's model) | {statistics.median(ours):.2f} |",
            f"| `python -c \"import torch\"` | {statistics.median(theirs):.2f} |"]


def evaluations(command, folder):
    """Runs `norma train` into `folder`; the test accuracy after each epoch and the seconds from the command until it was written."""
    start, found = time.perf_counter(), []
    p = subprocess.Popen([str(c) for c in command], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    log, running = folder / "metrics.jsonl", True
    while running:
        running = p.poll() is None
        time.sleep(0.02)
        rows = [json.loads(line) for line in log.read_text().split("\n")[:-1] if "test_accuracy" in line] if log.exists() else []
        found += [{"accuracy": row["test_accuracy"], "seconds": time.perf_counter() - start} for row in rows[len(found):]]
    if p.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed")
    return found


def demo(a):
    out = [f"| the demo's training, three epochs with evaluation | Norma: seconds to {100 * GOAL:.0f} %, final accuracy | PyTorch: the same | ratio |", "|---|---|---|---|"]
    flags = ["train", "vit", "--data", "fashion-mnist", "--width", 64, "--depth", 3, "--heads", 2, "--patch", 4, "--pool", "mean", "--init-std", 0, "--epochs", 3,
             "--batch", 64, "--lr", 2e-3, "--weight-decay", 0.05, "--pad", 0, "--no-flip", "--seed", 1, "--log-every", 20, "--threads", a.threads]
    reached = lambda epochs: next((e["seconds"] for e in epochs if e["accuracy"] >= GOAL), math.inf)
    cell = lambda epochs: f"{reached(epochs):.0f}, {100 * epochs[-1]['accuracy']:.2f} %"
    for label, formula, forms in (("softmax", "softmax", ["softmax", "sdpa"]), ("x³/√N", X3, ["x3"])):
        best = [math.inf, math.inf]
        for dtype in ("f32", "bf16"):
            def ours():
                with tempfile.TemporaryDirectory() as folder:
                    run_folder = pathlib.Path(folder) / "run"
                    return evaluations([BUILD / "norma", *flags, "--dtype", dtype, "--attention", formula, "--out", run_folder], run_folder)
            theirs = {name: lambda name=name, more=more: torch("torch_demo.py", "--score", name.split(",")[0], "--dtype", dtype, "--threads", a.threads, *more)["epochs"]
                      for name, more in with_compile(a, forms).items()}
            mine, all_forms = alternate(a, ours, theirs)
            middle = lambda rounds: sorted(rounds, key=reached)[len(rounds) // 2]
            form = min(all_forms, key=lambda name: reached(middle(all_forms[name])))
            mine, peer = middle(mine), middle(all_forms[form])
            best = [min(best[0], reached(mine)), min(best[1], reached(peer))]
            out.append(f"| {label}, {dtype} | {cell(mine)} | {cell(peer)} ({form}) | {reached(mine) / reached(peer):.2f} |")
            print(out[-1], file=sys.stderr, flush=True)
        out.append(f"| {label}, the best dtype of each | {best[0]:.0f} | {best[1]:.0f} | {best[0] / best[1]:.2f} |")
        print(out[-1], file=sys.stderr, flush=True)
    return out


def write(part, lines):
    """Puts a table between the marker lines of its part in the page."""
    begin, end = f"<!-- {part}: bench/compare_torch.py -->", f"<!-- end of {part} -->"
    page = PAGE.read_text()
    if page.count(begin) != 1 or page.count(end) != 1:
        sys.exit(f"{PAGE}: has no place for this table; it goes between the lines\n{begin}\n{end}")
    head, rest = page.split(begin)
    PAGE.write_text(head + begin + "\n" + "\n".join([*lines, ""]) + end + rest.split(end)[1])


PARTS = {"steps": steps, "equation": equation, "gemm": gemm, "gemm-bf16": gemm_bf16, "attention": attention, "attention-bf16": lambda a: attention(a, "bf16"),
         "start": start, "demo": demo}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--rows", type=int, nargs="+", help="of the training steps (cuda: of either table) only these rows, counted from 1")
    p.add_argument("--rounds", type=int, help="default 3, cuda 1")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--programs", type=pathlib.Path, default=BUILD / "bench", help="cuda: where Norma's benchmark programs lie")
    p.add_argument("--results", type=pathlib.Path, help="cuda: the file that keeps the rows, and to which they are added")
    p.add_argument("--merge", type=pathlib.Path, nargs="+", metavar="FILE", help="cuda: write the tables of such files into docs/performance.md, and stop")
    p.add_argument("--limit", type=float, default=240, help="cuda: seconds after which one program is given up")
    p.add_argument("--within", type=float, default=math.inf, help="cuda: seconds in which all must be done; what no time is left for is given up, or left out")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--cpu", choices=LIMITED, help="keep both programs to this instruction set (with --only steps)")
    p.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it is slow to start)")
    a = p.parse_args()
    if a.cpu:
        if a.device != "cpu" or a.only != ["steps"]:
            p.error("--cpu goes with --only steps, and not with --device cuda")
        os.environ.update(LIMITED[a.cpu])
    if a.device == "cuda" or a.merge:
        if a.only != list(PARTS) and not set(a.only) <= {"steps", "attention"}:
            p.error("--device cuda measures steps and attention")
        a.rounds = a.rounds or 1
        return compare_cuda.main(a, write)
    a.rounds = a.rounds or 3
    version = subprocess.run([sys.executable, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=True).stdout.strip()
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    isa = {"avx2": "AVX2", "avx512": "AVX-512"}[a.cpu] + " alone" if a.cpu else "AVX-512, AMX" if "amx_bf16" in flags else "AVX-512" if has_avx512() else "AVX2"
    for part in a.only:
        lines = PARTS[part](a)
        command = f"bench/compare_torch.py --only {part} --rounds {a.rounds} --threads {a.threads}{' --no-compile' if a.no_compile else ''}"
        if part == "steps" and a.rows:
            command += " --rows " + " ".join(map(str, a.rows))
        if a.cpu:
            command += f" --cpu {a.cpu}"
        table = [f"`{command}`: {cpu} ({isa}), {os.cpu_count()} cores, PyTorch {version}.", "", *lines]
        print("\n".join(["", *table, ""]))
        if part == "steps" and a.rows and not a.cpu:  # some of a table's rows are no table
            print("printed only: with --rows nothing is written into the page", file=sys.stderr)
        else:
            write(f"{part}-{a.cpu}" if a.cpu else part, table)


if __name__ == "__main__":
    main()
