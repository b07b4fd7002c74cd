#!/usr/bin/env python3
"""Times PyTorch's attention alone, forward and backward, on q, k, v [B, H, N, d]. Prints one JSON object with the best times in milliseconds.

  torch_attention.py --n 256 --d 64 --heads 6 --batch 8 --score sdpa|softmax|x3 [--causal] [--compile] [--threads 2] [--dtype f32|bf16]

GFLOP/s are counted as 4 N^2 d a head forward and 10 N^2 d backward (recomputing the scores), halved for a causal mask.
"""
import argparse
import json
import math
import time

import torch
import torch.nn.functional as F


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
    p.add_argument("--repeats", type=int, default=15)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    dtype = torch.float32 if a.dtype == "f32" else torch.bfloat16
    q, k, v, g = (torch.randn(a.batch, a.heads, a.n, a.d, dtype=dtype) for _ in range(4))
    for t in (q, k, v):
        t.requires_grad_()
    mask = torch.ones(a.n, a.n, dtype=torch.bool).tril()

    def attention(q, k, v):
        if a.score == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, is_causal=a.causal)
        s = q @ k.transpose(-2, -1) * (1 / math.sqrt(a.d))
        if a.score == "softmax":
            return (s.masked_fill(~mask, float("-inf")) if a.causal else s).softmax(-1) @ v
        w = s * s * s * (1 / math.sqrt(a.n))
        return (w * mask if a.causal else w) @ v

    run = torch.compile(attention) if a.compile else attention
    forward, backward = [], []
    for i in range(a.repeats + 3):
        start = time.perf_counter()
        y = run(q, k, v)
        middle = time.perf_counter()
        torch.autograd.grad(y, (q, k, v), g)
        end = time.perf_counter()
        if i >= 3:
            forward.append(1e3 * (middle - start))
            backward.append(1e3 * (end - middle))
    f, b = min(forward), min(backward)  # the best, as norma_bench_attention takes it
    work = a.batch * a.heads * a.n ** 2 * a.d / (2 if a.causal else 1)
    print(json.dumps(dict(n=a.n, d=a.d, score=a.score, compile=a.compile, causal=a.causal, forward_ms=round(f, 3), backward_ms=round(b, 3),
                          gflops_forward=round(4 * work / f / 1e6, 1), gflops_backward=round(10 * work / b / 1e6, 1), torch=torch.__version__)))


if __name__ == "__main__":
    main()
