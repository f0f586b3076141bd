#!/usr/bin/env bash
# Images of your own: from a folder to a model that is chosen, looked at, and used outside of segrun.
#
#   bash examples/own_images.sh [DIR]
#
# DIR holds images/ and masks/, files of the same names, masks of 0 and 255. Without it, a small set is drawn.
# WEIGHTS=FILE gives the second model pretrained weights of tf_efficientnet_lite0. EPOCHS=N trains longer (default 12).
# Takes 2 to 5 minutes on two CPU cores. Call it from any empty folder, with segrun and its python on PATH; what it
# makes lies there.
set -euo pipefail

step() { printf '\n== %s\n' "$*"; }

if [[ -e outputs || -e my_conf || -e new ]]; then
    echo "own_images.sh: this folder holds outputs/, my_conf/ or new/ already. Call it from an empty folder." >&2
    exit 2
fi
command -v segrun >/dev/null || { echo "own_images.sh: segrun is not on PATH. Type make install, then: export PATH=REPOSITORY/.venv/bin:\$PATH" >&2; exit 2; }

if [[ $# -gt 0 ]]; then
    data=$(cd "$1" 2>/dev/null && pwd) || { echo "own_images.sh: $1 is no folder. Give one with images/ and masks/ in it." >&2; exit 2; }
    [[ -d $data/images && -d $data/masks ]] || { echo "own_images.sh: $1 lacks images/ or masks/." >&2; exit 2; }
else
    step "No folder was given: draw 30 images of bright cells between dark walls, and their masks (255 = cell)"
    data=$PWD/cells
    python - "$data" <<'PY'
import sys
from pathlib import Path

import numpy as np
from PIL import Image

root, rng = Path(sys.argv[1]), np.random.default_rng(0)
for folder in ("images", "masks"):
    (root / folder).mkdir(parents=True)
rows, columns = np.mgrid[0:192, 0:192]
for index in range(30):
    middles = rng.uniform(0, 192, (2, 40))
    near = np.sort(np.hypot(rows[..., None] - middles[0], columns[..., None] - middles[1]), axis=2)
    cell = near[..., 1] - near[..., 0] > 5  # where two middles are as near, there is a wall
    gray = np.where(cell, 150, 90) + rng.normal(0, 25, cell.shape) + rng.normal(0, 10)
    Image.fromarray(gray.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{index:02}.png")
    Image.fromarray(cell.astype(np.uint8) * 255).save(root / "masks" / f"{index:02}.png")
PY
fi

step "Is the data sound? Counts, class shares, and a picture sheet to look at"
segrun check data=folder data.root="$data" out=check

step "What check says of a folder with mistakes: a mask that is missing, one of another size, one with a stray value"
cp -rL "$data" spoiled # -L copies what links lead to: nothing of yours is touched
chmod -R u+w spoiled
python - <<'PY'
from pathlib import Path

import numpy as np
from PIL import Image

missing, small, stray = sorted(Path("spoiled/masks").iterdir())[:3]
missing.unlink()
Image.open(small).resize((64, 64), 0).save(small)
values = np.array(Image.open(stray))
values[10, 10:20] = 7
Image.fromarray(values).save(stray)
PY
if segrun check data=folder data.root=spoiled out=check_spoiled; then
    echo "own_images.sh: check found nothing wrong with the spoiled folder." >&2
    exit 1
fi

step "What all trainings have in common goes into an experiment file of one's own, outside of segrun"
mkdir -p my_conf/experiment
cat >my_conf/experiment/cells.yaml <<YAML
# @package _global_
# Cells and the walls between them: one gray band, small crops, few epochs
defaults:
  - override /data: folder
  - override /loss: ce+dice
  - override /augment: flip
name: cells
data:
  root: $data
  channels: 1
  names: [wall, cell]
loader:
  crop: [96, 96]
  batch_size: 4
trainer:
  max_epochs: ${EPOCHS:-12}
YAML
cat my_conf/experiment/cells.yaml

step "Train two models that may do"
segrun --config-dir my_conf experiment=cells logger=csv run_dir=outputs/cells/unet model=unet
pretrained=() allow=()
if [[ -n ${WEIGHTS:-} ]]; then
    pretrained=(encoder.weights="$WEIGHTS")
    allow=(--allow pretrained) # they began from different weights, which is what we want to compare
fi
segrun --config-dir my_conf experiment=cells logger=csv run_dir=outputs/cells/deeplab model=deeplabv3plus \
    encoder=tf_efficientnet_lite0 "${pretrained[@]}"

step "Compare them: a table, and a page with the best and worst predictions of each"
segrun table outputs/cells --rows model,encoder "${allow[@]}"
segrun report outputs/cells
for run in outputs/cells/unet outputs/cells/deeplab; do segrun report "$run"; done

step "Choose the better one by its score on val, for test is to be looked at once"
best=$(python - <<'PY'
import json
from pathlib import Path

score = {file.parent: json.loads(file.read_text())["splits"]["val"]["miou"] for file in Path("outputs/cells").glob("*/results.json")}
print(max(score, key=score.get))
PY
)
echo "best: $best"

step "Would mirrored views help? Score it again with test-time augmentation"
segrun eval run="$best" tta=flip

step "New images: a gray one, a colour one with transparency and a name with blanks, a larger one, and a broken file"
python - "$data" <<'PY'
import sys
from pathlib import Path

import numpy as np
from PIL import Image

source = sorted(Path(sys.argv[1], "images").iterdir())[0]
photo, new = Image.open(source).convert("L"), Path("new")
new.mkdir()
photo.save(new / "gray.png")
photo.convert("RGBA").save(new / "with alpha [2].png")
Image.fromarray(np.tile(np.asarray(photo), (2, 3))).save(new / "larger.png")
(new / "broken.png").write_bytes((new / "gray.png").read_bytes()[:500])
PY
if segrun predict run="$best" input=new out=predictions precision=fp32; then
    echo "own_images.sh: predict did not say that a file is broken." >&2
    exit 1
fi # the broken file is named, the others are done, and the status is 1
segrun predict run="$best" 'input="new/with alpha [2].png"' out=one

step "A file that runs without segrun, and the same labels by onnxruntime (docs/inference.md)"
segrun export run="$best" format=onnx images=2
python - "$best" <<'PY'
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(f"{sys.argv[1]}/model.onnx", providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["segrun"])
pixels = np.asarray(Image.open("new/gray.png").convert("L"), np.float32)  # 0..255, nothing else is to be done
(logits,) = session.run(["logits"], {"images": pixels[None, None]})
labels = logits[0].argmax(0)
predicted = np.asarray(Image.open("predictions/masks/gray.png"))
same = (labels == predicted).mean()
print([of["name"] for of in about["classes"]], f"labels as segrun predict has them: {same:.4%}")
sys.exit(int(same < 0.999))
PY

step "The trained model in a program of one's own"
python - "$best" <<'PY'
import sys

import numpy as np
from PIL import Image

from seg_cli.commands.trained import load_trained

trained = load_trained(sys.argv[1])
labels = trained.label("new/gray.png")  # (height, width)
shares = np.bincount(labels.ravel(), minlength=len(trained.labels.names)) / labels.size
print(dict(zip(trained.labels.names, shares.round(3).tolist())))
same = (labels == np.asarray(Image.open("predictions/masks/gray.png"))).mean()
print(f"labels as segrun predict has them: {same:.4%}")
sys.exit(int(same < 0.999))
PY

step "Made in $PWD"
echo "check/sheet.png check_spoiled/sheet.png    what the data look like, and what is wrong with the spoiled ones"
echo "outputs/cells/report.html                  both models; RUN/report.html has the best and worst predictions"
echo "predictions/masks predictions/overlays     of the new images"
echo "$best/model.onnx                           the chosen model"
