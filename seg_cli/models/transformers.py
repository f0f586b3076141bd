"""Segmentation models of Hugging Face transformers, those whose head gives logits per pixel; the papers are in conf/.

Wolf et al. (2019), arXiv:1910.03771, for the library. They are built from a config without a download, or read from a
folder or the hub, safetensors alone. With each comes the normalisation that its weights were trained with.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.models.blocks import Normalize, crop_to, resize
from seg_cli.models.encoder import hub_answers


class Parts(NamedTuple):
    """Where the parts of a model lie, by their names there, and what else is to be known of it."""

    encoder: str
    decoder: tuple[str, ...]
    head: str
    square: bool = False  # it takes squares alone
    unused: tuple[str, ...] = ()  # layers that it has and never runs
    arguments: Mapping[str, Any] = {}


ARCHITECTURES: Mapping[str, Parts] = {
    "beit": Parts("beit", ("fpn",), "decode_head", arguments={"interpolate_pos_encoding": True}),
    "dpt": Parts(
        *("dpt", ("neck",), "head"),
        square=True,
        unused=("dpt.layernorm.", "neck.fusion_stage.layers.0.residual_layer1."),
    ),
    "mobilenet_v2": Parts("mobilenet_v2", (), "segmentation_head", unused=("mobilenet_v2.conv_1x1.",)),
    "mobilevit": Parts("mobilevit", (), "segmentation_head"),
    "mobilevitv2": Parts("mobilevitv2", (), "segmentation_head"),
    "segformer": Parts("segformer", (), "decode_head"),
    "upernet": Parts("backbone", (), "decode_head"),
}
WEIGHTS = ("none", "pretrained")


class Transformers(nn.Module):
    """One of the library's semantic segmentation models, with its parts under our names.

    Images are padded to a multiple of 32 at the bottom and right, to a square for DPT, and the logits brought to the
    image's size bilinearly. Auxiliary heads are left out: the library gives their logits to nobody. Most heads
    normalise the mean of an image over the batch, and so train with two images a batch or more.

    Args:
        name: an architecture (``segformer``), built from the library's default config; or where there is a config to be
            read: a folder, or a name on the hub with a slash (``nvidia/segformer-b0-finetuned-ade-512-512``).
        num_classes: channels of the logits.
        weights: ``none``, or ``pretrained`` for those that lie beside the config; the layers that depend on the number
            of classes begin anew where it is another.
        options: settings of the config that differ, as ``hidden_sizes``.

    Raises:
        UserError: if transformers is not installed; if there is no such architecture, folder, name or option; if the
            weights cannot be had, or only in a form that could execute code.
    """

    def __init__(
        self, *, name: str, num_classes: int, weights: str = "none", options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        library = _library()
        if weights not in WEIGHTS:
            raise UserError(f"model.weights={weights}: a model of transformers has {' and '.join(WEIGHTS)}.")
        is_folder = Path(name).expanduser().is_dir()
        source = str(Path(name).expanduser()) if is_folder else name
        offline = {} if is_folder or name in ARCHITECTURES else {"local_files_only": not hub_answers()}
        config = _config(library, source, name, num_classes, dict(options or {}), offline)
        net = _build(library, source, config, weights, offline)
        parts = ARCHITECTURES[config.model_type]
        # Only for its forward: a bound method is no child, and the parts of the net are registered under our names.
        self._run, self._arguments = net.forward, dict(parts.arguments)
        self.encoder: Any = getattr(net, parts.encoder)
        self.decoder = nn.ModuleDict({part: getattr(net, part) for part in parts.decoder})
        self.head = getattr(net, parts.head)
        self.encoder.pretrained = _describe(source, config) if weights == "pretrained" else "none"
        for key, parameter in net.named_parameters():
            # Training in several processes would wait for the gradients of what is never run.
            parameter.requires_grad_(not key.startswith(_unused(parts, config)))
        mean, std, self.flip = _normalisation(library, source, name, offline)
        self.normalize = Normalize(mean, std)
        patch = getattr(config, "patch_size", None)
        self.multiple = math.lcm(32, patch if isinstance(patch, int) else 1)
        self.square = parts.square

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        x = self.normalize(images.flip(1) if self.flip else images)
        height, width = ((side + self.multiple - 1) // self.multiple * self.multiple for side in x.shape[-2:])
        if self.square:
            height = width = max(height, width)
        x = F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), mode="replicate")
        logits = self._run(pixel_values=x, **self._arguments).logits
        return crop_to(resize(logits, (height, width)), images)


def _library() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise UserError(
            "model=transformers/...: transformers is not installed. Type: pip install 'segrun[transformers]', or "
            "choose a model of our own: segrun list models."
        ) from None
    return transformers


def _config(
    library: Any, source: str, name: str, num_classes: int, options: dict[str, Any], offline: Mapping[str, bool]
) -> Any:
    """The library's config, with the options that differ."""
    known = name in ARCHITECTURES
    if not known and "/" not in name and not Path(source).is_dir():
        raise UserError(
            f"model.name={name}: transformers has no such segmentation model.{did_you_mean(name, ARCHITECTURES)} "
            f"Allowed are {', '.join(ARCHITECTURES)}, a folder with a config.json, and a name on the hub."
        )
    read = partial(library.AutoConfig.for_model, source, **offline)
    if not known:  # code that lies beside a config is not run, nor is the user asked whether it shall be
        read = partial(library.AutoConfig.from_pretrained, source, trust_remote_code=False, **offline)
    try:
        plain = read()
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.name={name}: there is no such folder, and no config of that name on the hub or among earlier "
            f"downloads ({_first_line(error)})."
        ) from None
    if plain.model_type not in ARCHITECTURES:
        raise UserError(
            f"model.name={name}: it is a {plain.model_type}, whose head gives no logits per pixel. Allowed are "
            f"{', '.join(ARCHITECTURES)}."
        )
    settings = plain.to_dict()
    for key in options:
        if key not in settings:
            hint = did_you_mean(key, settings)
            raise UserError(f"model.options.{key}: the config of {plain.model_type} has no such setting.{hint}")
    if "use_auxiliary_head" in settings:
        options["use_auxiliary_head"] = False
    try:
        return read(num_labels=num_classes, **options)
    except Exception as error:  # the library's checks of a config raise errors of many kinds
        raise UserError(f"model.options: {_first_line(error)}") from error


