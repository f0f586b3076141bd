"""Sums on the command line: ``loss=ce+2*dice``, ``augment=geometry+color``, ``logger=wandb+csv``.

Every choice of these groups is a sum of one term, so the files of several terms merge into the sum. All that
is left to do is to answer for a config file named ``loss/ce+2*dice`` that nobody wrote. Hydra asks config
sources for files, so this is one: it makes up a file whose defaults list names the terms and which sets the
weights. Whatever Hydra does with a file (the command line, defaults lists, sweeps, launchers, ``compose``) it
then does with a sum.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from hydra._internal.config_repository import ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from seg_cli.config.choices import SUM_GROUPS, WEIGHTED_GROUPS

_SCHEME = "segrun-sums"


def register() -> None:
    """Teach Hydra sums, for the rest of this process; calling it again does nothing."""
    Plugins.instance().register(SumSource)
    Plugins.instance().register(SumSearchPath)


@dataclass(frozen=True)
class Term:
    """One term of a sum: the name of a choice, and its weight where one was written."""

    name: str
    weight: float | None = None


def parse(group: str, expression: str) -> list[Term]:
    """The terms of a sum, in the order written.

    Raises:
        ConfigCompositionException: if a term is empty or repeated, or a weight is not a number, negative, not
            finite, or stands in a group that takes none.
    """
    terms = [_parse_term(group, expression, text.strip()) for text in expression.split("+")]
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            count = names.count(name)
            instead = f" Write {count}*{name} instead." if group in WEIGHTED_GROUPS else ""
            raise _wrong(group, expression, f"'{name}' stands there more than once.{instead}")
    return terms


def _parse_term(group: str, expression: str, text: str) -> Term:
    before, star, name = text.rpartition("*")
    before, name = before.strip(), name.strip()
    if not name:
        raise _wrong(group, expression, "a term is missing. A sum is written as in a+b or 2*a+b.")
    if not star:
        return Term(name)
    if group not in WEIGHTED_GROUPS:
        raise _wrong(group, expression, f"only a loss takes weights. Write '{name}' without '{before}*'.")
    try:
        weight = float(before)
    except ValueError:
        problem = f"the weight '{before}' is not a number. A weight stands before its term, as in 0.5*dice."
        raise _wrong(group, expression, problem) from None
    if not math.isfinite(weight) or weight < 0:
        raise _wrong(group, expression, f"the weight {before} of '{name}' is not a finite number >= 0.")
    return Term(name, weight)


def _wrong(group: str, expression: str, sentence: str) -> ConfigCompositionException:
    return ConfigCompositionException(f"{group}={expression}: {sentence}")


class SumSource(ConfigSource):
    """Answers ``loss/ce+2*dice`` unless there is a file of that name anywhere on the search path."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        assert isinstance(path, _Address)
        self._search_path = path.search_path

    @staticmethod
    def scheme() -> str:
        return _SCHEME

    @cached_property
    def _files(self) -> ConfigRepository:
        """Everything on the search path but this source.

        It is built late, when the search path is complete: ``--config-dir`` and ``hydra.searchpath`` are
        added behind us.
        """
        others = ConfigSearchPathImpl()
        for element in self._search_path.get_path():
            if not isinstance(element.path, _Address):
                others.append(provider=element.provider, path=element.path)
        return ConfigRepository(others)

    def is_config(self, config_path: str) -> bool:
        group, _, expression = config_path.rpartition("/")
        is_sum = group in SUM_GROUPS and ("+" in expression or "*" in expression)
        return is_sum and not self._files.config_exists(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        if not self.is_config(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        group, _, expression = config_path.rpartition("/")
        terms = parse(group, expression)
        for term in terms:
            self._check_exists(group, expression, term.name)
        config: dict[str, object] = {"defaults": [*(term.name for term in terms), "_self_"]}
        weights = {term.name: term.weight for term in terms if term.weight is not None}
        if weights:
            for name in weights:
                self._check_takes_weight(group, expression, name)
            config["weights"] = weights
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://",
            config=OmegaConf.create(config),
            header={"package": None},
        )

    def _check_exists(self, group: str, expression: str, name: str) -> None:
        if not self._files.config_exists(f"{group}/{name}"):
            options = self._files.get_group_options(group)
            raise MissingConfigException(
                f"In '{group}/{expression}': Could not find '{name}'. Available: {', '.join(options)}",
                missing_cfg_file=f"{group}/{name}",
                options=options,
            )

    def _check_takes_weight(self, group: str, expression: str, name: str) -> None:
        """A file may itself hold a sum, whose terms have weights of their own and no weight in common."""
        loaded = self._files.load_config(f"{group}/{name}")
        own = loaded.config.get("weights") if loaded and isinstance(loaded.config, DictConfig) else None
        if own is None or list(own) != [name]:
            raise _wrong(
                group,
                expression,
                f"'{name}' takes no weight, because {group}/{name}.yaml is not a single term named '{name}'. "
                f"Write out its terms, each with its own weight, or set {group}.weights.TERM=NUMBER.",
            )

    def is_group(self, config_path: str) -> bool:
        return False

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


class SumSearchPath(SearchPathPlugin):
    """Puts the source of sums on the search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        address = _Address(f"{_SCHEME}://")
        address.search_path = search_path
        search_path.append(provider="segrun", path=address)


class _Address(str):
    """The address of the source of sums, and the search path that it stands on.

    Hydra makes a source from its address alone, and copies search paths. A copy of a search path holds a copy
    of this address, which refers to the copied search path, so the source always looks at the files of its
    own search path.
    """

    search_path: ConfigSearchPath
