#!/usr/bin/env python3
"""Times PyTorch's training step with second derivatives, of the model and loss of bench/equation.cpp. Prints one JSON object.

  torch_equation.py --points 64 --score x3|softmax [--dtype f64|f32] [--threads 2] [--compile]

Attention is written out: its fused attention has no second derivatives on a CPU. --compile tries torch.compile, which has none either
(PyTorch 2.15 ends with an error).
"""
import argparse
import json
import math
import resource
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Solution(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.a = a
        self.embed = nn.Linear(2, a.width)
        self.qkv, self.proj = nn.Linear(a.width, 3 * a.width), nn.Linear(a.width, a.width)
        self.fc1, self.fc2 = nn.Linear(a.width, 2 * a.width), nn.Linear(2 * a.width, a.width)
        self.head = nn.Linear(a.width, 1)

    def attention(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.a.heads, C // self.a.heads).permute(2, 0, 3, 1, 4)
        s = q @ k.transpose(-2, -1) * (1 / math.sqrt(C // self.a.heads))
        w = s.softmax(-1) if self.a.score == "softmax" else s * s * s * (1 / math.sqrt(N))
        return self.proj((w @ v).transpose(1, 2).reshape(B, N, C))

    def forward(self, x, t):
        y = self.embed(torch.stack([torch.cat([x, t + 0.05 * j], 1) for j in range(self.a.tokens)], 1))
        y = y + self.attention(torch.sin(y))
        y = y + self.fc2(F.gelu(self.fc1(torch.sin(y))))
        return self.head(y[:, 0])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--score", default="x3", choices=["softmax", "x3"])
    p.add_argument("--dtype", default="f64", choices=["f64", "f32"])
    p.add_argument("--points", type=int, default=64)
    p.add_argument("--width", type=int, default=32)
    p.add_argument("--heads", type=int, default=2)
    p.add_argument("--tokens", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--warmup", type=int, default=3)
    p.add_argument("--compile", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.set_default_dtype(torch.float64 if a.dtype == "f64" else torch.float32)
    torch.manual_seed(0)
    u = Solution(a)
    opt = torch.optim.AdamW(u.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    call = torch.compile(u) if a.compile else u

    def loss_of():
        x, t = torch.rand(a.points, 1, requires_grad=True), torch.rand(a.points, 1, requires_grad=True)
        u_x, u_t = torch.autograd.grad(call(x, t).sum(), (x, t), create_graph=True)
        u_xx, = torch.autograd.grad(u_x.sum(), x, create_graph=True)
        start, end = torch.rand(a.points, 1), torch.rand(a.points, 1)
        at_first = call(start, torch.zeros_like(start)) - torch.sin(math.pi * start)
        at_side = call(torch.zeros_like(end), end)
        return (u_t - 0.1 * u_xx).square().mean() + 10 * at_first.square().mean() + 10 * at_side.square().mean()

    times = []
    for i in range(a.warmup + a.steps):
        start = time.perf_counter()
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(u.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        if i >= a.warmup:
            times.append(time.perf_counter() - start)
    print(json.dumps(dict(score=a.score, dtype=a.dtype, points=a.points, threads=a.threads, median_ms=round(statistics.median(times) * 1e3, 3),
                          min_ms=round(min(times) * 1e3, 3), peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), torch=torch.__version__)))


if __name__ == "__main__":
    main()
