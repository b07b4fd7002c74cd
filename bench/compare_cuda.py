"""Norma beside PyTorch on one GPU: what bench/compare_torch.py --device cuda measures.

Training steps and attention alone, each row by fresh processes of both in turn on the same card. PyTorch runs its plain form; its fused
attention; that with the whole step in one CUDA graph, as written and compiled (model and loss, by "max-autotune-no-cudagraphs"); and
torch.compile(mode="max-autotune"), which makes graphs of its own but for clipping and the optimizer. In bf16 its fused attention may be
cuDNN's, which it prefers on some cards, or its own: both are measured, and the kernels' names kept. Its ViTs compute behind the last
attention only the class token, as Norma's do; bf16 is its autocast, f32 is without TF32 on both sides. Where the card has
wgmma, attention alone is measured on mma.sync and on that (NORMA_CUDA_ATTENTION). Results are kept in a file after every program, so that
several commands can share them out, and written into docs/performance.md by --merge.
"""
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
X3 = "x^3/sqrt(N)"
OWN_SDPA = {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}  # PyTorch's fused attention before cuDNN's; read once by a process
COMPILED = ["--graph", "--compile", "max-autotune-no-cudagraphs"]
# PyTorch's attention, flags, environment; what compiles comes last, since it may take all the time there is.
SOFTMAX_FORMS = {
    "eager": ("softmax", [], {}),
    "SDPA": ("sdpa", [], {}),
    "SDPA in a graph": ("sdpa", ["--graph"], {}),
    "SDPA without cuDNN in a graph": ("sdpa", ["--graph"], OWN_SDPA),
    "SDPA compiled in a graph": ("sdpa", COMPILED, {}),
    "SDPA without cuDNN compiled in a graph": ("sdpa", COMPILED, OWN_SDPA),
    "SDPA compiled": ("sdpa", ["--compile", "max-autotune"], {}),
}
X3_FORMS = {
    "eager": ("x3", [], {}),
    "in a graph": ("x3", ["--graph"], {}),
    "compiled in a graph": ("x3", COMPILED, {}),
    "compiled": ("x3", ["--compile", "max-autotune"], {}),
}
FUNCTIONS = {"softmax": ("softmax", SOFTMAX_FORMS), "x³/√N": (X3, X3_FORMS)}
VIT_B = ["--width", 768, "--heads", 12, "--image", 224, "--patch", 16, "--classes", 1000]
COLUMNS = ("x3", "softmax", "x3 wgmma", "softmax wgmma", "sdpa", "own sdpa", "torch x3")
GPT2 = ["--model", "decoder", "--width", 768, "--depth", 12, "--heads", 12, "--tokens", 1024, "--vocabulary", 50304]


def step_rows():
    """label, Norma's flags, PyTorch's model and flags, its forms."""
    models = [(f"ViT-T/4 32×32, batch {batch}, {dtype}", ["--batch", batch, "--dtype", dtype], ["vit-tiny", "--class-only", "--batch", batch, "--dtype", dtype])
              for dtype in ("bf16", "f32") for batch in (64, 512)]
    models.append(("ViT-B/16 224×224, batch 64, bf16", ["--batch", 64, "--dtype", "bf16", *VIT_B], ["vit-base-224", "--class-only", "--batch", 64, "--dtype", "bf16"]))
    models.append(("decoder of GPT-2's size, 8 × 1024 tokens, bf16", ["--batch", 8, "--dtype", "bf16", *GPT2], ["gpt2", "--batch", 8, "--dtype", "bf16"]))
    return [(f"{label}, {function}", [*ours, "--attention", formula], theirs, {name: form for name, form in forms.items() if "bf16" in ours or not form[2]})
            for label, ours, theirs in models for function, (formula, forms) in FUNCTIONS.items()]


