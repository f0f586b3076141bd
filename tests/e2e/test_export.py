"""``segrun export`` from the command to the file, and ``segrun predict model=FILE``, which needs no PyTorch."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from seg_cli import cli
from tests.e2e.conftest import SHAPES, TINY, Outcome

Segrun = Callable[..., Outcome]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    assert cli.run([*TINY, *SHAPES, f"run_dir={folder / 'r'}"]) == 0
    assert cli.run(["export", f"run={folder / 'r'}", f"out={folder / 'm.onnx'}"]) == 0
    return folder


def test_the_file_says_what_it_is(trained: Path) -> None:
    session = onnxruntime.InferenceSession(trained / "m.onnx", providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["segrun"])
    assert [entry["name"] for entry in about["classes"]][:2] == ["Ground", "Disk"]
    assert about["classes"][1]["color"] == [230, 159, 0]
    assert (about["channels"], about["size"], about["model"], about["run"]) == (3, None, "unet", "r")
    logits = session.run(None, {"images": np.zeros((2, 3, 50, 41), np.float32)})[0]
    assert logits.shape == (2, 7, 50, 41)


def test_the_other_format_and_what_is_said(segrun: Segrun, trained: Path) -> None:
    done = segrun("export", f"run={trained / 'r'}", "out=new/m.pt2", "format=torch_export")
    assert done.status == 0, done.err
    assert "same as the model on 7 views of 2 images of val" in done.out
    assert "ms with torch.export" in done.out
    assert "images of any size, 7 classes" in done.out
    extra = {"segrun": ""}
    module = torch.export.load("new/m.pt2", extra_files=extra).module()
    assert module(torch.zeros(1, 3, 33, 64)).shape == (1, 7, 33, 64)
    assert json.loads(extra["segrun"])["model"] == "unet"


def test_wrong_requests(segrun: Segrun, trained: Path) -> None:
    Path("folder").mkdir()
    Path("taken.onnx").write_text("mine")
    Path("empty").mkdir()
    (Path("empty") / "config.yaml").write_text((trained / "r" / "config.yaml").read_text())
    run = f"run={trained / 'r'}"
    for options, said in (
        ([run, "out=taken.onnx"], "out=taken.onnx: this file exists already."),
        ([run, "out=folder"], "out=folder: this is a folder, and a file is needed"),
        (["run=empty", "out=m.onnx"], "run=empty: empty/checkpoints/best.ckpt is not there"),
        (["run=nowhere", "out=m.onnx"], "run=nowhere: "),
        ([run, "out=m.onnx", "format=tflite"], "format=tflite: it must be onnx or torch_export."),
        ([run, "out=m.onnx", "size=32"], "size=32: it must be null or height and width"),
        ([run, "out=m.onnx", "data.root=x"], "data.root: the dataset of this run, shapes, is not read from a folder."),
    ):
        done = segrun("export", *options)
        assert (done.status, said in done.err) == (2, True), done.err
        assert not Path("m.onnx").exists()
    assert Path("taken.onnx").read_text() == "mine"


def test_a_program_that_says_something_else_gets_no_name(
    segrun: Segrun, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), 7, *images.shape[2:])

    place = "seg_cli.commands.export"
    monkeypatch.setattr(f"{place}.trace", lambda model, **settings: None)
    monkeypatch.setattr(f"{place}.to_torch_export", lambda program, about: b"blind")
    monkeypatch.setattr(f"{place}.load_torch_export", lambda data: blind)
    done = segrun("export", f"run={trained / 'r'}", "out=m.pt2", "format=torch_export")
    assert done.status == 1
    assert "out=m.pt2: nothing is written, because torch.export does not give what the model gives" in done.err
    assert list(Path().iterdir()) == []


def test_an_exported_model_predicts_without_torch(segrun: Segrun, trained: Path) -> None:
    Path("photos").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (45, 33, 3), dtype=np.uint8)).save(f"photos/{name}.png")
    save = "save=[mask,overlay,probabilities]"
    options = ["predict", f"model={trained / 'm.onnx'}", "input=photos", "out=p", save]
    code = f"import sys; from seg_cli import cli; s = cli.run({options!r}); print(s, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stdout + done.stderr
    assert segrun("predict", f"run={trained / 'r'}", "input=photos", "out=q", save).status == 0
    for name in ("a", "b"):
        one, other = (np.asarray(Image.open(f"{folder}/masks/{name}.png")) for folder in ("p", "q"))
        assert one.shape == (45, 33)
        assert np.mean(one == other) > 0.999
        shares, others = (np.load(f"{folder}/probabilities/{name}.npz")["probabilities"] for folder in ("p", "q"))
        np.testing.assert_allclose(shares, others, atol=2e-3)

    for options, said in (
        (["tta=flip"], "tta: an exported model is used as it is. Type run=RUN instead of model=FILE."),
        (["threshold=0.4"], "threshold: an exported model is used as it is."),
        ([f"run={trained / 'r'}"], "predict: a model is needed, and one alone"),
    ):
        done_again = segrun("predict", f"model={trained / 'm.onnx'}", "input=photos", "out=n", *options)
        assert (done_again.status, said in done_again.err) == (2, True), done_again.err
        assert not Path("n").exists()


def snippets() -> list[str]:
    """The programs of docs/inference.md, from its one place that names a run to the one that names none."""
    page = (Path(__file__).parents[2] / "docs" / "inference.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_the_programs_of_the_docs_say_what_predict_says(segrun: Segrun, trained: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (70, 91, 3)).astype(np.uint8)).save("photo.png")
    Path("RUN").symlink_to(trained / "r")
    Path("model.onnx").symlink_to(trained / "m.onnx")
    as_it_is = ["precision=fp32", "tta=none", "inference=whole", "postprocess=none"]
    assert segrun("predict", "run=RUN", "input=photo.png", "out=p", *as_it_is).status == 0
    predicted = np.array(Image.open("p/masks/photo.png"))
    assert predicted.std() > 0

    of_run, of_file = snippets()
    light = "import sys\nassert not {'pytorch_lightning', 'lightning'} & sys.modules.keys()\n"
    program = of_run + "import numpy as np\nnp.save('labels.npy', labels)\n" + light
    for code in (program, of_file + "assert 'torch' not in __import__('sys').modules\n"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load("labels.npy"), predicted)
    assert (np.array(Image.open("labels.png")) == predicted).mean() > 0.999


def test_without_a_name_the_file_lies_in_the_run(segrun: Segrun, trained: Path) -> None:
    done = segrun("export", f"run={trained / 'r'}", "format=torch_export", "images=1")
    assert done.status == 0, done.err
    assert (trained / "r" / "model.pt2").is_file()
    again = segrun("export", f"run={trained / 'r'}", "format=torch_export")
    assert (again.status, "overwrite=true" in again.err) == (2, True)
