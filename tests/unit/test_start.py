"""Beginning with another run's weights: what is taken, what is new, and what is refused."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.training.checkpoints import write_checkpoint
from seg_cli.training.start import Start, begin_with, read_start

HERE, THERE = ["Sky", "Road", "Bicyclist"], ["Road", "Tree", "Car", "Sky"]


class Model(nn.Module):
    """An encoder, and a head with the ways in which tensors depend on classes."""

    def __init__(self, classes: int, *, width: int = 4, decoder: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
        self.decoder = nn.Conv2d(width, decoder, 1)
        self.head = nn.Conv2d(decoder, classes, 1)
        self.up = nn.ConvTranspose2d(classes, classes, 4, bias=False)  # both sides are classes
        self.shuffle = nn.Conv2d(decoder, classes * 4, 1)  # before a pixel shuffle by 2


def sizes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def start_of(model: nn.Module, classes: list[str] | None) -> Start:
    return Start(
        "outputs/other", Path("outputs/other/checkpoints/best.ckpt"), "ab" * 32, model.state_dict(), classes, {}
    )


def begin(ours: nn.Module, theirs: nn.Module, classes: list[str], of_theirs: list[str] | None, **changes: int) -> str:
    larger = sizes(Model(len(classes) + 1, **changes))
    return begin_with(ours, start_of(theirs, of_theirs), classes=classes, one_class_more=larger)


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_all_of_a_run_with_the_same_classes() -> None:
    ours, theirs = Model(3), Model(3)
    line = begin(ours, theirs, HERE, HERE)
    assert line == "start: 14 of 14 tensors from outputs/other; head kept for all classes"
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)


def test_classes_keep_their_weights_by_name_and_new_ones_are_made_new() -> None:
    ours, theirs = Model(3), Model(4)
    fresh = copies(ours)
    line = begin(ours, theirs, HERE, THERE)
    assert line == ("start: 9 of 14 tensors from outputs/other; head made new for Bicyclist, kept for Sky, Road")
    now, given = ours.state_dict(), theirs.state_dict()
    assert torch.equal(now["encoder.0.weight"], given["encoder.0.weight"])
    for key in ("head.weight", "head.bias"):
        assert torch.equal(now[key][0], given[key][3])  # Sky
        assert torch.equal(now[key][1], given[key][0])  # Road
        assert torch.equal(now[key][2], fresh[key][2])  # Bicyclist
    assert torch.equal(now["up.weight"][0, 1], given["up.weight"][3, 0])  # from Sky to Road
    assert torch.equal(now["up.weight"][1, 1], given["up.weight"][0, 0])
    assert torch.equal(now["up.weight"][2], fresh["up.weight"][2])
    assert torch.equal(now["up.weight"][:, 2], fresh["up.weight"][:, 2])
    # A pixel shuffle has the four pixels of a class one after the other.
    assert torch.equal(now["shuffle.weight"][0:4], given["shuffle.weight"][12:16])
    assert torch.equal(now["shuffle.weight"][4:8], given["shuffle.weight"][0:4])
    assert torch.equal(now["shuffle.bias"][8:12], fresh["shuffle.bias"][8:12])


def test_the_same_classes_in_another_order_are_all_kept() -> None:
    ours, theirs = Model(3), Model(3)
    line = begin(ours, theirs, HERE, HERE[::-1])
    assert line == "start: 14 of 14 tensors from outputs/other; head kept for all classes"
    assert torch.equal(ours.head.weight, theirs.head.weight.flip(0))


def test_as_many_classes_of_other_names_are_not_mistaken_for_ours() -> None:
    ours, theirs = Model(3), Model(3)
    fresh = copies(ours)
    line = begin(ours, theirs, HERE, ["a", "b", "c"])
    assert line == "start: 9 of 14 tensors from outputs/other; head made new for Sky, Road, Bicyclist"
    assert torch.equal(ours.state_dict()["head.weight"], fresh["head.weight"])


def test_another_decoder_is_made_new_and_said() -> None:
    ours, theirs = Model(3, decoder=5), Model(3)
    fresh = copies(ours)
    line = begin(ours, theirs, HERE, HERE, decoder=5)
    assert line == (
        "start: 7 of 14 tensors from outputs/other; made new: decoder (2 tensors); head made new, since it has another "
        "form"
    )
    assert torch.equal(ours.encoder[0].weight, theirs.encoder[0].weight)
    assert all(torch.equal(fresh[key], ours.state_dict()[key]) for key in ("head.bias", "up.weight", "decoder.weight"))


def test_a_file_that_does_not_name_its_classes() -> None:
    ours = Model(3)
    fresh = copies(ours)
    line = begin(ours, Model(3), HERE, None)
    assert line.endswith("; head made new, since the file does not name its classes")
    assert torch.equal(ours.state_dict()["head.weight"], fresh["head.weight"])


def test_another_encoder_is_refused() -> None:
    ours = Model(3)
    fresh = copies(ours)
    with pytest.raises(UserError, match=r"^start=outputs/other: 1 of 7 tensors of the encoder are in .*best.ckpt"):
        begin(ours, Model(3, width=6), HERE, HERE)
    assert all(torch.equal(fresh[key], value) for key, value in ours.state_dict().items())


def test_many_classes_are_not_all_listed() -> None:
    classes = [f"c{number}" for number in range(12)]
    line = begin(Model(12), Model(3), classes, HERE)
    assert line.endswith("head made new for c0, c1, c2, c3, c4, c5, c6, c7 and 4 more")


# ---- files


def keep(path: Path, **content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"model.{key}": value for key, value in Model(3).state_dict().items()}
    write_checkpoint(path, {"state_dict": state, "classes": HERE, **content})


def test_a_run_a_file_and_what_stands_for_them(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    keep(folder / "checkpoints" / "last.ckpt")
    assert read_start(str(folder)).path.name == "last.ckpt"
    keep(folder / "checkpoints" / "best.ckpt", config='{"choices": {"model": "unet", "encoder": "resnet18"}}')
    start = read_start(str(folder))
    assert start.path.name == "best.ckpt"
    assert start.classes == HERE
    assert start.choices == {"model": "unet", "encoder": "resnet18"}
    assert start.weights.keys() == Model(3).state_dict().keys()
    assert start.pretrained == f"best.ckpt sha256:{start.digest[:16]}"
    assert read_start(str(folder / "checkpoints" / "best.ckpt")).digest == start.digest


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_what_cannot_be_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(asked: str) -> str:
        with pytest.raises(UserError) as error:
            read_start(asked)
        assert str(error.value).startswith(f"start={asked}: ")
        return str(error.value)

    assert "there is no such run or checkpoint" in refused("nowhere")
    Path("empty").mkdir()
    assert "is not a run directory (it has no config.yaml)" in refused("empty")
    Path("empty/config.yaml").write_text("model: {}\n")
    assert "this run has no checkpoint; it ended before its first epoch did." in refused("empty")
    Path("bomb.ckpt").write_bytes(pickle.dumps({"state_dict": Bomb()}))
    refused("bomb.ckpt")
    torch.save({"state_dict": Bomb()}, "zipped.ckpt")
    refused("zipped.ckpt")
    assert not Path("exploded").exists()
    keep(Path("cut.ckpt"))
    Path("cut.ckpt").write_bytes(Path("cut.ckpt").read_bytes()[:-500])
    refused("cut.ckpt")
    torch.save({"weights": torch.ones(2)}, "other.pt")
    assert "is no checkpoint of segrun" in refused("other.pt")
    torch.save([torch.ones(2)], "list.pt")
    refused("list.pt")
