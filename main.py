"""DFGAN in JAX: low-dose CT denoising from one command.

  python main.py --config=configs/attn.py:demo
  python main.py --mode=denoise --checkpoint=gan.pth --input=quarter_dose/ --output=denoised/
  python main.py --help

Research software, not a medical device.
"""

from dfgan_jax.cli.help_text import MAIN_PY
from dfgan_jax.cli.main import run
from dfgan_jax.devices.huge_pages import use_huge_pages

if __name__ == "__main__":
    use_huge_pages()
    run(MAIN_PY)
