"""How fast ``data=shapes`` draws: scenes a second on one core, beside decoding a JPEG of the same size.

Run: python bench/shapes.py
"""

import statistics
import time

import cv2
import numpy as np

from seg_cli.data.shapes import Shapes

ROUNDS, SCENES = 9, 100


def main() -> None:
    cv2.setNumThreads(1)
    for size in ((128, 128), (256, 256), (512, 512)):
        scenes = Shapes(size=size).splits["train"]
        encoded = cv2.imencode(".jpg", scenes[0].image)[1]
        drawing, decoding = [], []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for index in range(SCENES):
                scenes[index]
            drawn = time.perf_counter()
            for _ in range(SCENES):
                np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1])
            drawing.append((drawn - started) / SCENES)
            decoding.append((time.perf_counter() - drawn) / SCENES)
        draw, decode = statistics.median(drawing), statistics.median(decoding)
        print(
            f"{size[0]}x{size[1]}: {1 / draw:6.0f} scenes/s a core, {draw / decode:5.1f}x the time of decoding one JPEG"
        )


if __name__ == "__main__":
    main()
