#!/usr/bin/env python3
"""Fails when a file includes from a room its own may not know, outgrows its room, or adds numbers in an order that chance decides.

    check_layers.py [root]        (run by ctest as `layers`)
"""
import pathlib
import re
import sys

CORE = {"core"}
AUTOGRAD = CORE | {"autograd"}
NN = AUTOGRAD | {"nn"}
TRAIN = NN | {"models", "datasets", "inspect", "train"}
MAY = {  # room -> the rooms its files may include
    "core": CORE, "backends": CORE | {"backends"}, "autograd": AUTOGRAD, "nn": NN, "models": NN | {"models"},
    "datasets": CORE | {"datasets"}, "inspect": NN | {"inspect"}, "train": TRAIN,
    "checks": AUTOGRAD | {"checks"}, "apps": TRAIN | {"apps", "backends", "bench", "checks"}, "bench": TRAIN | {"bench", "backends", "checks"},
    "tests": TRAIN | {"tests", "backends", "apps", "bench", "checks"},
}
SIBLINGS = {"backends": "common"}  # backends/cpu, cuda and reference see only backends/common beside themselves
ONLY_IN = {r"cblas\.h|openblas": "backends/cpu/gemm_openblas.cpp", r"tbb/": "backends/cpu/parallel.cpp",
           r"cublas(_v2)?\.h": ("backends/cuda/blas_cuda.cpp", "tests/cuda/plain_cublas/cublas.cpp"),
           r"cublasLt": ("backends/cuda/blaslt_cuda.cpp", "tests/cuda/plain_cublas/cublaslt.cpp"), r"ucontext|setjmp": "backends/cuda/emulator/emulator.cpp",
           r"microhttpd": "apps/live_server.cpp"}
# What would make sums depend on who comes first: the files that may have it, and a line that shows it.
UNORDERED = [
    (r"\batomic[A-Z]\w*\s*\(|\b__nv_atomic\w*|\bcuda::(std::)?atomic|[\"\s](red|atom)(\.\w+)+", {"backends/cuda/device.h"},
     ("  atomicAdd(sum, x);", '  asm("red.global.add.f32 [%0], %1;" :: "l"(sum), "f"(x));', "  atomicAdd_block(sum, x);", "  cuda::atomic_ref<float> sum(x);")),
    (r"\batomic\w*\s*\([^)]*\b(float|double|half|bf16|T)\b|\batomic(_ref)?<\s*(float|double|bf16|T|C)\b", set(),
     ("NORMA_DEVICE void atomic_add(float* at, float x) { atomicAdd(at, x); }", "std::atomic<double> sum;", "std::atomic_ref<float>(sum) += x;")),
    (r"\bparallel_reduce\b|\bstd::execution::|#\s*pragma\s+omp\b", set(), ("tbb::parallel_reduce(range, 0.0f, add, join);", "std::reduce(std::execution::par, a, b);")),
]
LIMIT = {".h": 300, ".cpp": 500, ".cu": 500}
WIDTH = 160  # of a line; tests hold tables of cases, wider ones among them

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
bad = []
if empty := [room for room in MAY if not (root / room).is_dir()]:
    sys.exit(f"{root}: is not the root of these sources, or a room is gone: {', '.join(empty)}")
bad += [f"{folder.name}/: holds sources and is in no room; name it in {pathlib.Path(__file__).name}" for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name not in MAY and folder.name not in ("build", "docs", "scripts", "cmake", "recipes") and not folder.name.startswith(".")
        and any(folder.rglob("*.cpp"))]
for pattern, _, lines in UNORDERED:
    bad += [f"{pathlib.Path(__file__).name}: does not find what it is to find: {line}" for line in lines if not re.search(pattern, line)]
files = [f for room in MAY for f in sorted((root / room).rglob("*")) if f.suffix in LIMIT]
for f in files:
    rel = f.relative_to(root)
    room, lines = rel.parts[0], f.read_text().splitlines()
    if len(lines) > LIMIT[f.suffix]:
        bad.append(f"{rel}: {len(lines)} lines, its room holds {LIMIT[f.suffix]}: split it by what it is about")
    for n, line in enumerate(lines, 1):
        if len(line) > WIDTH and room != "tests":
            bad.append(f"{rel}:{n}: {len(line)} characters, a line holds {WIDTH}")
        code = line.split("//")[0]
        bad += [f"{rel}:{n}: {m[0].strip()}: sums have one order here; {'only ' + ' and '.join(may) + ' may have it' if may else 'nothing may have it'}"
                for pattern, may, _ in UNORDERED if str(rel) not in may and (m := re.search(pattern, code))]
        if m := re.match(r"\s*#\s*include\s+<([^>]+)>", line):
            bad += [f"{rel}:{n}: only {' and '.join([only] if isinstance(only, str) else only)} may include <{m[1]}>" for what, only in ONLY_IN.items()
                    if re.search(what, m[1]) and str(rel) not in ([only] if isinstance(only, str) else only)]
        if not (m := re.match(r'\s*#\s*include\s+"([^"]+)"', line)):
            continue
        parts = m[1].split("/")
        if parts[0] not in MAY:
            bad.append(f'{rel}:{n}: include "{m[1]}" is not from the root; write the room')
        elif parts[0] not in MAY[room]:
            bad.append(f"{rel}:{n}: {room}/ may not know {parts[0]}/ (it may know: {', '.join(sorted(MAY[room]))})")
        elif room == parts[0] and room in SIBLINGS and len(rel.parts) > 2 and len(parts) > 2 \
                and parts[1] not in (SIBLINGS[room], rel.parts[1]):
            bad.append(f"{rel}:{n}: {room}/{rel.parts[1]} may not know {room}/{parts[1]}")
print("\n".join(bad) or f"layers ok: {len(files)} files")
sys.exit(bool(bad))
