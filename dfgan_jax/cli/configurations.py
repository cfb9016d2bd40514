"""Finds configurations, by path or by name, and reads them from the command line."""

import importlib
import pathlib
import sys
import types
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

import dfgan_jax
from dfgan_jax.cli.given_paths import expanded
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.wording import meant, nearest


def shipped_folder() -> pathlib.Path:
    """The folder of the configurations that come with the program."""
    package = pathlib.Path(dfgan_jax.__file__).parent
    # A wheel holds them within the package (setup.py); a checkout has them beside it.
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def shipped() -> list[str]:
    """The names of the configurations that come with the program."""
    return sorted(path.stem for path in shipped_folder().glob("*.py") if path.stem != "base")


def find(text: str) -> tuple[pathlib.Path, str]:
    """The file of a configuration, and its variant with the colon; without a variant "".

    Args:
      text: the path of a file, or, if there is no such file, a name of `shipped`; with an optional
        variant after a colon.

    Raises:
      InputError: there is no such file, and no such name.
    """
    given, colon, variant = text.partition(":")
    path = pathlib.Path(expanded(given))
    if path.is_file():
        return path, colon + variant
    if given in shipped():
        return shipped_folder() / f"{given}.py", colon + variant
    if given.isidentifier():
        raise InputError(f"no such file, and no such configuration{nearest(given, shipped())}; "
                         f"there are {', '.join(shipped())}")
    others = [str(each) for each in _beside(path)] if given else []
    hint = nearest(given, others) or nearest(path.stem, shipped())
    raise InputError(f"no such file{hint}; there are {', '.join(others or shipped())}")


def _beside(path: pathlib.Path) -> list[pathlib.Path]:
    """The configurations in the folder of a path: files that define `get_config`."""
    return [each for each in sorted(path.parent.glob("*.py")) if each.stem != "base"
            and "def get_config(" in each.read_text(encoding="utf-8", errors="replace")]


def _make_importable(folder: pathlib.Path) -> None:
    """Makes `from configs import base` work in a configuration.

    It finds the files in the configuration's folder, if this is named `configs`, and otherwise
    those that come with the program. Neither folder is on the path of an installed program.
    """
    if "configs" not in sys.modules:
        package = types.ModuleType("configs")
        package.__path__ = [str(each) for each in (folder.absolute(), shipped_folder())
                            if each.name == "configs"]
        sys.modules["configs"] = package
        importlib.invalidate_caches()


class _Parser(flags.ArgumentParser[object]):
    """Reads a configuration by path or by name."""

    def __init__(self, of_files: flags.ArgumentParser[object]) -> None:
        super().__init__()
        self._of_files = of_files

    def parse(self, argument: str) -> object:
        file, variant = find(argument)
        _make_importable(file.parent)
        return self._of_files.parse(f"{file}{variant}")

    def flag_type(self) -> str:
        return self._of_files.flag_type()


def define(values: flags.FlagValues, *, explanation: str, sys_argv: Sequence[str] | None = None
           ) -> None:
    """Defines `--config` and `--config.FIELD`.

    Args:
      values: receives the definitions.
      explanation: for `--helpfull`.
      sys_argv: arguments with fields; those of the process by default.
    """
    config_flags.DEFINE_config_file(
        "config", None, explanation, flag_values=values,
        sys_argv=None if sys_argv is None else list(sys_argv))
    values["config"].parser = _Parser(values["config"].parser)


def _elsewhere(name: str, config: Any) -> str:
    """The field of any group with the nearest name, as `nearest` has it."""
    fields: dict[str, str] = {}
    nodes = [("config", config)]
    while nodes:
        path, node = nodes.pop(0)
        for part in node:
            fields.setdefault(part, f"{path}.{part}")
            if hasattr(node[part], "keys"):
                nodes.append((f"{path}.{part}", node[part]))
    return meant(name, fields)


def missing_field(arguments: Sequence[str]) -> str | None:
    """Describes the first --config.FIELD that the configuration lacks; None if it has all."""
    fields = [a.removeprefix("--config.").split("=")[0] for a in arguments
              if a.startswith("--config.")]
    arguments = [a for a in arguments if not a.startswith("--config.")]
    values = flags.FlagValues()  # type: ignore[no-untyped-call]
    define(values, explanation="", sys_argv=arguments)
    values(arguments, known_only=True)
    node: Any
    for field in fields:
        path, node = "config", values["config"].value
        for part in field.split("."):
            if not hasattr(node, "keys"):
                return f"{path} is a value; it has no field {part!r}"
            if part not in node:
                hint = nearest(part, node) or _elsewhere(part, values["config"].value)
                return f"{path} has no field {part!r}{hint}; there are {', '.join(sorted(node))}"
            path, node = f"{path}.{part}", node[part]
    return None
