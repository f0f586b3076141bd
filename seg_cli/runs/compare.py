"""Two runs of the same settings, compared: what has the same bits, what is near enough, and what differs first."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from seg_cli.errors import UserError
from seg_cli.runs.run import Run
from seg_cli.runs.steps import read_steps

FIRST_LOSS = 0.01
"""Relative difference of the loss of the first step that is allowed where bits may differ: nothing was learned before
it, so that it is of the same weights, images and augmentation, and only the arithmetic is another."""

SCORES = 0.02
"""Absolute difference of mIoU and pixel accuracy of a split that is allowed by default where bits may differ."""

_JUDGED = ("miou", "pixel_accuracy")
_PLACES = (
    *("python", "os", "host", "cpu.model", "cpu.cores", "cpu.torch_threads", "gpus", "cuda"),
    *("git.commit", "git.diff_sha256"),
)
_ARITHMETIC = (
    *("trainer.accelerator", "trainer.devices", "trainer.nodes", "trainer.strategy", "trainer.compile"),
    *("trainer.deterministic", "loader.eval_batch_size"),
)
"""Settings that decide in which order numbers are added, and by which kernels."""


@dataclass(frozen=True)
class Part:
    """One thing of two runs, compared.

    Attributes:
        name: of the file, or what of it.
        verdict: ``same`` bits; ``near`` enough, within the tolerances; ``other`` bits, by which nothing is judged;
            ``differs``, where it must not; ``absent`` in one of them.
        said: what differs first, or how much is the same.
    """

    name: str
    verdict: Literal["same", "near", "other", "differs", "absent"]
    said: str


@dataclass(frozen=True)
class Terms:
    """By which rules two runs are compared.

    Attributes:
        environment: what differs between where they were computed: name -> (of the first, of the second).
        why_not: why the bits need not be the same; None where they must.
        tolerance: of scores, where they need not.
    """

    environment: Mapping[str, tuple[Any, Any]]
    why_not: str | None
    tolerance: float

    @property
    def exact(self) -> bool:
        return self.why_not is None


def terms(first: Run, second: Run, *, tolerance: float = SCORES) -> Terms:
    """What is expected of two runs, by where and how they were computed.

    The same bits are, on the same machine with the same versions, threads and devices; on GPUs only where
    ``trainer.deterministic`` was asked for, for many of their kernels add in an order that is left to chance.
    """
    differs = environment_differences(first.environment, second.environment, configs=(first.config, second.config))
    elsewhere = [*_sittings(first), *_sittings(second)]
    why_not = None
    if differs:
        why_not = "they were not computed in the same environment"
    elif elsewhere:
        why_not = f"one of them went on in another environment than it began in ({', '.join(elsewhere)})"
    elif _on_gpu(first) and not _setting(first.config, "trainer.deterministic"):
        why_not = "GPUs add in an order of their own without trainer.deterministic=true"
    return Terms(differs, why_not, tolerance)


def environment_differences(
    first: Mapping[str, Any], second: Mapping[str, Any], *, configs: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> dict[str, tuple[Any, Any]]:
    """What two environments, as environment.json has them, and the settings of computing say differently.

    Returns:
        name -> (of the first, of the second).
    """
    # One that another version of segrun did not record says nothing; one that is not installed is recorded as None.
    packages = sorted({*first.get("packages", {})} & {*second.get("packages", {})})
    paths = {name: f"packages/{name}" for name in packages} | {name: name.replace(".", "/") for name in _PLACES}
    pairs = {name: (_get(first, path), _get(second, path)) for name, path in paths.items()}
    sides = tuple(zip((first, second), configs, strict=True))
    one, two = ({key: _computing(key, config, environment) for key in _ARITHMETIC} for environment, config in sides)
    pairs |= {key: (one[key], two[key]) for key in _ARITHMETIC}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def compare_requests(first: Run, second: Run, settings: Mapping[str, tuple[Any, Any]]) -> Part:
    """What was asked for.

    Args:
        settings: those that decide a result and differ: key -> (of the first, of the second).
    """
    name = "settings, data and weights"
    if settings:
        said = "; ".join(f"{key}: {_was(before, now)}" for key, (before, now) in settings.items())
        return Part(name, "differs", said)
    one, two = first.results, second.results
    if one["fingerprint"] == two["fingerprint"]:
        return Part(name, "same", f"fingerprint {one['fingerprint'][:12]}")
    if one.get("pretrained") != two.get("pretrained"):
        return Part(name, "differs", f"pretrained: {_was(one.get('pretrained'), two.get('pretrained'))}")
    content = [side.get("data", {}).get("content") for side in (one, two)]
    code = [[_get(run.environment, path) for path in ("packages/segrun", "git")] for run in (first, second)]
    if content[0] == content[1] is not None or (None in content and code[0] != code[1]):
        return Part(name, "absent", "the fingerprints differ, as they do between versions of segrun")
    return Part(name, "differs", "the data is another one: no setting differs, but the fingerprint does")


def compare_steps(first: Run, second: Run, rules: Terms) -> Part:
    """The loss of every step. The first that differs says where two trainings part."""
    try:
        one, two = read_steps(first.folder), read_steps(second.folder)
    except UserError as error:
        return Part("steps.csv", "absent", str(error))
    common = sorted(one.keys() & two.keys())
    if not common:
        return Part("steps.csv", "absent", "no step stands in both of them")
    step = next((step for step in common if not _equal(one[step], two[step])), None)
    if step is None and one.keys() == two.keys():
        return Part("steps.csv", "same", f"{len(common)} steps")
    if step is None:
        return Part("steps.csv", rules_verdict(rules), f"{len(one)} steps were recorded, and now {len(two)}")
    said = f"first in step {step} of {max(one)} (epoch {_epoch(first, step)}): loss {_was(one[step], two[step])}"
    if rules.exact:
        return Part("steps.csv", "differs", said)
    begin, now = one[common[0]], two[common[0]]
    if rules.environment.keys() & {"trainer.devices", "trainer.nodes"}:
        return Part("steps.csv", "other", f"{said}; other processes have other samples a step")
    relative = abs(now - begin) / max(abs(begin), 1e-12)
    said += f"; step {common[0]} differs by {100 * relative:.2g}%, and {FIRST_LOSS:.0%} is allowed"
    return Part("steps.csv", "near" if relative <= FIRST_LOSS else "differs", said)


def compare_metrics(first: Run, second: Run, rules: Terms) -> Part:
    """metrics.csv, epoch by epoch."""
    one, two = first.metrics, second.metrics
    for before, now in zip(one, two, strict=False):
        keys = [key for key in {**before, **now} if not _equal(before.get(key), now.get(key))]
        if keys:
            key, more = keys[0], f" and {len(keys) - 1} more columns" if len(keys) > 1 else ""
            epoch = f"{before.get('epoch') or 0:.0f}"
            said = f"first in epoch {epoch}: {key} {_was(before.get(key), now.get(key))}{more}"
            return Part("metrics.csv", rules_verdict(rules), said)
    if len(one) != len(two):
        return Part("metrics.csv", rules_verdict(rules), f"{len(one)} epochs were recorded, and now {len(two)}")
    return Part("metrics.csv", "same", f"{len(one)} epochs")


def compare_results(first: Run, second: Run, rules: Terms) -> Part:
    """The scores in results.json with the counts that they follow from; not what they cost."""
    one, two = first.results, second.results
    splits = list(dict.fromkeys([*one["splits"], *two["splits"]]))
    before, now = (dict(_flat(_deciding(side))) for side in (one, two))
    keys = [key for key in dict.fromkeys([*before, *now]) if not _equal(before.get(key), now.get(key))]
    if not keys:
        images = ", ".join(f"{one['splits'][name]['images']} images of {name}" for name in splits)
        return Part("results.json", "same", f"all counts and scores of {images}")
    if rules.exact:
        more = f" and {len(keys) - 1} more values" if len(keys) > 1 else ""
        return Part("results.json", "differs", f"{keys[0]} {_was(before.get(keys[0]), now.get(keys[0]))}{more}")
    worst, said = 0.0, []
    for name in splits:
        for key in _JUDGED:
            old, new = (_get(side, f"splits/{name}/{key}") for side in (one, two))
            if old is None or new is None:
                worst = worst if old is new else float("inf")
            else:
                worst = max(worst, abs(new - old))
            said.append(f"{name} {key} {_was(old, new)}")
    near = worst <= rules.tolerance
    return Part("results.json", "near" if near else "differs", f"{'; '.join(said)}; {rules.tolerance:g} is allowed")


def compare_images(first: Run, second: Run, rules: Terms) -> Part:
    """per_image.csv, row by row."""
    try:
        one, two = first.per_image, second.per_image
    except UserError as error:
        return Part("per_image.csv", "absent", str(error))
    if len(one) != len(two):
        return Part("per_image.csv", rules_verdict(rules), f"{len(one)} rows were recorded, and now {len(two)}")
    rows = [(before, now) for before, now in zip(one, two, strict=True) if before != now]
    if not rows:
        return Part("per_image.csv", "same", f"{len(one)} rows")
    before, now = rows[0]
    column = next(key for key in {**before, **now} if before.get(key) != now.get(key))
    said = f"{len(rows)} of {len(one)} rows, first {before.get('split')} {before.get('name')}: {column} "
    return Part("per_image.csv", rules_verdict(rules), said + _was(before.get(column), now.get(column)))


def rules_verdict(rules: Terms) -> Literal["differs", "other"]:
    """What it means that something has other bits."""
    return "differs" if rules.exact else "other"


def _deciding(results: Mapping[str, Any]) -> dict[str, Any]:
    """Of results.json, all that follows from what was asked for: no times, no names."""
    cost = {key: results.get("cost", {}).get(key) for key in ("parameters", "flops")}
    return {key: results.get(key) for key in ("splits", "seed", "best_epoch", "epochs", "pretrained")} | cost


def _on_gpu(run: Run) -> bool:
    return bool(run.environment.get("gpus")) and _setting(run.config, "trainer.accelerator") != "cpu"


def _sittings(run: Run) -> list[str]:
    """What differed in a later sitting of a run that was interrupted, by name."""
    found = []
    for sitting in run.environment.get("resumed", []):
        keys = [name.partition(".")[0] for name in _PLACES] + ["packages"]
        found += [f"{key} from step {sitting.get('step')} on" for key in dict.fromkeys(keys) if key in sitting]
    return found


def _epoch(run: Run, step: int) -> str:
    """Of a step, from 1, by the rows of metrics.csv."""
    return next((f"{row['epoch']:.0f}" for row in run.metrics if (row.get("step") or 0) >= step), "unknown")


def _computing(key: str, config: Mapping[str, Any], environment: Mapping[str, Any]) -> Any:
    """A setting of computing, as it was understood where there is no GPU."""
    value = _setting(config, key)
    if environment.get("gpus"):
        return value
    auto = {"trainer.devices": 1, "trainer.accelerator": "cpu"}
    return auto.get(key, value) if value == "auto" else value


def _setting(config: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return config.get(section, {}).get(name)


def _get(tree: Any, path: str) -> Any:
    for key in path.split("/"):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _flat(tree: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Every value of nested dicts and lists by its path."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, f"{path}/{key}" if path else str(key))
    elif isinstance(tree, list) and tree:
        for index, value in enumerate(tree):
            yield from _flat(value, f"{path}[{index}]")
    else:
        yield path, tree


def _equal(one: Any, two: Any) -> bool:
    return one == two or (one != one and two != two)


def _was(before: Any, now: Any) -> str:
    """The second value, and the first; numbers with as many digits as tell them apart, and six at least."""
    if isinstance(before, float) and isinstance(now, float):
        digits = next((n for n in range(6, 17) if f"{before:.{n}g}" != f"{now:.{n}g}"), 17)
        return f"{now:.{digits}g} instead of {before:.{digits}g}" if before != now else f"{now:.6g} as before"
    return f"{_written(now)} instead of {_written(before)}"


def _written(value: Any) -> str:
    return "nothing" if value is None or value == "" else str(value)
