"""The rooms of the package: imports point down."""

import ast
import pathlib

ROOMS = [
    {"support"},
    {"scans"},
    {"models", "devices", "simulation", "pretrained"},
    {"porting", "data"},
    {"checkpoints"},
    {"denoising"},
    {"evaluation"},
    {"training"},
    {"performance"},
    {"cli"},
]
"""From the lowest to the highest; rooms beside each other do not import each other."""

MODES = ("train", "evaluate", "denoise", "convert", "simulate", "pair", "benchmark", "preflight")

PACKAGE = pathlib.Path(__file__).parents[1] / "dfgan_jax"


def imported(path):
    """The rooms of the package that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dfgan_jax":
            parts = node.module.split(".")
            yield from (alias.name for alias in node.names) if len(parts) == 1 else [parts[1]]


def test_every_folder_is_a_room_of_some_height():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set().union(*ROOMS)


def test_imports_point_down():
    height = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
    upward = [f"{path.relative_to(PACKAGE)} imports {room}"
              for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE
              for home in [path.relative_to(PACKAGE).parts[0]] for room in imported(path)
              if room != home and height[room] >= height[home]]
    assert upward == []


def test_no_mode_imports_another():
    modes = {*MODES, "simulate_scan"}
    crossing = [f"{path.name} imports {name}" for path in (PACKAGE / "cli").glob("*.py")
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.ImportFrom) and path.stem != "main"
                for name in ([alias.name for alias in node.names]
                             if node.module == "dfgan_jax.cli" else
                             [(node.module or "").removeprefix("dfgan_jax.cli.")])
                if name in modes]
    assert crossing == []
