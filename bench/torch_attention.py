#!/usr/bin/env python3
"""Times PyTorch's attention alone, forward and backward, on q, k, v [B, H, N, d]. Prints one JSON object with the best times in milliseconds.

  torch_attention.py --n 256 --d 64 --heads 6 --batch 8 --score sdpa|softmax|x3 [--causal] [--compile] [--threads 2] [--dtype f32|bf16]
  torch_attention.py --device cuda --shapes 197,64,12,83 8192,128,6,2 ...     N, d, heads, batch: one object each

On a GPU the times are medians over groups of calls that the device makes without waiting for the host (CUDA graphs); what runs out of
its memory is told as "out_of_memory".

GFLOP/s are counted as 4 N^2 d a head forward and 10 N^2 d backward (recomputing the scores), halved for a causal mask.
"""
import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F


def graph_ms(work, seconds=0.3):
    """Milliseconds of one call of `work`, by replays of a graph of several."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    calls = max(1, min(50, int(4 / max(begin.elapsed_time(end), 1e-3))))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            work()
    times = []
    while len(times) < 4 or (sum(times) < 1e3 * seconds and len(times) < 1000):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[1:]) / calls


def kernels_of_attention(work):
    """The names of the kernels of fused attention that the device runs in a call of `work`, those with the most time first: PyTorch chooses between
    its own and cuDNN's by the card, the version and the shape. Empty where the profiler sees none."""
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            work()
            torch.cuda.synchronize()
        events = sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total)
    except (RuntimeError, AssertionError) as e:  # not every machine lets a program look on
        print(f"torch.profiler: {e}", file=sys.stderr)
        return []
    return [e.key[:160] for e in events if any(word in e.key.lower() for word in ("sdpa", "flash", "fmha", "attention"))]


def on_device(a, shapes):
    if not torch.cuda.is_available():
        raise SystemExit("torch_attention.py --device cuda: PyTorch sees no CUDA device on this machine")
    dtype = torch.float32 if a.dtype == "f32" else torch.bfloat16
    for n, d, heads, batch in shapes:
        row = dict(n=n, d=d, heads=heads, batch=batch, score=a.score, dtype=a.dtype, compile=a.compile, causal=a.causal, torch=torch.__version__,
                   cudnn=torch.backends.cudnn.version())
        try:
            torch.manual_seed(0)
            q, k, v, g = (torch.randn(batch, heads, n, d, dtype=dtype, device=a.device) for _ in range(4))
            for t in (q, k, v):
                t.requires_grad_()
            run = attention_of(a, n, d, torch.ones(n, n, dtype=torch.bool, device=a.device).tril() if a.causal else None)
            if a.compile:  # the graphs are made here
                run = torch.compile(run, mode="max-autotune-no-cudagraphs")
            forward = graph_ms(lambda: run(q, k, v))
            work = lambda: torch.autograd.grad(run(q, k, v), (q, k, v), g)
            both = graph_ms(work)
            row.update(forward_ms=round(forward, 5), backward_ms=round(both - forward, 5))
            if a.score == "sdpa":
                row["attention_kernels"] = kernels_of_attention(work)
        except torch.cuda.OutOfMemoryError:
            row["out_of_memory"] = True
        q = k = v = g = run = work = None
        torch.cuda.empty_cache()
        print(json.dumps(row), flush=True)


def attention_of(a, n, d, mask):
    """The function of q, k, v that is timed."""
    def attention(q, k, v):
        if a.score == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, is_causal=a.causal)
        s = q @ k.transpose(-2, -1) * (1 / math.sqrt(d))
        if a.score == "softmax":
            return (s.masked_fill(~mask, float("-inf")) if a.causal else s).softmax(-1) @ v
        w = s * s * s * (1 / math.sqrt(n))
        return (w * mask if a.causal else w) @ v

    return attention


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--n", type=int, default=256)
    p.add_argument("--d", type=int, default=64)
    p.add_argument("--heads", type=int, default=6)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--score", default="sdpa")
    p.add_argument("--causal", action="store_true")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    p.add_argument("--device", default="cpu")
    p.add_argument("--shapes", nargs="+", help="cuda: N,d,heads,batch of each row, instead of the four flags")
    a = p.parse_args()
    if a.device != "cpu":
        shapes = [tuple(map(int, s.split(","))) for s in a.shapes] if a.shapes else [(a.n, a.d, a.heads, a.batch)]
        return on_device(a, shapes)
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    dtype = torch.float32 if a.dtype == "f32" else torch.bfloat16
    q, k, v, g = (torch.randn(a.batch, a.heads, a.n, a.d, dtype=dtype) for _ in range(4))
    for t in (q, k, v):
        t.requires_grad_()
    attention = attention_of(a, a.n, a.d, torch.ones(a.n, a.n, dtype=torch.bool).tril())
    run = torch.compile(attention) if a.compile else attention
    forward, backward = [], []
    warm, begun = 3, 0
    while len(forward) < 4 or (time.perf_counter() - begun < 0.2 and len(forward) < 400):  # as norma_bench_attention
        start = time.perf_counter()
        y = run(q, k, v)
        middle = time.perf_counter()
        torch.autograd.grad(y, (q, k, v), g)
        end = time.perf_counter()
        if warm:
            warm, begun = warm - 1, end
            continue
        forward.append(1e3 * (middle - start))
        backward.append(1e3 * (end - middle))
    f, b = min(forward), min(backward)  # the best, as norma_bench_attention takes it
    work = a.batch * a.heads * a.n ** 2 * a.d / (2 if a.causal else 1)
    print(json.dumps(dict(n=a.n, d=a.d, score=a.score, compile=a.compile, causal=a.causal, forward_ms=round(f, 3), backward_ms=round(b, 3),
                          gflops_forward=round(4 * work / f / 1e6, 1), gflops_backward=round(10 * work / b / 1e6, 1), torch=torch.__version__)))


if __name__ == "__main__":
    main()
