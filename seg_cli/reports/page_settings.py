"""The settings of a run, its environment and its cost, as tables and lists of a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from seg_cli.config.parent import Change, Difference
from seg_cli.reports.page import Cell, Table, duration, mapping


def changes_of(difference: Difference | None) -> list[Table]:
    if difference is None:
        return []

    def table(caption: str, heading: str, changes: Sequence[Change]) -> list[Table]:
        rows = [[Cell(change.key), Cell(_written(change.parent)), Cell(_written(change.run))] for change in changes]
        return [Table(caption, (heading, "parent", "this run"), rows, text=3, sortable=False)] if rows else []

    return [
        *table("Choices that differ", "group", difference.choices),
        *table("Settings that differ from what these choices bring", "setting", difference.settings),
    ]


def _written(value: object) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def environment_of(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    git, cpu, packages = (mapping(environment.get(key)) for key in ("git", "cpu", "packages"))
    commit = str(git.get("commit") or "")[:12]
    gpus = environment.get("gpus") or []
    facts = [
        ("commit", f"{commit}{', with changes' if git.get('changed') else ''}" if commit else ""),
        ("machine", str(environment.get("host") or "")),
        ("GPU", ", ".join(str(gpu.get("name", gpu) if isinstance(gpu, Mapping) else gpu) for gpu in gpus)),
        (
            "CPU",
            " · ".join(f"{value}{'' if key == 'model' else f' {key}'.replace('_', ' ')}" for key, value in cpu.items()),
        ),
        ("system", str(environment.get("os") or "")),
        ("Python", str(environment.get("python") or "")),
        ("packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
    ]
    return [(label, value) for label, value in facts if value]


def cost_of(results: Mapping[str, Any], status: Mapping[str, Any]) -> list[tuple[str, str]]:
    cost = mapping(results.get("cost"))
    memory, wait, best = cost.get("peak_memory_bytes"), cost.get("data_wait"), results.get("best_epoch")
    facts = [
        ("best epoch", f"{best} of {results.get('epochs')}" if best is not None else ""),
        ("steps", f"{status['step']:,}" if isinstance(status.get("step"), int) else ""),
        ("training", duration(cost["train_seconds"]) if cost.get("train_seconds") is not None else ""),
        ("waiting for data", f"{wait:.1%} of it" if wait is not None else ""),
        ("scoring", f"{cost['images_per_second']:.1f} images/s" if cost.get("images_per_second") else ""),
        ("peak memory", f"{memory / 1e9:.2f} GB" if memory else ""),
        ("parameters", f"{cost['parameters']:,}" if cost.get("parameters") else ""),
        ("operations", f"{cost['flops'] / 1e9:.2f} GFLOPs an image" if cost.get("flops") else ""),
        ("pretrained", str(results.get("pretrained") or "")),
        ("fingerprint", str(results.get("fingerprint") or "")[:16]),
    ]
    return [(label, value) for label, value in facts if value]
