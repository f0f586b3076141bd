"""``data=ade20k``: ADE20K as the scene parsing challenge of 2016 has it, 150 classes.

Zhou et al.: Semantic Understanding of Scenes through the ADE20K Dataset (2016), arXiv:1608.05442.
"""

from collections.abc import Mapping

from seg_cli.data.files import FileDataset
from seg_cli.data.images import ImageReader
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.masks import read_index
from seg_cli.data.public import Source, bit_color, find

# The first name that objectInfo150.txt gives each class.
_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister, escalator,
ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool,
stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave,
pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan,
fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
LABELS = LabelSpace(
    names=tuple(" ".join(name.split()) for name in _NAMES.split(",")),
    colors=tuple(bit_color(value) for value in range(1, 151)),
    raw={0: VOID} | {index + 1: index for index in range(150)},  # 0 is whatever is none of the 150
)

SOURCE = Source(
    name="ade20k",
    title="ADE20K",
    address="http://sceneparsing.csail.mit.edu",
    size="0.9 GB (ADEChallengeData2016.zip)",
    terms="for non-commercial research and education",
    tree=(
        "ADEChallengeData2016/images/{training,validation}/ADE_train_00000001.jpg",
        "ADEChallengeData2016/annotations/{training,validation}/ADE_train_00000001.png",
    ),
)
_FOLDERS = {"train": "training", "val": "validation"}


class ADE20K(FileDataset):
    """20,210 images to train and 2,000 to validate, of rooms, streets and landscapes.

    The masks of the test set are not public, so ``test`` is ``val``, the same split under a second name.

    Args:
        root: the folder that holds ADEChallengeData2016, or is it.
        classes: see ``LabelSpace.choose``.
        cache: see ``FileDataset``.

    Raises:
        UserError: if a folder, an image or a mask is missing.
    """

    def __init__(self, *, root: str, classes: Mapping | None = None, cache: str = "none") -> None:
        folder = SOURCE.open(root, "ADEChallengeData2016")
        pairs = {
            split: SOURCE.pair(
                root,
                split,
                find(SOURCE.folder(root, folder / "images" / name), ".jpg"),
                find(SOURCE.folder(root, folder / "annotations" / name), ".png"),
            )
            for split, name in _FOLDERS.items()
        }
        super().__init__(pairs, LABELS, classes=classes, cache=cache, read_image=ImageReader(), read_mask=read_index)
        self.splits["test"] = self.splits["val"]
