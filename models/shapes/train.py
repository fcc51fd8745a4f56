"""Makes shapes.onnx: draws training pictures, trains a small detector on the CPU, exports it and measures it.

    pip install -e ".[cpu,train]"
    python models/shapes/train.py

The network is an anchor-free detector of the YOLOv8 family: a convolutional backbone, a feature pyramid with the
strides 8, 16 and 32, and one box and one score per class at each of its cells. The boxes are decoded inside the
graph, so the output has YOLOv8's usual layout: (1, 4 + classes, cells) with cx, cy, w, h in input pixels first.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesched.demo.pictures import LABELS, MAX_SHAPES, Picture, draw_picture
from edgesched.demo.quality import average_precisions, precision_and_recall

INPUT_SIDE = 320
PAD_VALUE = 114
STRIDES = (8, 16, 32)
TRAIN_SEED, TUNE_SEED, HELD_OUT_SEED = 101, 202, 303  # three series that share no picture
CONFIDENCE_FLOOR = 0.01  # average precision looks at the whole curve, so keep the unsure detections too
NMS_IOU = 0.45
OPSET = 13


# Pictures


def letterboxed(picture: Picture) -> tuple[np.ndarray, np.ndarray, float, tuple[int, int]]:
    """Decode a picture and fit it into the input square.

    Returns: uint8 (INPUT_SIDE, INPUT_SIDE, 3) RGB; the true boxes there as float32 (n, 5) of class, x1, y1, x2, y2;
    the scale from picture to input; and the left and top padding in input pixels.
    """
    bgr = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    scale = min(INPUT_SIDE / picture.width, INPUT_SIDE / picture.height)
    width, height = round(picture.width * scale), round(picture.height * scale)
    left, top = (INPUT_SIDE - width) // 2, (INPUT_SIDE - height) // 2
    square = np.full((INPUT_SIDE, INPUT_SIDE, 3), PAD_VALUE, np.uint8)
    resized = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_LINEAR)
    square[top : top + height, left : left + width] = resized[:, :, ::-1]
    boxes = np.array([(b.class_id, b.x1, b.y1, b.x2, b.y2) for b in picture.truth], np.float32)
    boxes[:, 1:] = boxes[:, 1:] * scale + (left, top, left, top)
    return square, boxes, scale, (left, top)


def _prepared(index: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    square, boxes, _, _ = letterboxed(draw_picture(seed, index))
    padded = np.full((MAX_SHAPES, 5), -1.0, np.float32)  # class -1: no shape
    padded[: len(boxes)] = boxes
    return square, padded


def training_set(count: int, seed: int, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` pictures once and keep them in `cache`.

    Returns: uint8 (count, INPUT_SIDE, INPUT_SIDE, 3) and float32 (count, MAX_SHAPES, 5).
    """
    cache.mkdir(parents=True, exist_ok=True)
    squares_path = cache / f"pictures-{seed}-{count}.npy"
    boxes_path = cache / f"boxes-{seed}-{count}.npy"
    if not boxes_path.exists():
        squares = np.lib.format.open_memmap(
            squares_path, mode="w+", dtype=np.uint8, shape=(count, INPUT_SIDE, INPUT_SIDE, 3)
        )
        boxes = np.empty((count, MAX_SHAPES, 5), np.float32)
        with ProcessPoolExecutor() as pool:
            drawn = pool.map(partial(_prepared, seed=seed), range(count), chunksize=32)
            for index, (square, padded) in enumerate(drawn):
                squares[index], boxes[index] = square, padded
                if index % 1000 == 999:
                    print(f"drawn {index + 1}/{count}", flush=True)
        squares.flush()
        np.save(boxes_path, boxes)
    return np.load(squares_path, mmap_mode="r"), np.load(boxes_path)


