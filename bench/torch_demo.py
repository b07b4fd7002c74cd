#!/usr/bin/env python3
"""scripts/demo's training in PyTorch: the same model, data, batch size, schedule (but for its first step)
and evaluation after every epoch; the order of the images is PyTorch's own.

Prints one JSON object: the test accuracy after each epoch, and the seconds from the start of the process until then.
  torch_demo.py --score softmax|x3|sdpa [--compile] [--epochs 3] [--threads 2] [--dtype f32|bf16] [--data /usr/share/datasets/fashion-mnist]
"""
import time

STARTED = time.perf_counter()
import argparse
import gzip
import json
import math
import pathlib

import torch
import torch.nn as nn
import torch.nn.functional as F

from torch_step import Block


class ViT(nn.Module):  # 64/3/2, patch 4, mean pooling
    def __init__(self, score):
        super().__init__()
        width, std = 64, 0.02 * math.sqrt(768 / 64)
        self.patch = nn.Conv2d(1, width, 4, 4)
        self.pos = nn.Parameter(torch.zeros(1, 49, width))
        self.blocks = nn.Sequential(*[Block(width, 2, score, False, 0.0, 49) for _ in range(3)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                of = 0.02 if name == "pos" else std  # positions do not follow the width: models/vit.cpp
                nn.init.trunc_normal_(p, std=of)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        return self.head(self.norm(self.blocks(x)).mean(1))


def read(folder, name, header):
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            data = path.read_bytes()
            return torch.frombuffer(bytearray(gzip.decompress(data) if path.suffix == ".gz" else data), dtype=torch.uint8)[header:]
    raise SystemExit(f"{folder}: no {name}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--score", default="softmax")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    p.add_argument("--data", type=pathlib.Path, default=pathlib.Path("/usr/share/datasets/fashion-mnist"))
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    train, test = (read(a.data, f"{s}-images-idx3-ubyte", 16).view(-1, 1, 28, 28).float() / 255 for s in ("train", "t10k"))
    labels, test_labels = (read(a.data, f"{s}-labels-idx1-ubyte", 8).long() for s in ("train", "t10k"))
    mean, std = train.mean(), train.std()
    train, test = (train - mean) / std, (test - mean) / std
    model = ViT(a.score)
    run = torch.compile(model) if a.compile else model
    decayed = [p for n, p in model.named_parameters() if p.dim() > 1 and n != "pos"]
    rest = [p for n, p in model.named_parameters() if p.dim() <= 1 or n == "pos"]
    opt = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=2e-3, fused=True)
    batch, per_epoch = 64, len(train) // 64
    total, warm, step = a.epochs * per_epoch, per_epoch // 2, 0
    epochs = []
    for _ in range(a.epochs):
        order = torch.randperm(len(train))
        for i in range(per_epoch):
            lr = 2e-3 * (step + 1) / warm if step < warm else 1e-6 + (2e-3 - 1e-6) * (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2
            for g in opt.param_groups:
                g["lr"] = lr
            rows = order[i * batch:(i + 1) * batch]
            with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bf16"):
                loss = F.cross_entropy(run(train[rows]), labels[rows])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            opt.zero_grad(set_to_none=True)
            step += 1
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bf16"):
            right = sum((model(test[i:i + 256]).argmax(1) == test_labels[i:i + 256]).sum().item() for i in range(0, len(test), 256))
        epochs.append({"accuracy": right / len(test), "seconds": round(time.perf_counter() - STARTED, 2)})
    print(json.dumps(dict(score=a.score, compile=a.compile, dtype=a.dtype, epochs=epochs, torch=torch.__version__)))


if __name__ == "__main__":
    main()
