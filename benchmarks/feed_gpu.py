"""Measurements on a GPU, for benchmarks/feed.py: waiting for data in training, copies to the GPU, decoding on it.

    python benchmarks/feed_gpu.py [JPEG RAW] [--steps 100]

JPEG and RAW are datasets of this project. It prints JSON: rows of two texts, or the reason why nothing is measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

from read_ours import BATCH, SIZE, transforms

NAMES: dict[str, str] = {"inputs": "image", "targets": "label"}
WARM_UP = 20


def batches(dataset: str, task: str) -> Any:
    """Batches on the GPU, made by a thread for each CPU."""
    from shard_reader import open_dataset
    from shard_reader.torch import StreamDataset

    data = open_dataset(dataset, split="train")
    return StreamDataset(data.stream(batch_size=BATCH, seed=0, image=transforms(task)), **NAMES, device="cuda")


def endless(data: Any) -> Iterator[Any]:
    """One epoch after the other."""
    return itertools.chain.from_iterable(itertools.repeat(data))


def training(dataset: str, task: str, steps: int) -> str:
    """The share of ResNet-50's steps in which the GPU waits for the next batch, by the GPU's own clock.

    A wait lasts from the end of a step's work to the moment at which the next batch has been copied. It is the rest of
    the copy if the process is ahead of the GPU, and otherwise the time until it has a batch as well.
    """
    import torch
    import torchvision
    from torch import nn

    from shard_reader import open_dataset
    from shard_reader.torch import normalization

    torch.backends.cudnn.benchmark = True
    normalize = normalization(open_dataset(dataset, split="train"))
    model = nn.Sequential(normalize, torchvision.models.resnet50()).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    moments: list[tuple[Any, Any]] = []
    data = batches(dataset, task)
    before = data.stats()
    for number, (images, labels, weight) in enumerate(itertools.islice(endless(data), WARM_UP + steps)):
        if number == WARM_UP:
            before = data.stats()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        with torch.autocast("cuda", torch.bfloat16):
            losses = nn.functional.cross_entropy(model(images), labels, reduction="none")
        optimizer.zero_grad(set_to_none=True)
        ((losses * weight).sum() / weight.sum()).backward()
        optimizer.step()
        end.record()
        moments.append((begin, end))
    counted = (data.stats() - before).waited
    torch.cuda.synchronize()
    moments = moments[WARM_UP:]
    total = moments[0][1].elapsed_time(moments[-1][1])
    waited = sum(one[1].elapsed_time(other[0]) for one, other in itertools.pairwise(moments))
    rate = (len(moments) - 1) * BATCH / total * 1000
    step = f"{waited / total:.1%} of {total / (len(moments) - 1):.0f} ms a step, {rate:,.0f} images/s"
    return f"{step}; `stream.stats()` counts {counted:.1%}"


def copies(dataset: str, steps: int) -> str:
    """Bytes of raw images that arrive on the GPU in a second, and of one pinned batch that is copied time and again."""
    import torch

    loop = endless(batches(dataset, "raw"))
    for _ in range(WARM_UP):
        images = next(loop)[0]
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        images = next(loop)[0]
    torch.cuda.synchronize()
    arriving = steps * images.nbytes / (time.perf_counter() - began)
    pinned, target = images.cpu().pin_memory(), torch.empty_like(images)
    target.copy_(pinned, non_blocking=True)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        target.copy_(pinned, non_blocking=True)
    torch.cuda.synchronize()
    alone = steps * images.nbytes / (time.perf_counter() - began)
    return f"{arriving / 1e9:.1f} GB/s arrive; the copy alone: {alone / 1e9:.1f} GB/s"


def decoded(batch: dict[str, Any], device: str) -> Any:
    """Those of a stream with `decode=False`, decoded, cropped and mirrored on a device: `[n, channels, SIZE, SIZE]`."""
    import torch
    from torchvision.io import decode_jpeg
    from torchvision.transforms.v2 import functional

    payloads = [torch.frombuffer(bytearray(payload), dtype=torch.uint8) for payload in batch["image"]]
    boxes = batch["image/box"].tolist()
    whole = decode_jpeg(payloads, device=device)
    images = torch.stack(
        [functional.resized_crop(image, *box, size=[SIZE, SIZE]) for image, box in zip(whole, boxes, strict=True)]
    )
    flips = torch.from_numpy(batch["image/flip"]).to(device)
    return torch.where(flips[:, None, None, None], images.flip(3), images)


def decoding(dataset: str, steps: int) -> str:
    """Images a second that the GPU decodes, crops and mirrors as the stream draws, against those of the CPUs.

    The first ones are handed over as they are stored, `decode=False`.
    """
    import torch

    from shard_reader import open_dataset

    data = open_dataset(dataset, split="train")
    stored = endless(data.stream(batch_size=BATCH, seed=0, image=transforms("rrc"), decode=False))
    ours = endless(batches(dataset, "rrc"))
    rates = []
    for step in (lambda: decoded(next(stored), "cuda"), lambda: next(ours)):
        for _ in range(WARM_UP):
            step()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        rates.append(steps * BATCH / (time.perf_counter() - began))
    return f"{rates[0]:,.0f} images/s; ours, decoded and cropped on the CPUs, and copied: {rates[1]:,.0f}"


def main() -> None:
    """Measure all rows for which there is data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jpeg", nargs="?", help="our dataset of JPEGs; without, whether there is a GPU")
    parser.add_argument("raw", nargs="?", help="that of raw images of 224x224")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print(json.dumps({"absent": "no GPU that PyTorch can use"}))
        return
    if options.raw is None:
        print(json.dumps({}))
        return
    measured = {
        "ResNet-50 waits for data: JPEG, `RandomResizedCrop`, `Flip`": lambda: training(
            options.jpeg, "rrc", options.steps
        ),
        "ResNet-50 waits for data: raw 224x224": lambda: training(options.raw, "raw", options.steps),
        'raw 224x224, `StreamDataset(device="cuda")`': lambda: copies(options.raw, options.steps),
        'JPEG, `decode=False`, torchvision\'s `decode_jpeg(device="cuda")`': lambda: decoding(
            options.jpeg, options.steps
        ),
    }
    rows = []
    for name, measure in measured.items():
        try:
            rows.append((name, measure()))
        except (RuntimeError, ImportError) as error:
            rows.append((name, f"failed: {str(error).strip().splitlines()[0]}"))
    print(json.dumps({"rows": rows, "device": torch.cuda.get_device_name(), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
