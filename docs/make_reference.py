"""Writes docs/reference.md: every configuration field and every flag, read from the code.

  python docs/make_reference.py            writes the page
  python docs/make_reference.py --check    exits with 1 where the page is not what the code makes

The description of a field is the comment above it in configs/base.py; a field without a comment
is an error. The description of a flag is its help text; its modes come from the table by which
main.py refuses flags that a mode ignores.
"""

import ast
import importlib
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference.md"

HEAD = """\
<!-- Made by docs/make_reference.py from configs/ and main.py: change those, and run it again. -->
# Reference

- [Fields](#fields): `--config.FIELD=VALUE` changes any of them.
- [Configurations](#configurations): the values that each file and variant sets.
- [Flags](#flags) of `main.py`.
"""

FIELDS = """
## Fields

[`configs/base.py`](../configs/base.py) defines every field. *Default* is its value there, which is
that of the slides at paper scale; the [configurations](#configurations) change some. A field name
that does not exist is an error, and so is a value that no run could use.
"""

CONFIGURATIONS = """
## Configurations

The values that differ from the defaults above. An empty cell is the default.
"""

FLAGS = """
## Flags

A flag that the mode ignores is an error. `--verbosity=1` shows the messages of the
libraries.

| flag | default | modes | meaning |
|---|---|---|---|
"""


def page() -> str:
    """The page that the code makes."""
    sys.path.insert(0, str(ROOT))
    base = importlib.import_module("configs.base")
    return "".join([HEAD, FIELDS, *_fields(base), CONFIGURATIONS, *_configurations(base),
                    FLAGS, *_flags()])


def _fields(base: Any) -> Iterator[str]:
    """A table for each section of the configuration, the fields at the top first."""
    comments = comments_above((ROOT / "configs" / "base.py").read_text(encoding="utf-8"))
    values = flat(base.get_config())
    sections = dict.fromkeys(["", *(name.rpartition(".")[0] for name in values)])
    for section in sections:
        yield f"\n### {f'`{section}`' if section else 'At the top'}\n\n"
        if comments.get(section):
            yield f"{comments[section]}\n\n"
        yield "| field | default | meaning |\n|---|---|---|\n"
        for name, value in values.items():
            if name.rpartition(".")[0] == section:
                if not comments.get(name):
                    raise ValueError(f"configs/base.py: config.{name} has no comment above it")
                yield f"| `{name}` | {_shown(value)} | {_cell(comments[name])} |\n"


def comments_above(source: str) -> dict[str, str]:
    """The comment above each field of `config` in `get_config`; name → text, empty without one."""
    lines = source.splitlines()
    function = next(node for node in ast.parse(source).body
                    if isinstance(node, ast.FunctionDef) and node.name == "get_config")
    comments = {}
    for node in function.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            above: list[str] = []
            for line in reversed(lines[:node.lineno - 1]):
                if not line.strip().startswith("#"):
                    break
                above.insert(0, line.strip().removeprefix("#").strip())
            name = ast.unparse(node.targets[0]).removeprefix("config.")
            comments[name] = " ".join(above)
    return comments


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of a configuration, their names joined by dots."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        fields |= (flat(value, f"{prefix}{name}.") if hasattr(value, "items")
                   else {f"{prefix}{name}": value})
    return fields


def _configurations(base: Any) -> Iterator[str]:
    """A table for each configuration file: a column for each variant."""
    defaults = flat(base.get_config())
    for path in sorted((ROOT / "configs").glob("*.py")):
        if path.stem in ("__init__", "base"):
            continue
        module = importlib.import_module(f"configs.{path.stem}")
        values = {variant: flat(module.get_config(variant)) for variant in _variants(path)}
        changed = [name for name in defaults
                   if any(fields[name] != defaults[name] for fields in values.values())]
        heads = " | ".join(f"`:{variant}`" if variant else "paper scale" for variant in values)
        yield (f"\n### `configs/{path.name}`\n\n| field | {heads} |\n"
               f"|---|{'---|' * len(values)}\n")
        for name in changed:
            cells = " | ".join("" if fields[name] == defaults[name] else _shown(fields[name])
                               for fields in values.values())
            yield f"| `{name}` | {cells} |\n"


def _variants(path: pathlib.Path) -> list[str]:
    """The variants that a file's docstring names, the empty one first."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return list(dict.fromkeys(["", *re.findall(rf"configs/{path.name}:(\w+)", docstring)]))


def _flags() -> Iterator[str]:
    """A row for each flag."""
    flags, modes_of = _defined()
    for flag in flags:
        # absl adds the choices of an enumeration at the front, and a note on lists at the end.
        meaning = re.sub(r"^<[^>]*>: ", "", " ".join(flag.help.split()))
        again = "; repeat this option to specify a list of values"
        sentences = [meaning.removesuffix(again).removesuffix(".") + "."]
        if meaning.endswith(again):
            sentences.append("The flag can be given several times.")
        if choices := getattr(flag.parser, "enum_values", None):
            sentences.append(f"One of {', '.join(f'`{each}`' for each in choices)}.")
        modes = [mode for mode, names in modes_of.items() if flag.name in names]
        yield (f"| `--{flag.name}` | {_shown(flag.default)} | {', '.join(modes)} "
               f"| {_cell(' '.join(sentences))} |\n")


def _defined() -> tuple[list[Any], dict[str, tuple[str, ...]]]:
    """The flags of main.py, and mode → the names of those that it takes."""
    absl_flags = importlib.import_module("absl.flags")
    modes, command_line, help_text = (importlib.import_module(f"dfgan_jax.cli.{name}")
                                      for name in ("modes", "command_line", "help_text"))
    values = absl_flags.FlagValues()
    command_line.define(values, command=help_text.MAIN_PY, sys_argv=["main.py"])
    flags = [flag for each in values.flags_by_module_dict().values() for flag in each]
    return flags, {mode: modes.names(each.flags) for mode, each in modes.MODES.items()}


def _shown(value: Any) -> str:
    if value is None or value in ("", []):
        return "–" if value is None or value == [] else "empty"
    return _cell(f"`{value}`")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def main() -> None:
    made = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != made:
        sys.exit(f"{PAGE.relative_to(ROOT)} is not what the code makes: run "
                 "python docs/make_reference.py")


if __name__ == "__main__":
    main()
