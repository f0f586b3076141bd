"""Labelling photographs: files are read, labelled and written; and the exported model beside the model.

JPEG files of 360x480, U-Net on ResNet-18, 11 classes, batches of 8. ``segrun predict`` writes a mask and an overlay for
each; its images a second stand beside those of the bare forward passes on images that are in memory already. Rounds are
interleaved; the figure is the median of their ratios.

    python bench/predict.py [ROUNDS]
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from seg_cli.data.images import ImageReader
from seg_cli.data.labels import LabelSpace
from seg_cli.inference.evaluate import autocast
from seg_cli.inference.export import to_onnx, trace
from seg_cli.inference.labelling import find_images, label_files, thread_count
from seg_cli.inference.model_file import INPUT, OUTPUT, open_session
from seg_cli.inference.predictor import Predictor
from seg_cli.inference.torch_labelling import TorchLabel
from seg_cli.inference.writing import PredictionFolder
from seg_cli.metrics.counting import Counting
from seg_cli.models.encoder import Encoder
from seg_cli.models.unet import UNet
from seg_cli.training.precision import has_bf16

CLASSES, BATCH, FILES, TARGET = 11, 8, 96, 0.9
LABELS = LabelSpace(
    names=[f"class {index}" for index in range(CLASSES)], colors=[(20 * index, 90, index) for index in range(CLASSES)]
)


def draw(folder: Path) -> list[np.ndarray]:
    """Pictures with the detail of photographs."""
    images = []
    for index in range(FILES):
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
        image = cv2.resize(coarse, (480, 360), interpolation=cv2.INTER_CUBIC) / 2 + rng.normal(60, 12, (360, 480, 3))
        image = image.clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index:03}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        images.append(image)
    return images


def bench_predict(rounds: int, device: torch.device) -> str:
    dtype = torch.bfloat16 if has_bf16(device) else None
    net = UNet(encoder=Encoder("resnet18"), num_classes=CLASSES).eval().to(device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    counting = Counting(CLASSES)
    label = TorchLabel(Predictor(net, counting=counting), counting=counting, device=device, dtype=dtype)
    times: dict[str, list[float]] = {"predict": [], "bare": []}
    with tempfile.TemporaryDirectory() as place:
        photographs = Path(place) / "photographs"
        photographs.mkdir()
        images = draw(photographs)
        batches = [np.stack(images[start : start + BATCH]) for start in range(0, FILES, BATCH)]
        sources = find_images(str(photographs))

        def predict(number: int) -> None:
            folder = PredictionFolder(Path(place) / f"out{number}", LABELS, ["mask", "overlay"])
            folder.open(sources, about={}, overwrite=False)
            reader, threads = ImageReader(), thread_count("auto")
            done = label_files(sources, read=reader, label=label, write=folder.write, batch_size=BATCH, threads=threads)
            assert all(problem is None for _, problem in done)

        def bare(_: int) -> None:
            with torch.inference_mode(), autocast(device, dtype):
                for batch in batches:
                    net(torch.from_numpy(batch).to(device).permute(0, 3, 1, 2))
            if device.type == "cuda":
                torch.cuda.synchronize()

        for number in range(rounds + 1):
            for name, work in (("predict", predict), ("bare", bare))[:: 1 if number % 2 else -1]:
                started = time.perf_counter()
                work(number)
                if number:  # the first warms up
                    times[name].append(time.perf_counter() - started)
    ratio = statistics.median(b / a for a, b in zip(times["predict"], times["bare"], strict=True))
    print(f"{device.type}, {'bf16' if dtype else 'fp32'}, {torch.get_num_threads()} threads, {FILES} files of 360x480")
    for name, seconds in times.items():
        print(f"{name:<10}{FILES / statistics.median(seconds):>8.1f} images/s")
    verdict = "met" if ratio >= TARGET else "MISSED"
    return f"{verdict:<8}predict over the model's own rate {ratio:.2f}, target >= {TARGET:g} ({device.type})"


def bench_onnx(rounds: int) -> None:
    net = UNet(encoder=Encoder("resnet18"), num_classes=CLASSES).eval()
    session = open_session(to_onnx(trace(net, channels=3), {}), "cpu", spin=True)
    image = np.random.default_rng(0).random((1, 3, 360, 480), np.float32)
    plain, fast = torch.from_numpy(image), torch.from_numpy(image).to(memory_format=torch.channels_last)
    quick = UNet(encoder=Encoder("resnet18"), num_classes=CLASSES).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def torch_seconds(model: torch.nn.Module, x: torch.Tensor, dtype: torch.dtype | None) -> float:
        started = time.perf_counter()
        with torch.inference_mode(), autocast(torch.device("cpu"), dtype):
            model(x)
        return time.perf_counter() - started

    def onnx_seconds() -> float:
        started = time.perf_counter()
        session.run([OUTPUT], {INPUT: image})
        return time.perf_counter() - started

    rows = {
        "onnxruntime, float32": onnx_seconds,
        "torch, float32": lambda: torch_seconds(net, plain, None),
        "torch, bfloat16, channels_last": lambda: torch_seconds(quick, fast, torch.bfloat16),
    }
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(5 * rounds):
        for name, work in rows.items():
            times[name].append(work())
    print("\nan image of 360x480 on the CPU")
    for name, values in times.items():
        print(f"{name:<34}{1e3 * statistics.median(values[1:]):>8.1f} ms")


def main() -> None:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    verdicts = [bench_predict(rounds, torch.device(kind)) for kind in kinds]
    bench_onnx(rounds)
    print("\n" + "\n".join(verdicts))


if __name__ == "__main__":
    main()
