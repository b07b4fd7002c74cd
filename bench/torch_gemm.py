#!/usr/bin/env python3
"""Times PyTorch's products at the shapes of `norma bench gemm`: the layer y[rows, out] = x[rows, in] w[out, in]^T + bias, with GELU, and
its gradients. Prints one JSON object with a row for each, GFLOP/s, the best of several runs. In bf16 weights and biases are bf16 before the
clock starts.

  torch_gemm.py --shapes 4160,576,192 4160,192,192 [--threads 2] [--dtype f32|bf16]
"""
import argparse
import json
import time

import torch
import torch.nn.functional as F


def best(work):
    work()
    least, total, count = 1e9, 0.0, 0
    while count < 4 or (total < 0.2 and count < 400):
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        least, total, count = min(least, seconds), total + seconds, count + 1
    return least


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shapes", nargs="+", required=True, help="rows,out,in")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    rows = []
    with torch.no_grad():
        for shape in a.shapes:
            m, n, k = map(int, shape.split(","))
            x, w, dy, bias = torch.randn(m, k), torch.randn(n, k) / k ** 0.5, torch.randn(m, n), torch.randn(n)
            if a.dtype == "bf16":
                x, w, dy, bias = (t.bfloat16() for t in (x, w, dy, bias))
            works = {"Y=XW'": lambda: F.linear(x, w, bias), "Y=gelu": lambda: F.gelu(F.linear(x, w, bias)),
                     "dX=dYW": lambda: dy @ w, "dW=dY'X": lambda: (dy.t() @ x, dy.sum(0))}
            rows += [{"product": name, "rows": m, "out": n, "in": k, "gflops": 2e-9 * m * n * k / best(work)} for name, work in works.items()]
    print(json.dumps({"threads": a.threads, "rows": rows, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
