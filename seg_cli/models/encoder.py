"""The encoder: any timm model that gives feature maps, with its weights and its own normalisation of the image.

Wightman (2019), doi:10.5281/zenodo.4414861, for the library.
"""

import hashlib
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import huggingface_hub
import huggingface_hub.constants
import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import FeatureListNet, adapt_input_conv
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.models.blocks import Normalize, pad_to_multiple, resize
from seg_cli.models.dilation import dilate_chain
from seg_cli.models.upsample import KINDS, Pool, Upsample


class Encoder(nn.Module):
    """Feature maps of an image at falling resolution.

    Images may have any size. They are padded at the bottom and right, by repeating the border, to a multiple of
    ``multiple``, so that every map has exactly 1/stride of the padded size. A decoder goes up by whole factors to the
    padded size and cuts the padding off with ``blocks.crop_to``.

    Args:
        name: a timm model, as ``resnet18`` or ``convnext_tiny``.
        weights: ``imagenet`` (timm's download from its hub), ``none`` (random), or the path of a ``.safetensors`` file
            or PyTorch checkpoint with timm's names. Checkpoints are read without executing pickles.
        in_channels: channels of the image; a pretrained first layer is adapted to other numbers than 3.
        output_stride: 32, or 16 or 8 where the encoder can trade stride for dilation.

    Attributes:
        channels: channels of each feature map, shallow to deep.
        strides: image pixels a feature pixel, in the same order; each divides the next.
        multiple: what the sides of images are padded to a multiple of.
        any_multiple: false for the few networks that take no image larger than ``multiple``.
        pools: max poolings by 2 between the maps: stride after the pooling -> the channels that it pools.
        pretrained: what the weights are, for results.json: ``imagenet``, ``none``, or the file's name and hash.

    Raises:
        UserError: if timm has no such model, it gives no feature maps or not at this stride, or the weights cannot be
            had or do not fit.
    """

    def __init__(self, name: str, *, weights: str = "none", in_channels: int = 3, output_stride: int = 32) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise UserError(f"model.encoder.output_stride={output_stride}: allowed are 8, 16 and 32.")
        self.pretrained = weights
        self.body = _create(name, in_channels, output_stride, download=weights == "imagenet")
        if weights not in ("imagenet", "none"):
            path = Path(weights).expanduser()
            digest = _load_weights(self.body, path, name, in_channels)
            self.pretrained = f"{path.name} sha256:{digest[:16]}"
        info: Any = self.body  # timm's attributes, which nn.Module does not declare
        self.channels: list[int] = info.feature_info.channels()
        self.strides: list[int] = info.feature_info.reduction()
        if any(deep % shallow for shallow, deep in pairwise(self.strides)):
            raise UserError(
                f"encoder.name={name}: this timm model has feature maps of stride {', '.join(map(str, self.strides))}, "
                "which are no whole multiples of each other. Choose another encoder: segrun list encoders."
            )
        self.name = name
        self.multiple, self.any_multiple = _multiple(self.body, name, self.strides, in_channels)
        self._pools = _find_pools(self.body)  # by their names in the body
        self.pools = {pool.stride: pool.channels for pool in self._pools.values()}
        self._remembered: set[int] = set()  # the strides of the poolings whose positions a decoder wants
        # Swin and its kin give (N, H, W, C).
        self.channels_come_last = getattr(info, "output_fmt", "NCHW") == "NHWC"
        mean, std = info.pretrained_cfg["mean"], info.pretrained_cfg["std"]
        self.normalize = Normalize(*(_repeat(values, in_channels) for values in (mean, std)))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) in 0..255 -> feature maps (N, channels[i], H'/strides[i], W'/strides[i]).

        H' and W' are H and W, rounded up to a multiple of ``multiple``.
        """
        return self.with_positions(images)[0]

    def with_positions(self, images: Tensor, depth: int | None = None) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The feature maps, and by stride after each pooling that a decoder undoes: where its maxima were.

        Positions are what ``F.max_unpool2d`` takes. There are none unless a decoder has asked for them, by
        ``upsampling("max_unpool", ...)``. With ``depth`` only the first so many maps come back, and where the network
        is a chain of layers, no more is computed. The other arguments are those of ``forward``.
        """
        x = self._pad(self.normalize(images))
        shallow = depth is not None and isinstance(self.body, FeatureListNet)
        maps, positions = self._run(x, depth) if self._remembered or shallow else (self.body(x), {})
        maps = maps[:depth]
        if self.channels_come_last:
            maps = [feature.permute(0, 3, 1, 2) for feature in maps]
        sizes = [(x.shape[-2] // stride, x.shape[-1] // stride) for stride in self.strides]
        # Networks without padding (Inception) give somewhat smaller maps.
        return [resize(feature, size) for feature, size in zip(maps, sizes, strict=False)], positions

    def upsampling(self, kind: str, channels: int, start: int, end: int) -> Upsample:
        """What brings ``channels`` channels from stride ``start`` up to stride ``end`` in a decoder of this encoder.

        Args:
            kind: ``model.upsample``.
            channels: of the map.
            start, end: image pixels a pixel of the map, before and after; ``start`` is a multiple of ``end``.

        Raises:
            UserError: if there is no such kind, or it is ``max_unpool`` and the encoder does not pool on the way.
        """
        if start % end:
            raise ValueError(f"stride {start} is no multiple of stride {end}")
        if kind != "max_unpool" or start == end:
            return Upsample(kind, channels, start // end)
        strides = []
        while start > end and start in self.pools:
            strides.append(start)
            start //= 2
        if start != end:
            pooled = f"at stride {', '.join(map(str, self.pools))}" if self.pools else "none"
            raise UserError(
                f"model.upsample=max_unpool: it needs the positions of a max pooling to stride {start}, and "
                f"encoder.name={self.name} has no such pooling there (it has {pooled}). encoder.name=vgg16_bn has one "
                f"at every step. Or choose another model.upsample: {', '.join(k for k in KINDS if k != kind)}."
            )
        self._remembered.update(strides)
        return Upsample(kind, channels, 2 ** len(strides), pools=[Pool(s, self.pools[s]) for s in strides])

    def level(self, stride: int) -> int:
        """Which feature map has this stride. Raises UserError if none has."""
        if stride not in self.strides:
            raise UserError(
                f"encoder.name: this encoder has feature maps of stride {', '.join(map(str, self.strides))}, and the "
                f"model needs one of stride {stride}. Choose another encoder: segrun list encoders."
            )
        return self.strides.index(stride)

    def _pad(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if not self.any_multiple and max(height, width) > self.multiple:
            raise UserError(
                f"encoder.name={self.name}: this timm model takes images of at most {self.multiple}x{self.multiple} "
                f"pixels, and was given {height}x{width}. Choose another encoder: segrun list encoders."
            )
        return pad_to_multiple(x, self.multiple)

    def _run(self, x: Tensor, depth: int | None = None) -> tuple[list[Tensor], dict[int, Tensor]]:
        """What the body's forward does, a chain of layers some of whose results are feature maps."""
        body = cast(FeatureListNet, self.body)
        maps, positions = [], {}
        for name, layer in body.items():
            pool = self._pools.get(name)
            if pool is not None and pool.stride in self._remembered:
                settings = cast(nn.MaxPool2d, layer)
                x, positions[pool.stride] = F.max_pool2d(
                    x, settings.kernel_size, settings.stride, settings.padding, return_indices=True
                )
            else:
                x = layer(x)
            if name in body.return_layers:
                maps.append(x)
            if len(maps) == depth:
                break
        return maps, positions


def _create(name: str, in_channels: int, output_stride: int, download: bool) -> nn.Module:
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"encoder.name={name}: timm has no such model.{hint} See: segrun list encoders.")
    is_chain = name.startswith("vgg")  # timm does not dilate these
    options = any_size(name) | ({} if output_stride == 32 or is_chain else {"output_stride": output_stride})
    try:
        with _offline_hub() if download and not hub_answers() else nullcontext():
            body = timm.create_model(name, pretrained=download, features_only=True, in_chans=in_channels, **options)
        if is_chain:
            dilate_chain(body.children(), output_stride)
            for level in cast(Any, body).feature_info.info:
                level["reduction"] = min(level["reduction"], output_stride)
        return body
    except (TypeError, AssertionError, NotImplementedError, AttributeError) as error:
        wanted = f" at output stride {output_stride}" if output_stride != 32 else ""
        reason = f" ({error})" if str(error) else ""
        instead = "Type model.encoder.output_stride=32, or choose" if wanted else "Choose"
        raise UserError(
            f"encoder.name={name}: this timm model cannot give feature maps{wanted}{reason}. "
            f"{instead} another encoder: segrun list encoders."
        ) from None
    except (RuntimeError, OSError) as error:
        if not download:
            raise
        raise UserError(
            f"encoder.weights=imagenet: the weights of '{name}' could not be downloaded "
            f"and are not among earlier downloads ({type(error).__name__}). Three ways on: run once where there is a "
            "network, and the download is kept for later; encoder.weights=FILE.safetensors to use a file of "
            "yours; encoder.weights=none to start from random weights."
        ) from None


def any_size(name: str) -> dict[str, Any]:
    """The options with which a transformer that was built for one size of image takes others, where it can."""
    settings = timm.get_pretrained_cfg(name)
    if settings is None or not settings.fixed_input_size:
        return {}
    families: list[dict[str, Any]] = [{"dynamic_img_size": True, "dynamic_img_pad": True}, {"strict_img_size": False}]
    for options in families:
        try:
            timm.create_model(name, **options)
        except TypeError:
            continue
        return options
    return {}


def _multiple(body: nn.Module, name: str, strides: list[int], in_channels: int) -> tuple[int, bool]:
    """What images have to be multiples of, and whether any multiple of it will do, or only this size itself.

    Networks for one size of image are tried: those with windows (MaxViT) take multiples of that size, and those that
    learned something for each position (CoaT) that size alone. On the meta device, where nothing is computed.
    """
    settings = cast(Any, body).pretrained_cfg
    multiple = math.lcm(*strides)
    if not settings.get("fixed_input_size"):
        return multiple, True
    shapes_alone = deepcopy(body).to("meta").eval()

    @torch.no_grad()
    def takes(height: int, width: int) -> bool:
        try:
            shapes_alone(torch.empty(1, in_channels, height, width, device="meta"))
        except (AssertionError, RuntimeError):
            return False
        return True

    if takes(3 * multiple, 5 * multiple):
        return multiple, True
    built_for = settings["input_size"][-1]
    if built_for % multiple:
        raise UserError(
            f"encoder.name={name}: this timm model takes images of {built_for}x{built_for} alone, which is no multiple "
            f"of the strides of its feature maps ({', '.join(map(str, strides))}). Choose another encoder: segrun list "
            "encoders."
        )
    return built_for, takes(2 * built_for, built_for)


def _find_pools(body: nn.Module) -> dict[str, Pool]:
    """The max poolings by 2 right behind feature maps, by their names in a body that is a chain of layers.

    The positions of others, inside a stage or beside other branches, would not fit a map of the decoder.
    """
    if not isinstance(body, FeatureListNet):
        return {}
    info = body.feature_info
    maps = dict(zip(body.return_layers, zip(info.reduction(), info.channels(), strict=True), strict=True))
    return {
        name: Pool(2 * maps[before][0], maps[before][1])
        for before, (name, layer) in zip(body, list(body.items())[1:], strict=False)
        if before in maps
        and isinstance(layer, nn.MaxPool2d)
        and (layer.kernel_size, layer.stride, layer.padding) in _HALVES
    }


# Kernel, stride and padding of poolings that give half of any even size.
_HALVES = ((2, 2, 0), (3, 2, 1))


def hub_answers() -> bool:
    """Whether timm's hub can be reached; its client would retry for most of a minute before saying that it cannot."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # a proxy resolves and connects for us
    host = urlsplit(huggingface_hub.constants.ENDPOINT)
    try:
        with socket.create_connection((host.hostname or "", host.port or 443), timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def _offline_hub() -> Iterator[None]:
    """Only what was downloaded earlier is used, and nothing is asked for."""
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = before


def _load_weights(body: nn.Module, path: Path, name: str, in_channels: int) -> str:
    """Fill the encoder from a file, every tensor of it or none. Returns the file's SHA-256."""
    state = _read_state(path)
    # Feature extraction renames 'stem.0' to 'stem_0'; apart from that the names are timm's.
    given = {key.replace(".", "_"): tensor for key, tensor in state.items()}
    wanted = body.state_dict()
    first = cast(Any, body).pretrained_cfg.get("first_conv")
    missing, misfits, fitted = [], [], {}
    for key, tensor in wanted.items():
        value = given.get(key.replace(".", "_"))
        if value is None:
            # Many converted files lack the counters of batch norms, which only matter without momentum.
            if not key.endswith("num_batches_tracked"):
                missing.append(key)
            continue
        if isinstance(first, str) and key.replace(".", "_") == f"{first}.weight".replace(".", "_"):
            value = _adapt_channels(value, in_channels)
        if value.shape != tensor.shape:
            misfits.append(f"{key} is {tuple(value.shape)} and should be {tuple(tensor.shape)}")
        fitted[key] = value
    if missing or misfits:
        problems = [f"{len(missing)} of {len(wanted)} tensors are missing, as {missing[0]}"] if missing else []
        problems += [f"{len(misfits)} have another shape: {misfits[0]}"] if misfits else []
        raise UserError(
            f"encoder.weights={path}: these weights do not fit encoder.name={name}: {'; '.join(problems)}. "
            f"Give the file of a timm '{name}', or the encoder that the file belongs to."
        )
    body.load_state_dict(fitted)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _adapt_channels(kernel: Tensor, in_channels: int) -> Tensor:
    """The first layer's (O, 3, h, w) for images of other channels; one that is not for 3 channels is left alone."""
    if kernel.ndim != 4 or kernel.shape[1] != 3 or in_channels == 3:
        return kernel
    return adapt_input_conv(in_channels, kernel.float())


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"encoder.weights={path}: there is no such file ({path.absolute()}). Allowed are imagenet, none, and the "
            "path of a .safetensors file or a PyTorch checkpoint."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"encoder.weights={path}: the file cannot be read ({_first_line(error)}).") from None
    except Exception as error:  # the unpickler's error for a file that wants to execute code
        raise UserError(
            f"encoder.weights={path}: the file holds more than tensors and is not loaded, since it could execute code "
            f"({_first_line(error)}). Save its state_dict() alone, best as .safetensors."
        ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"encoder.weights={path}: expected a state dict, names with tensors, and found something else.")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _repeat(values: tuple[float, ...], channels: int) -> list[float]:
    return [values[i % len(values)] for i in range(channels)]