def attention_rows():
    """N, d, heads, batch: 768 columns, 16384 tokens."""
    return [(n, d, 768 // d, max(1, 16384 // n)) for d in (32, 64, 128) for n in (197, 512, 1024, 2048, 4096, 8192)]


ROWS = {"steps": step_rows, "attention": attention_rows}


def end(child):
    """Kills what is left of a program and of all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def run(command, limit, **variables):
    """The JSON objects that a command prints, with `variables` in its environment; none, and why on stderr, where it fails; those before, where
    it takes longer than `limit` seconds and is given up with all that it started (torch.compile's workers would disturb what is measured next)."""
    command = [str(c) for c in command]
    if limit < 10:
        print(f"{' '.join(command)}: left out, {max(0, limit):.0f} s are left (--within)", file=sys.stderr, flush=True)
        return []
    packed = pathlib.Path(command[0]).resolve().parent.parent / "lib"  # of scripts/gpu pack, which names cuBLAS too; not for PyTorch, which brings its own
    env = {**os.environ, **variables}
    if command[0] != sys.executable and packed.is_dir():
        env["LD_LIBRARY_PATH"] = f"{os.environ.get('NORMA_GPU_LIBRARIES', f'{packed}:{packed}/compiler')}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end(child)
        out, _ = child.communicate()
        print(f"{' '.join(command)}: given up after {limit:.0f} s", file=sys.stderr, flush=True)
    else:
        if child.returncode:
            print(f"{' '.join(command)} failed:\n{err[-2000:]}", file=sys.stderr, flush=True)
            return []
    finally:
        end(child)
    return [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]


def card():
    """What the results are of, and whether it has wgmma; ends the program where there is no device."""
    code = ("import torch\nif not torch.cuda.is_available(): raise SystemExit(3)\n"
            "print(torch.cuda.get_device_name(0), 'PyTorch ' + torch.__version__, f'cuDNN {torch.backends.cudnn.version()}', sep=', ')\n"
            "print(torch.cuda.get_device_capability(0))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 3:
        sys.exit("compare_torch.py --device cuda: PyTorch sees no CUDA device on this machine; scripts/gpu packs what a machine with one needs")
    if done.returncode:
        sys.exit(f"compare_torch.py --device cuda: {sys.executable} cannot import torch:\n{done.stderr}")
    name, capability = done.stdout.strip().splitlines()
    return name, capability == "(9, 0)"


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def measure_steps(a, rows):
    for number, (label, ours, theirs, forms) in enumerate(step_rows(), 1):
        if a.rows and number not in a.rows:
            continue
        row = rows.setdefault(label, {"norma": [], "forms": {}})
        programs = [(row, "norma", [a.programs / "norma_bench_step", "--json", "--device", "cuda", "--steps", 30, *ours], {})]
        for name, (score, more, variables) in forms.items():
            row["forms"].setdefault(name, [])
            if not (a.no_compile and "--compile" in more):
                command = [sys.executable, HERE / "torch_step.py", *theirs, "--device", "cuda", "--score", score, "--warmup", 10, "--steps", 30, *more]
                programs.append((row["forms"], name, command, variables))
        for turn in range(a.rounds):
            for place, name, command, variables in programs:
                found = run(command, a.time_left(a.limit), **variables)
                if found:  # what an earlier command measured stands until then
                    place[name] = found if turn == 0 else place[name] + found
                a.keep()
        print(steps_line(label, row), file=sys.stderr, flush=True)


def measure_attention(a, rows, has_wgmma):
    shapes = [s for number, s in enumerate(attention_rows(), 1) if not a.rows or number in a.rows]
    for _ in range(a.rounds):
        for n, d, heads, batch in shapes:
            row = rows.setdefault(f"{n}, {d}", {column: [] for column in COLUMNS})
            for products in ["mma", "wgmma"] if has_wgmma else ["mma"]:
                found = run([a.programs / "norma_bench_attention", "--json", "--device", "cuda", "--dtype", "bf16", "--n", n, "--d", d, "--heads", heads,
                             "--batch", batch, "--form", "quadratic"], a.time_left(a.limit), NORMA_CUDA_ATTENTION=products)
                for one in found:
                    row[("x3" if one["scoring"] == X3 else "softmax") + (" wgmma" if products == "wgmma" else "")].append(one)
                a.keep()
        for score, column, variables in (("sdpa", "sdpa", {}), ("sdpa", "own sdpa", OWN_SDPA), ("x3", "torch x3", {})):
            found = run([sys.executable, HERE / "torch_attention.py", "--device", "cuda", "--dtype", "bf16", "--score", score, "--shapes",
                         *(",".join(map(str, s)) for s in shapes)], a.time_left(2 * a.limit), **variables)
            for one in found:
                rows[f"{one['n']}, {one['d']}"][column].append(one)
            a.keep()
    for n, d, _, _ in shapes:
        print(attention_line(f"{n}, {d}", rows[f"{n}, {d}"]), file=sys.stderr, flush=True)


def whose(runs):
    """Whose fused attention ran, in brackets; nothing where that is not known."""
    kernels = " ".join(k for r in runs for k in r.get("attention_kernels", [])).lower()
    return next((f" ({word})" for part, word in (("cudnn", "cuDNN"), ("flash", "FlashAttention"), ("fmha", "memory-efficient")) if part in kernels), "")


def steps_line(label, row):
    ours = row["norma"]
    if not ours:
        return f"| {label} | no result | | | |"
    ms = median(ours, "median_ms")
    forms = {name: median(runs, "median_ms") for name, runs in row["forms"].items() if runs}
    cells = ", ".join(f"{name} {forms[name]:.2f}{whose(row['forms'][name])}" if name in forms else f"{name}: no result" for name in row["forms"])
    best = min(forms.values(), default=None)
    share = statistics.median(r["gflops"] / r["peak_gflops"] for r in ours)
    unwaited = f" ({median(ours, 'unwaited_ms'):.2f})" if ours[0]["replayed"] else " (op by op)"
    return (f"| {label} | {ms:.2f}{unwaited} | {100 * share:.0f} % | {cells} | {f'{ms / best:.2f}' if best else ''} | "
            f"{max(r['peak_mib'] for r in ours):.0f}, {min((r['peak_mib'] for runs in row['forms'].values() for r in runs), default=0):.0f} |")


def both_ms(runs):
    """forward + backward of each, and their sum; None where there is nothing."""
    runs = [r for r in runs if "forward_ms" in r]
    if not runs:
        return None
    f, b = median(runs, "forward_ms"), median(runs, "backward_ms")
    return f"{f:.3f} + {b:.3f}", f + b


def attention_line(label, row):
    cells = {column: both_ms(row[column]) for column in COLUMNS}
    text = {c: v[0] if v else "out of memory" if any("out_of_memory" in r for r in row[c]) else "no result" for c, v in cells.items()}
    watched = f"{median(row['x3'], 'forward_stats_percent'):+.1f} %, {median(row['x3'], 'backward_stats_percent'):+.1f} %" if cells["x3"] else ""
    peers = [cells[c][1] for c in ("sdpa", "own sdpa") if cells[c]]
    ratio = f"{cells['x3'][1] / min(peers):.2f}" if cells["x3"] and peers else ""
    rates = f"{median(row['x3'], 'forward_gflops') / 1e3:.0f}, {median(row['x3'], 'backward_gflops') / 1e3:.0f}" if cells["x3"] else ""
    return f"| {label} | {text['x3']} | {rates} | {watched} | {text['softmax']} | {text['x3 wgmma']} | {text['softmax wgmma']} | {text['sdpa']}{whose(row['sdpa'])} | {text['own sdpa']}{whose(row['own sdpa'])} | {text['torch x3']} | {ratio} |"


TABLES = {
    "cuda-steps": ["| training step | Norma ms (unwaited) | share of a large product's rate | PyTorch ms | ratio to its fastest | MiB of the device: Norma, PyTorch |", "|---|---|---|---|---|---|"],
    "cuda-attention": ["| N, d | Norma x³/√N: ms forward + backward | TFLOP/s | what the statistics add | Norma softmax | x³/√N on wgmma | softmax on wgmma | PyTorch's fused softmax | that without cuDNN | PyTorch x³, eager | x³ to the faster fused softmax |",
                       "|---|---|---|---|---|---|---|---|---|---|---|"],
}


def tables(results):
    """The lines of each table that has rows, in the order of the lists above."""
    found = {}
    steps = [steps_line(label, results["steps"][label]) for label, *_ in step_rows() if label in results["steps"]]
    attention = [attention_line(f"{n}, {d}", results["attention"][f"{n}, {d}"]) for n, d, _, _ in attention_rows() if f"{n}, {d}" in results["attention"]]
    for part, lines in (("cuda-steps", steps), ("cuda-attention", attention)):
        if lines:
            found[part] = [f"`bench/compare_torch.py --device cuda`: {results['card']}.", "", *TABLES[part], *lines]
    return found


def load(path):
    return json.loads(path.read_text()) if path and path.exists() else {"card": "", "steps": {}, "attention": {}}


def merged(paths):
    """The results of several files of one kind of card: all rows; a step's of the last file that has it, attention's runs together."""
    found = load(None)
    for path in paths:
        if not path.exists():
            sys.exit(f"compare_torch.py --merge: there is no {path}")
        one = load(path)
        if found["card"] not in ("", one["card"]):
            sys.exit(f"compare_torch.py --merge: {path} holds results of {one['card']}, those before are of {found['card']}")
        found["card"] = one["card"]
        found["steps"].update(one["steps"])
        for label, columns in one["attention"].items():
            row = found["attention"].setdefault(label, {column: [] for column in COLUMNS})
            for column, runs in columns.items():
                row[column] += runs
    return found


def main(a, write):
    """Measures what `a` asks for; write(part, lines) puts a table into the page."""
    if a.merge:
        for part, lines in tables(merged(a.merge)).items():
            write(part, lines)
        return
    end_by = time.monotonic() + a.within
    a.time_left = lambda limit: min(limit, end_by - time.monotonic())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # from timeout: what is being measured ends too
    here, has_wgmma = card()
    for program in ("norma_bench_step", "norma_bench_attention"):
        if not (a.programs / program).exists():
            sys.exit(f"compare_torch.py: {a.programs / program} is not there; build it, or name its folder with --programs")
    results = load(a.results)
    if results["card"] not in ("", here):
        sys.exit(f"compare_torch.py: {a.results} holds results of {results['card']}, and this is {here}: take another file")
    results["card"] = here
    a.keep = lambda: a.results and a.results.write_text(json.dumps(results, indent=1))
    if "steps" in a.only:
        measure_steps(a, results["steps"])
    if "attention" in a.only:
        measure_attention(a, results["attention"], has_wgmma)
    for part, lines in tables(results).items():
        print("\n".join(["", *lines]))
