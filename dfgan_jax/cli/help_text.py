"""The spelling of the program's command, and the text of `--help`."""

import textwrap
from typing import NamedTuple

from dfgan_jax.cli.modes import MODES, Flags

_WIDTH = 100
_INDENT = "      "

_FIRST_STEPS = {
    "denoise": "--input=scan/ --output=out/",
    "train": "--config={attn}:demo",
    "evaluate": "--config={attn}:demo --checkpoint=attn_dfgan,dfgan"}
"""Mode → flags of an example that needs no model of one's own."""


class Command(NamedTuple):
    """The spelling of the program's command.

    Attributes:
      program: the command without its arguments.
      mode_first: the mode is the first argument, not a flag.
      configuration: format of a configuration's path, from its name.
    """

    program: str
    mode_first: bool
    configuration: str

    def mode(self, mode: str) -> str:
        """The spelling of a mode."""
        return mode if self.mode_first else f"--mode={mode}"

    def config(self, name: str) -> str:
        """The spelling of a configuration that comes with the program."""
        return self.configuration.format(name)


MAIN_PY = Command("python main.py", mode_first=False, configuration="configs/{}.py")
DFGAN_JAX = Command("dfgan-jax", mode_first=True, configuration="{}")


def of_all(command: Command) -> str:
    """The modes, a line each, some examples, and the command for the help on a mode."""
    width = max(map(len, MODES))
    modes = [f"  {name:{width}}  {mode.summary}" for name, mode in MODES.items()]
    default = [] if command.mode_first else ["", "Without --mode it is train."]
    return "\n".join([
        "DFGAN in JAX: low-dose CT denoising. Research software, not a medical device.", "",
        f"  {command.program} {command.mode('MODE')} [--FLAG=VALUE …]", "",
        "Modes:", *modes, *default, "",
        "Examples:",
        *(f"  {command.program} {command.mode(mode)} {flags.format(attn=command.config('attn'))}"
          for mode, flags in _FIRST_STEPS.items()), "",
        f"The flags of a mode: {command.program} {command.mode('denoise')} --help",
        f"The version: {command.program} --version"])


def of_mode(mode: str, command: Command) -> str:
    """The description of a mode, its needed and optional flags, and an example."""
    each = MODES[mode]
    call = f"{command.program} {command.mode(mode)}"
    parts = [f"{call} {' '.join(f'--{flag}' for flag in each.needed)} [--FLAG=VALUE …]",
             textwrap.fill(each.description, _WIDTH, break_on_hyphens=False),
             *_group("Needed:", each.needed), *_group("Can be left out:", each.optional),
             *_group("With --input, can be left out:", each.with_input),
             f"Example:\n  {call} {each.example.format(attn=command.config('attn'))}"]
    return "\n\n".join(parts)


def _group(title: str, flags: Flags) -> list[str]:
    """A title with the flags below it; nothing without flags."""
    lines = [line for flag, text in flags.items() for line in (
        f"  --{flag}", textwrap.fill(text, _WIDTH, initial_indent=_INDENT,
                                     subsequent_indent=_INDENT, break_on_hyphens=False,
                                     break_long_words=False))]
    return ["\n".join([title, *lines])] if lines else []