def _build(library: Any, source: str, config: Any, weights: str, offline: Mapping[str, bool]) -> Any:
    architecture = library.AutoModelForSemanticSegmentation
    if weights == "none":
        try:
            return architecture.from_config(config)
        except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, IndexError) as error:
            raise UserError(
                f"model.options: a {config.model_type} cannot be built so ({_first_line(error)})"
            ) from error
    if source in ARCHITECTURES:
        raise UserError(
            f"model.weights=pretrained: '{source}' is an architecture and has none. Give model.name a folder, or a "
            "name on the hub such as nvidia/segformer-b0-finetuned-ade-512-512."
        )
    try:
        with _quiet(library):
            net, found = architecture.from_pretrained(
                source,
                config=config,
                use_safetensors=True,  # the other form could execute code
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                dtype=torch.float32,
                **offline,
            )
    except OSError as error:
        raise UserError(
            f"model.weights=pretrained: {source} has no model.safetensors, here or among earlier downloads "
            f"({_first_line(error)}). Run once where there is a network, or type model.weights=none."
        ) from None
    new = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    in_encoder = sorted(key for key in new if key.startswith(f"{ARCHITECTURES[config.model_type].encoder}."))
    if in_encoder:
        raise UserError(
            f"model.weights=pretrained: {len(in_encoder)} tensors of the encoder are not in the weights of {source} "
            f"or have another shape, as {in_encoder[0]}. They must have the same model.options."
        )
    return net


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Without its progress bars and its remark that a head for other classes begins anew."""
    logging = library.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _unused(parts: Parts, config: Any) -> tuple[str, ...]:
    """The names, as they begin, of parameters that are never run."""
    if config.model_type != "beit":
        return parts.unused
    # The maps are taken in front of layer out_indices - 1, so that what lies behind the last of them is not needed.
    return tuple(f"beit.layers.{i}." for i in range(max(config.out_indices) - 1, config.num_hidden_layers))


def _normalisation(
    library: Any, source: str, name: str, offline: Mapping[str, bool]
) -> tuple[list[float], list[float], bool]:
    """Mean, standard deviation, and whether channels come as blue, green, red: what the weights were trained with."""
    mean, std = list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
    if name in ARCHITECTURES:
        return mean, std, False
    try:
        found, _ = library.ImageProcessingMixin.get_image_processor_dict(source, **offline)
    except OSError:  # not every model has such a file
        return mean, std, False
    if not found.get("do_normalize", "image_mean" in found):
        mean, std = [0.0] * 3, [1.0] * 3
    return found.get("image_mean") or mean, found.get("image_std") or std, bool(found.get("do_flip_channel_order"))


def _describe(source: str, config: Any) -> str:
    """What the weights are, for results.json: a file's name and hash, or a name on the hub and its commit."""
    file = Path(source) / "model.safetensors"
    if file.is_file():
        return f"{Path(source).name} sha256:{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"
    return f"{source} {getattr(config, '_commit_hash', None) or ''}".strip()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
