"""Parameters as an optimiser takes them, and what a loss asks of a model."""

import pytest
import torch
from tiny import TinyModel, make_task
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.losses import CrossEntropy, Sum
from seg_cli.models.encoder import Encoder
from seg_cli.models.outputs import Outputs
from seg_cli.models.unet import UNet
from seg_cli.training.finetune import Phases
from seg_cli.training.task import parameter_groups


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = UNet(encoder=Encoder("resnet10t"), num_classes=3)
    parameters = [parameter for group in parameter_groups(model, 0.1, Phases()) for parameter in group["params"]]
    assert len(parameters) == len(set(parameters))
    assert set(parameters) == set(model.parameters())


@pytest.mark.parametrize(("decay", "factors"), [(1.0, (0.1, 0.1)), (0.5, (0.05, 0.1))])
def test_norms_and_biases_are_not_decayed_and_levels_learn_slower(decay: float, factors: tuple[float, float]) -> None:
    model = TinyModel()
    (convolution, norm, _), head = model.encoder, model.head
    expected = {
        convolution.weight: ("encoder.0", factors[0], None),
        convolution.bias: ("encoder.0", factors[0], 0.0),
        **dict.fromkeys((norm.weight, norm.bias), ("encoder.1", factors[1], 0.0)),
        head.weight: ("head", 1.0, None),
        head.bias: ("head", 1.0, 0.0),
    }
    found = {
        parameter: (group["part"], pytest.approx(group["lr_factor"]), group.get("weight_decay"))
        for group in parameter_groups(model, 0.1, Phases(layer_decay=decay))
        for parameter in group["params"]
    }
    assert found == expected


def test_a_task_gives_its_parts_and_an_optimiser_of_frozen_parameters_too() -> None:
    task = make_task()
    task.model.encoder.requires_grad_(False)
    assert task.parts == ["encoder.0", "encoder.1", "head"]
    given = {parameter for group in task.configure_optimizers().param_groups for parameter in group["params"]}
    assert given == set(task.model.parameters())


def test_the_loss_of_auxiliary_logits_is_weighed_and_told() -> None:
    class Heads(nn.Module):
        aux_weight = 0.4

        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.randn(1, 7, 8, 8))

        def forward(self, images: Tensor) -> Outputs:
            logits = self.logits.expand(len(images), -1, -1, -1)
            return Outputs(logits, aux=(2 * logits, 3 * logits))

    task = make_task(Heads, loss=Sum({"ce": CrossEntropy()}, {"ce": 2.0}))
    masks = torch.randint(0, 7, (2, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        total, terms = task.training_step(torch.zeros(2, 3, 8, 8), masks)
    logits = task.model.logits.detach().expand(2, -1, -1, -1)
    one, two, three = (float(nn.functional.cross_entropy(k * logits, masks.long())) for k in (1, 2, 3))
    assert float(total) == pytest.approx(2 * one + 0.4 * (2 * two + 2 * three), rel=1e-5)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(
        {"ce": one, "aux": 2 * two + 2 * three}, rel=1e-5
    )


def test_a_loss_of_edges_needs_a_model_that_finds_them() -> None:
    class Edges(CrossEntropy):
        needs_edges = True

    with pytest.raises(UserError, match=r"loss\.terms\.rim: it needs a model that finds edges.*model=gscnn"):
        make_task(loss=Sum({"rim": Edges()}, {"rim": 1.0}))
