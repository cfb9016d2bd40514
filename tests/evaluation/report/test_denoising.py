import re

import numpy as np
import pytest

from dfgan_jax.data.domain import Domain
from dfgan_jax.evaluation.report.denoising import tissue_table, write_denoising_report
from dfgan_jax.support.errors import InputError

KNOWN = Domain(noise_hu=(10.0, 30.0), kernel_lp_cm=(3.0, 4.0), pixel_spacing_mm=(0.6, 0.9),
               size=(512, 512), simulated=True, slices=24)


def body(size=96):
    """Fat around muscle, of (H, W) HU, in air."""
    offsets = np.hypot(*(np.mgrid[:size, :size] - size / 2))
    return np.select([offsets < 24, offsets < 42], [50.0, -100.0], -1000.0).astype(np.float32)


def scan(count=2):
    """Slices before and after: noise of 20 HU, of which a quarter is left, and 3 HU more."""
    noise = np.random.default_rng(0).normal(0, 20, (count, 96, 96)).astype(np.float32)
    return body() + noise, body() + noise / 4 + 3


def series(**changes):
    return {"description": "Abdomen <3 mm>", "source_series_uid": "1.2.3", "slices": 40,
            "noise_before_hu": 21.4, "noise_after_hu": 5.3, "soft_tissue_shift_hu": 3.0,
            "kernel_lp_cm": 3.5, "pixel_spacing_mm": 0.7, "outside_training": [], "notes": [],
            **changes}


def write(path, *all_series, trained_on=None, strength=1.0, self_ensemble=False):
    before, after = scan()
    write_denoising_report(
        path, names=["10 mm, a.dcm", "20 mm, b.dcm"], before=before, after=after,
        summary={"input": "scan/", "model": "AttnDFGAN", "weights_sha256": "ab" * 32,
                 "version": "1.2", "strength": strength, "trained_on": trained_on,
                 "self_ensemble": self_ensemble,
                 "series": list(all_series) or [series()]})
    return path.read_text(encoding="utf-8")


def test_names_that_are_no_text_are_written_escaped(tmp_path):
    assert "M\\udcfcller" in write(tmp_path / "r.html", series(description="M\udcfcller"))


def test_tissues_have_their_means_and_noise():
    table = tissue_table(*scan(4))
    rows = {row[0].text: [cell.key for cell in row[1:]] for row in table.rows}
    before, after, shift, noise_before, noise_after = rows["soft tissue"]
    assert before == pytest.approx(50, abs=1.5)
    assert after == pytest.approx(53, abs=0.5)
    assert shift == pytest.approx(3, abs=1.5)
    # White noise less its Gaussian mean over about 4·π·2² = 50 pixels: 1 % of the deviation.
    assert noise_before == pytest.approx(20, rel=0.05)
    assert noise_after == pytest.approx(5, rel=0.05)
    assert rows["fat"][0] == pytest.approx(-100, abs=1.5)
    assert rows["lung"] == [None] * 5


def test_the_page_says_what_was_done_and_needs_nothing_else(tmp_path):
    page = write(tmp_path / "r.html", trained_on=KNOWN.as_json(), strength=2 / 3,
                 self_ensemble=True)
    assert "<span>self-ensemble</span>" in page
    assert "strength 0.667<" in page
    assert "<code>0.667</code>" in page
    assert "noise in soft tissue, from 21.4 HU" in page
    assert "Abdomen &lt;3 mm&gt;" in page
    assert "simulated low doses, noise of 10 to 30 HU" in page
    assert "Not what the model was trained on" not in page
    assert "10 mm, a.dcm" in page
    assert "PSNR" not in page.split("<script>")[1].split("</style>")[1].split('id="viewer-data"')[0]
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)
    assert "Research software, not a medical device." in page


def test_series_unlike_those_of_training_stand_at_the_top(tmp_path):
    page = write(tmp_path / "r.html", series(), series(
        description="", source_series_uid="1.2.9", slices=3, noise_after_hu=None,
        noise_before_hu=None, outside_training=["pixels of 2 mm above the 0.6 to 0.9"]))
    header = page.split("<nav>")[0]
    assert "1.2.9: pixels of 2 mm above the 0.6 to 0.9." in header
    assert "of the largest series" in header


def test_slices_that_do_not_belong_together_are_refused(tmp_path):
    before, after = scan()
    with pytest.raises(InputError, match="after has shape"):
        write_denoising_report(tmp_path / "r.html", names=["a"], before=before, after=after[:1],
                               summary={"series": []})
    assert not (tmp_path / "r.html").exists()
