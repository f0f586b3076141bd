"""``segrun list models --cost``, on a network whose cost is counted by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seg_cli import cli
from seg_cli.commands import list_cost
from seg_cli.config.choices import choices

ONE_CONV = """
from torch import nn

class Net(nn.Module):
    def __init__(self, *, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 3, padding=1)

    def forward(self, images):
        return self.conv(images.float())

class TooDeep(Net):
    def forward(self, images):
        raise RuntimeError("the image is\\n too small")

class Broken(Net):
    def __init__(self, *, num_classes):
        raise TypeError("no such thing")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config folder with models of one's own, which are all that there are."""
    (tmp_path / "nets_of_mine.py").write_text(ONE_CONV)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "my, conf"
    (folder / "model" / "my").mkdir(parents=True)
    for name in ("Net", "TooDeep", "Broken"):
        (folder / "model" / "my" / f"{name.lower()}.yaml").write_text(f"# Mine\n_target_: nets_of_mine.{name}\n")
    monkeypatch.setattr(
        list_cost,
        "choices",
        lambda group, extra=(): [c for c in choices(group, extra) if group != "model" or c.name.startswith("my/")],
    )
    return folder


def test_figures_by_hand(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """27 weights and a bias for each of 11 classes; a multiply-add is two, at each of 8x16 pixels."""
    assert cli.run(["list", "models", "--cost", "--size", "8x16", "--json", "--config-dir", str(mine)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["my/net"].pop("milliseconds") > 0
    assert found == {
        "my/broken": {"problem": "TypeError: no such thing"},
        "my/net": {"encoder": "own", "parameters": 11 * 28, "flops": 2 * 11 * 27 * 8 * 16},
        "my/toodeep": {"problem": "RuntimeError: the image is too small"},
    }


def test_a_model_without_a_price_is_a_row_and_a_reason(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "--cost", "model", "--size=1000x1000", "--config-dir", str(mine)]) == 0
    out = capsys.readouterr().out
    assert "image of 1000x1000 (height x width)" in out
    assert "thread" in out or "GPU" in out or "NVIDIA" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("my/")}
    assert rows["my/net"][:3] == ["own", "0.00", "0.6"]
    assert rows["my/toodeep"] == ["see", "below", "–", "–", "–"]
    assert "  my/toodeep  RuntimeError: the image is too small\n" in out


def test_the_encoder_is_a_choice_or_any_of_timm() -> None:
    default = list_cost.price("fcn32s", (32, 32))
    choice = list_cost.price("fcn32s", (32, 32), "mobilenetv3_large_100")
    other = list_cost.price("fcn32s", (32, 32), "resnet10t")
    assert [cost.encoder for cost in (default, choice, other)] == ["resnet18", "mobilenetv3_large_100", "resnet10t"]
    assert default.parameters == 11_176_512 + 512 * 11 + 11  # torchvision's ResNet-18 without its classifier, a 1x1
    assert len({cost.parameters for cost in (default, choice, other)}) == 3


def test_the_size_is_height_and_width_and_operations_follow_it() -> None:
    small, large = (list_cost.price("fcn32s", size) for size in ((32, 64), (64, 64)))
    assert small.flops is not None
    assert large.flops == 2 * small.flops
    assert large.parameters == small.parameters


def test_an_encoder_that_a_model_cannot_take_and_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "encoder.name=resnet18" in (list_cost.price("segnet", (32, 32), "resnet18").problem or "")
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)  # as if it were not installed
    assert "pip install 'segrun[smp]'" in (list_cost.price("smp/unet", (32, 32)).problem or "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["losses", "--cost"], "--cost: it is for the cost of models. Type: segrun list models --cost"),
        (["--cost"], "Type: segrun list models --cost"),
        (["models", "--size", "64x64"], "--size: it is for the cost of models."),
        (["models", "--encoder", "resnet18"], "--encoder: it is for the cost of models."),
        (["models", "--cost", "--size", "64"], "--size 64: type height and width in pixels"),
        (["models", "--cost", "--size", "0x64"], "--size 0x64: type height and width"),
        (["models", "--cost", "--encoder", "resnt18"], "--encoder resnt18: timm has no such model. Did you mean 're"),
    ],
)
def test_wrong_requests(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_list_without_cost_does_not_import_torch() -> None:
    code = "import sys; from seg_cli import cli; cli.run(['list', 'models']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("\nFalse\n")