def _turned(square: np.ndarray, boxes: np.ndarray, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """One of the 8 ways to turn and mirror a square; a shape keeps its class in all of them."""
    boxes = boxes.copy()
    if turn & 1:
        square, boxes[:, [1, 3]] = square[:, ::-1], INPUT_SIDE - boxes[:, [3, 1]]
    if turn & 2:
        square, boxes[:, [2, 4]] = square[::-1], INPUT_SIDE - boxes[:, [4, 2]]
    if turn & 4:
        square, boxes[:, 1:] = square.transpose(1, 0, 2), boxes[:, [2, 1, 4, 3]]
    return square, boxes


def batches(
    squares: np.ndarray, boxes: np.ndarray, size: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of images float32 (size, 3, side, side) 0..1 and boxes float32 (size, MAX_SHAPES, 5).

    Each picture is turned, mirrored and recoloured at random.
    """
    order = rng.permutation(len(squares))
    for start in range(0, len(order) - size + 1, size):
        images, targets = [], []
        for index in order[start : start + size]:
            square, target = _turned(squares[index], boxes[index], int(rng.integers(8)))
            images.append(square[:, :, rng.permutation(3)])
            targets.append(target)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0
        contrast = torch.from_numpy(rng.uniform(0.7, 1.3, (size, 1, 1, 1)).astype(np.float32))
        light = torch.from_numpy(rng.uniform(-0.15, 0.15, (size, 1, 1, 1)).astype(np.float32))
        yield ((pixels - 0.45) * contrast + 0.45 + light).clamp_(0, 1), torch.from_numpy(np.stack(targets))


# Network


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels), conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Stage(nn.Module):
    """Some of the channels pass through a residual block, the others around it.

    All widths are multiples of 16, which is how many channels a CPU with AVX-512 works on at a time.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        through = 16 if outputs == 32 else 32
        self.around = conv(inputs, outputs - through, 1)
        self.through = nn.Sequential(conv(inputs, through, 1), Residual(through))
        self.join = conv(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat((self.around(x), self.through(x)), 1))


class Pooling(nn.Module):
    """Shows every cell its wide surroundings. Source: the SPPF block of YOLOv5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = conv(channels, channels // 2, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.after = conv(channels * 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        steps = [self.before(x)]
        for _ in range(3):
            steps.append(self.pool(steps[-1]))
        return self.after(torch.cat(steps, 1))


class Detector(nn.Module):
    def __init__(self, class_count: int) -> None:
        super().__init__()
        self.class_count = class_count
        self.to_8 = nn.Sequential(
            conv(3, 16, 3, 2), conv(16, 32, 3, 2), Stage(32, 32), conv(32, 48, 3, 2), Stage(48, 48)
        )
        self.to_16 = nn.Sequential(conv(48, 64, 3, 2), Stage(64, 64))
        self.to_32 = nn.Sequential(conv(64, 80, 3, 2), Stage(80, 80), Pooling(80))
        self.up_16 = Stage(80 + 64, 64)
        self.up_8 = Stage(64 + 48, 48)
        widths = (48, 64, 80)
        self.necks = nn.ModuleList(conv(width, 48) for width in widths)
        self.boxes = nn.ModuleList(nn.Conv2d(48, 4, 1) for _ in widths)
        self.classes = nn.ModuleList(nn.Conv2d(48, class_count, 1) for _ in widths)
        for head, stride in zip(self.classes, STRIDES, strict=True):
            # Nearly every cell is background: start at a matching score. Source: RetinaNet, section 4.1.
            nn.init.constant_(head.bias, math.log(3 / class_count / (INPUT_SIDE / stride) ** 2))

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns per stride: the distances from the cell's centre to left, top, right, bottom in strides,
        (n, 4, rows, columns), and the classes' logits, (n, classes, rows, columns).
        """
        at_8 = self.to_8(images)
        at_16 = self.to_16(at_8)
        at_32 = self.to_32(at_16)
        at_16 = self.up_16(torch.cat((F.interpolate(at_32, scale_factor=2.0), at_16), 1))
        at_8 = self.up_8(torch.cat((F.interpolate(at_16, scale_factor=2.0), at_8), 1))
        raw = []
        heads = zip((at_8, at_16, at_32), self.necks, self.boxes, self.classes, strict=True)
        for features, neck, box, score in heads:
            seen = neck(features)
            root = torch.sigmoid(box(seen)) * 4.0
            raw.append((root * root, score(seen)))  # 0..16 strides, 4 at the start
        return raw


def centres(raw: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Returns every cell's centre, (cells, 2) in input pixels, and its stride, (cells, 1)."""
    points, strides = [], []
    for (distances, _), stride in zip(raw, STRIDES, strict=True):
        rows, columns = distances.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        points.append(torch.stack((x, y), -1).view(-1, 2) * stride)
        strides.append(torch.full((rows * columns, 1), float(stride)))
    return torch.cat(points), torch.cat(strides)


class Exported(nn.Module):
    """The detector with its boxes decoded. A fixed 1x1 convolution turns distances into centre and size, because
    accelerators that dislike slicing all run convolutions."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        left, top, right, bottom = torch.eye(4)
        corner_to_centre = torch.stack(((right - left) / 2, (bottom - top) / 2, left + right, top + bottom)).view(
            4, 4, 1, 1
        )
        for stride in STRIDES:
            cells = INPUT_SIDE // stride
            y, x = torch.meshgrid(torch.arange(cells) + 0.5, torch.arange(cells) + 0.5, indexing="ij")
            zero = torch.zeros_like(x)
            self.register_buffer(f"kernel_{stride}", corner_to_centre * stride)
            self.register_buffer(f"centre_{stride}", torch.stack((x, y, zero, zero))[None] * stride)

    def forward(self, images: Tensor) -> Tensor:
        levels = []
        for (distances, logits), stride in zip(self.detector(images), STRIDES, strict=True):
            box = F.conv2d(distances, getattr(self, f"kernel_{stride}")) + getattr(self, f"centre_{stride}")
            level = torch.cat((box, torch.sigmoid(logits)), 1)
            levels.append(level.reshape(1, 4 + self.detector.class_count, (INPUT_SIDE // stride) ** 2))
        return torch.cat(levels, 2)


# Loss


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of boxes (..., 4) of x1, y1, x2, y2. Source: Zheng et al., "Distance-IoU Loss", 2020."""
    tiny = 1e-7
    a_size, b_size = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(0).prod(-1)
    iou = shared / (a_size.prod(-1) + b_size.prod(-1) - shared + tiny)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    apart = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) ** 2).sum(-1) / 4
    slant = torch.atan(a_size[..., 0] / (a_size[..., 1] + tiny)) - torch.atan(b_size[..., 0] / (b_size[..., 1] + tiny))
    aspect = 4 / math.pi**2 * slant**2
    with torch.no_grad():
        weight = aspect / (aspect - iou + 1 + tiny)
    return iou - apart / ((hull**2).sum(-1) + tiny) - weight * aspect


@dataclass(frozen=True)
class Assigned:
    scores: Tensor  # (n, cells, classes): what each cell should say
    boxes: Tensor  # (n, cells, 4)
    chosen: Tensor  # bool (n, cells): the cells that stand for a shape


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, points: Tensor, truth: Tensor, candidates: int = 10) -> Assigned:
    """Give each true shape the cells that already fit it best, by score^0.5 * IoU^6.

    scores: (n, cells, classes) 0..1. boxes: (n, cells, 4). points: (cells, 2). truth: (n, shapes, 5), class -1 = none.
    Source: Feng et al., "TOOD: Task-aligned One-stage Object Detection", 2021, as used by YOLOv8.
    """
    exists = truth[..., 0] >= 0  # (n, shapes)
    label = truth[..., 0].clamp(0).long()
    true_box = truth[:, :, None, 1:]  # (n, shapes, 1, 4)
    inside = ((points - true_box[..., :2] > 0) & (true_box[..., 2:] - points > 0)).all(-1) & exists[..., None]
    overlap = ciou(boxes[:, None], true_box).clamp(0) * inside  # (n, shapes, cells)
    score = scores.transpose(1, 2).gather(1, label[..., None].expand(-1, -1, scores.shape[1]))
    fit = score.sqrt() * overlap**6 * inside
    best = fit.topk(candidates, dim=-1)
    taken = torch.zeros_like(fit, dtype=torch.bool).scatter_(-1, best.indices, best.values > 1e-9)
    rival = torch.where(taken, overlap, -1.0)
    owner = rival.argmax(1)  # (n, cells): a cell between two shapes goes to the one it overlaps more
    taken &= F.one_hot(owner, truth.shape[1]).transpose(1, 2).bool()
    chosen = taken.any(1)
    fit = fit * taken
    ceiling = (overlap * taken).amax(-1, keepdim=True)
    worth = (fit / (fit.amax(-1, keepdim=True) + 1e-9) * ceiling).amax(1)  # (n, cells)
    target = F.one_hot(label.gather(1, owner), scores.shape[2]) * (worth * chosen)[..., None]
    return Assigned(target, truth[..., 1:].gather(1, owner[..., None].expand(-1, -1, 4)), chosen)


