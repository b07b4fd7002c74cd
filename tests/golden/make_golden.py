#!/usr/bin/env python3
"""Makes vit_softmax.safetensors and vit_x3.safetensors: a small Vision Transformer computed by PyTorch in float64.

    python3 make_golden.py            # writes beside itself; needs torch and safetensors

Plain tensor code on purpose: it shares nothing with the engine but the formulas. Each file holds
    images, targets         one batch
    init/NAME               initial parameters, in float32 so that both precisions start from the same numbers
    logits, loss, grad/NAME of the first step
    after/NAME              parameters after 10 AdamW steps on this batch (lr 1e-3, weight decay 0.05 on matrices)
    loss/after              the loss then
It also prints how far a float32 run lies from the float64 run, per file: what rounding alone does.
"""
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

IMAGE, PATCH, CHANNELS, WIDTH, HEADS, DEPTH, CLASSES, BATCH = 8, 4, 3, 16, 2, 2, 5, 3
TOKENS = (IMAGE // PATCH) ** 2 + 1


def initial_parameters():
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, TOKENS, WIDTH),
        "patch_embed.proj.weight": (WIDTH, CHANNELS, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (CLASSES, WIDTH),
        "head.bias": (CLASSES,),
    }
    for i in range(DEPTH):
        block = f"blocks.{i}."
        shapes |= {
            block + "norm1.weight": (WIDTH,),
            block + "norm1.bias": (WIDTH,),
            block + "attn.qkv.weight": (3 * WIDTH, WIDTH),
            block + "attn.qkv.bias": (3 * WIDTH,),
            block + "attn.proj.weight": (WIDTH, WIDTH),
            block + "attn.proj.bias": (WIDTH,),
            block + "norm2.weight": (WIDTH,),
            block + "norm2.bias": (WIDTH,),
            block + "mlp.fc1.weight": (4 * WIDTH, WIDTH),
            block + "mlp.fc1.bias": (4 * WIDTH,),
            block + "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
            block + "mlp.fc2.bias": (WIDTH,),
        }
    # Large enough that the cube of a score, and with it every gradient, matters; norms lie around 1.
    values = {}
    for name, shape in shapes.items():
        is_gain = "norm" in name and name.endswith("weight")
        values[name] = (0.2 * torch.randn(shape) + (1 if is_gain else 0)).float()
    return values


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6) * weight + bias


def attention(x, p, block, phi):
    batch, tokens, width = x.shape
    d = width // HEADS
    qkv = x @ p[block + "attn.qkv.weight"].T + p[block + "attn.qkv.bias"]
    heads = []
    for h in range(HEADS):
        q, k, v = (qkv[..., part * width + h * d : part * width + (h + 1) * d] for part in range(3))
        heads.append(phi(q @ k.transpose(1, 2) / math.sqrt(d)) @ v)
    return torch.cat(heads, -1) @ p[block + "attn.proj.weight"].T + p[block + "attn.proj.bias"]


def mlp(x, p, block):
    h = x @ p[block + "mlp.fc1.weight"].T + p[block + "mlp.fc1.bias"]
    h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
    return h @ p[block + "mlp.fc2.weight"].T + p[block + "mlp.fc2.bias"]


def model(p, images, phi):
    x = torch.nn.functional.conv2d(images, p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([p["cls_token"].expand(len(x), -1, -1), x], 1) + p["pos_embed"]
    for i in range(DEPTH):
        block = f"blocks.{i}."
        x = x + attention(layer_norm(x, p[block + "norm1.weight"], p[block + "norm1.bias"]), p, block, phi)
        x = x + mlp(layer_norm(x, p[block + "norm2.weight"], p[block + "norm2.bias"]), p, block)
    x = layer_norm(x, p["norm.weight"], p["norm.bias"])
    return x[:, 0] @ p["head.weight"].T + p["head.bias"]


def cross_entropy(logits, targets):
    return (torch.logsumexp(logits, -1) - logits[torch.arange(len(targets)), targets]).mean()


def run(initial, images, targets, phi, dtype):
    p = {name: value.to(dtype, copy=True).requires_grad_() for name, value in initial.items()}
    images = images.to(dtype)
    free = {n for n, v in p.items() if v.dim() == 1 or n in ("cls_token", "pos_embed")}
    optimizer = torch.optim.AdamW(
        [
            {"params": [v for n, v in p.items() if n not in free], "weight_decay": 0.05},
            {"params": [v for n, v in p.items() if n in free], "weight_decay": 0.0},
        ],
        lr=1e-3,
    )
    out = {}
    for step in range(10):
        optimizer.zero_grad()
        logits = model(p, images, phi)
        loss = cross_entropy(logits, targets)
        loss.backward()
        if step == 0:
            out["logits"], out["loss"] = logits.detach().clone(), loss.detach().clone()
            out |= {"grad/" + name: value.grad.clone() for name, value in p.items()}
        optimizer.step()
    out |= {"after/" + name: value.detach().clone() for name, value in p.items()}
    out["loss/after"] = cross_entropy(model(p, images, phi), targets).detach()
    return out


def main():
    torch.set_num_threads(1)
    scorings = {
        "vit_softmax": ("softmax", lambda s: torch.exp(s) / torch.exp(s).sum(-1, keepdim=True)),
        "vit_x3": ("x^3/sqrt(N)", lambda s: s**3 / math.sqrt(TOKENS)),
    }
    for file, (text, phi) in scorings.items():
        torch.manual_seed(1)
        initial = initial_parameters()
        images = torch.randn(BATCH, CHANNELS, IMAGE, IMAGE).float()
        targets = torch.randint(CLASSES, (BATCH,))
        exact = run(initial, images, targets, phi, torch.float64)
        single = run(initial, images, targets, phi, torch.float32)
        error = {n: float((single[n] - v).norm() / v.norm()) for n, v in exact.items()}
        worst = max(error, key=error.get)
        print(f"{file}: {len(exact)} tensors, float32 differs by at most {error[worst]:.1e} ({worst})")
        tensors = exact | {"images": images, "targets": targets} | {"init/" + n: v for n, v in initial.items()}
        tensors = {n: v.contiguous() for n, v in tensors.items()}
        save_file(tensors, Path(__file__).parent / f"{file}.safetensors", {"attention": text, "torch": torch.__version__})


if __name__ == "__main__":
    main()