def loss_of(raw: Sequence[tuple[Tensor, Tensor]], truth: Tensor) -> Tensor:
    distances = torch.cat([d.flatten(2) for d, _ in raw], 2).transpose(1, 2).float()
    logits = torch.cat([s.flatten(2) for _, s in raw], 2).transpose(1, 2).float()
    points, strides = centres(raw)
    boxes = torch.cat((points - distances[..., :2] * strides, points + distances[..., 2:] * strides), -1)
    target = assign(logits.detach().sigmoid(), boxes.detach(), points, truth)
    total = target.scores.sum().clamp(1.0)
    score_loss = F.binary_cross_entropy_with_logits(logits, target.scores, reduction="sum") / total
    weight = target.scores.sum(-1)[target.chosen]
    box_loss = ((1 - ciou(boxes[target.chosen], target.boxes[target.chosen])) * weight).sum() / total
    return 0.5 * score_loss + 7.5 * box_loss  # YOLOv8's weights


# Training


def optimizer_for(detector: Detector, rate: float) -> torch.optim.Optimizer:
    """Only convolution kernels decay towards zero; biases and normalisation do not."""
    kernels = [p for p in detector.parameters() if p.ndim > 1]
    others = [p for p in detector.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate)


def rate_at(step: int, steps: int) -> float:
    """Returns the part of the highest learning rate: a short rise, then half a cosine down to a hundredth."""
    return min((step + 1) / 150, 0.01 + 0.495 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def follow(average: Detector, detector: Detector, step: int) -> None:
    """Move the running average of the weights a little towards the weights of now, at first faster."""
    keep = min(0.998, (1 + step) / (10 + step))
    for mine, new in zip(average.state_dict().values(), detector.state_dict().values(), strict=True):
        mine.lerp_(new, 1 - keep) if mine.is_floating_point() else mine.copy_(new)


def train(detector: Detector, arguments: argparse.Namespace) -> Detector:
    """Returns the running average of the weights, which is better than the last weights."""
    squares, boxes = training_set(arguments.pictures, TRAIN_SEED, arguments.cache)
    rng = np.random.default_rng(arguments.seed)
    optimizer = optimizer_for(detector, arguments.rate)
    steps = arguments.epochs * (arguments.pictures // arguments.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(rate_at, steps=steps))
    average = copy.deepcopy(detector).eval()
    step, started = 0, time.monotonic()
    for epoch in range(1, arguments.epochs + 1):
        detector.train()
        side = arguments.early_side if epoch <= arguments.early_epochs else INPUT_SIDE
        for images, truth in batches(squares, boxes, arguments.batch, rng):
            if side != INPUT_SIDE:
                images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
                truth[..., 1:] *= side / INPUT_SIDE
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.bf16):
                raw = detector(images)
            loss = loss_of(raw, truth)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            step += 1
            follow(average, detector, step)
            if step % 50 == 0:
                spent = time.monotonic() - started
                print(f"epoch {epoch}/{arguments.epochs} step {step}/{steps} loss {loss.item():.3f}", end=" ")
                print(f"{spent:.0f} s spent, {spent / step * (steps - step):.0f} s left", flush=True)
        if arguments.check_every and epoch % arguments.check_every == 0:
            export(average, arguments.output)
            measure(arguments.output, 150, TUNE_SEED)
    return average


# Export and measurement


def export(detector: Detector, path: Path) -> None:
    """Write the detector as one ONNX file whose batch normalisation is folded into the convolutions."""
    folded = copy.deepcopy(detector).eval()
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential) and len(module) == 3 and isinstance(module[1], nn.BatchNorm2d):
            module[0] = nn.utils.fuse_conv_bn_eval(module[0], module[1])
            module[1] = nn.Identity()
    torch.onnx.export(
        Exported(folded).eval(),
        (torch.zeros(1, 3, INPUT_SIDE, INPUT_SIDE),),
        path,
        input_names=["images"],
        output_names=["output0"],
        opset_version=OPSET,
        dynamo=False,
    )
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    print(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB, IR version {model.ir_version}", flush=True)


@dataclass(frozen=True)
class Found:
    class_id: int
    confidence: float
    x1: float
    y1: float
    x2: float
    y2: float


def detections(output: np.ndarray, scale: float, padding: tuple[int, int]) -> list[Found]:
    """output: float32 (4 + classes, cells). Returns what is left after NMS in each class, in picture pixels."""
    class_ids = output[4:].argmax(0)
    scores = output[4:].max(0)
    sure = scores >= CONFIDENCE_FLOOR
    centre, size = output[:2, sure].T, output[2:4, sure].T
    corners = np.hstack((centre - size / 2, size))  # left, top, width, height
    kept = cv2.dnn.NMSBoxesBatched(
        corners.tolist(), scores[sure].tolist(), class_ids[sure].tolist(), CONFIDENCE_FLOOR, NMS_IOU
    )
    found = []
    for index in np.array(kept, dtype=int).reshape(-1):
        left, top, width, height = corners[index]
        x1, y1 = (left - padding[0]) / scale, (top - padding[1]) / scale
        found.append(
            Found(
                int(class_ids[sure][index]),
                float(scores[sure][index]),
                float(x1),
                float(y1),
                float(x1 + width / scale),
                float(y1 + height / scale),
            )
        )
    return found


def measure(path: Path, count: int, seed: int) -> float:
    """Print and return the model's mAP@0.5 over `count` pictures of the series `seed`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found, truth, spent = [], [], []
    for index in range(count):
        picture = draw_picture(seed, index)
        square, _, scale, padding = letterboxed(picture)
        images = np.ascontiguousarray(square.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)
        started = time.perf_counter()
        (output,) = session.run(None, {"images": images})
        spent.append(time.perf_counter() - started)
        found.append(detections(output[0], scale, padding))
        truth.append(picture.truth)
    per_class = average_precisions(found, truth)
    mean = sum(per_class.values()) / len(per_class)
    precision, recall = precision_and_recall(found, truth, confidence_threshold=0.35)
    print(f"mAP@0.5 {mean:.4f} over {count} pictures of series {seed}; at confidence 0.35:", end=" ")
    print(f"precision {precision:.4f}, recall {recall:.4f}; {np.median(spent) * 1e3:.1f} ms on one thread")
    print("  " + ", ".join(f"{LABELS[c]} {ap:.4f}" for c, ap in per_class.items()), flush=True)
    return mean


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=here / "shapes.onnx", help="where the model goes")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/shapes-cache"), help="keeps drawn pictures")
    parser.add_argument("--pictures", type=int, default=12_000, help="how many training pictures to draw")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-3, help="the highest learning rate")
    parser.add_argument("--early-epochs", type=int, default=6, help="epochs on smaller pictures, which are faster")
    parser.add_argument("--early-side", type=int, default=224, help="the smaller pictures' side, a multiple of 32")
    parser.add_argument("--seed", type=int, default=7, help="for the first weights and the order of pictures")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--bf16", action="store_true", help="faster where the CPU has bfloat16")
    parser.add_argument("--check-every", type=int, default=2, help="epochs between exports with a quick check")
    parser.add_argument("--held-out", type=int, default=1000, help="pictures for the last measurement")
    parser.add_argument("--measure-only", action="store_true", help="measure the file at --output as it is")
    arguments = parser.parse_args()

    if not arguments.measure_only:
        torch.manual_seed(arguments.seed)
        torch.set_num_threads(arguments.threads)
        detector = Detector(len(LABELS)).to(memory_format=torch.channels_last)
        print(f"{sum(p.numel() for p in detector.parameters()):,} parameters", flush=True)
        export(train(detector, arguments), arguments.output)
    measure(arguments.output, arguments.held_out, HELD_OUT_SEED)


if __name__ == "__main__":
    main()
