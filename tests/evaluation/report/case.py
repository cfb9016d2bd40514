"""A run to report on, and the page read back."""

import copy
import html.parser

import numpy as np

from dfgan_jax.evaluation.report.page import Example, write_report
from dfgan_jax.evaluation.report.viewer import Slices

VERDICT = {
    "model": "AttnDFGAN", "over_input": {"over": "QDCT", "psnr_db": 5.5, "interval": None,
                                           "decision": "undecided"},
    "over_baseline": None, "over_model": None, "bias_hu": {}, "anatomy_hu": {}, "detection": {},
    "lesions": None,
    "origin": "phantoms", "slices": 600, "patients": 600, "size": 256, "pixel_spacing_mm": None,
    "sentences": ["In PSNR, it is ahead.", "Phantoms are not patients."],
}

RESULTS = {
    "model": "AttnDFGAN",
    "verdict": VERDICT,
    "config": {"batch_size": 16, "generator": {"width": 32}},
    "checkpoint": {"step": 30, "epoch": 3},
    "data": {"test": "simulated"},
    "slices": 600,
    "device": "TestDevice 9000",
    "versions": {"jax": "0.12.0"},
    "created": "2026-01-02T03:04:05+00:00",
    "protocols": {
        "full_range": {"data_range": 4095, "size": 256, "description": "Fixed range.", "rows": [
            {"name": "QDCT", "psnr": 40.0, "ssim": 0.9, "rmse_hu": 41.0},
            {"name": "AttnDFGAN", "psnr": 45.5, "ssim": 0.9512, "rmse_hu": 21.75},
            {"name": "Sharper", "psnr": 46.5, "ssim": 0.94, "rmse_hu": 22.0}]},
        "published": {"data_range": "moves with the prediction", "size": 128, "description": "",
                      "rows": [{"name": "QDCT", "psnr": 33.5, "ssim": 0.85, "rmse_hu": 41.0},
                               {"name": "AttnDFGAN", "psnr": 32.25, "ssim": 0.84,
                                "rmse_hu": 21.75}]},
    },
    "published": {"QDCT": {"psnr": 33.78583, "ssim": 0.853226},
                  "DFGAN": {"psnr": 37.43686, "ssim": 0.922514}},
}


def history(*, discriminator=True):
    rows = []
    for epoch in range(1, 5):
        train = {"kind": "train", "step": 10 * epoch, "epoch": epoch, "generator_loss": 1 / epoch,
                 "image_loss": 0.5 / epoch, "difference_loss": 0.5 / epoch}
        if discriminator:
            train |= {"adversarial_loss": 0.4, "discriminator_loss": 0.25 / epoch}
        rows += [train, {"kind": "valid", "step": 10 * epoch, "epoch": epoch,
                         "psnr": 40.0 + epoch, "ssim": 0.9, "rmse_hu": 20.0,
                         "generator_loss": 0.9 / epoch}]
    return rows


def example(name="slice 7", *, size=64, seed=0):
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    ndct = np.where(x**2 + y**2 < 0.16, 40.0, -1000.0).astype(np.float32)
    noise = random.normal(0, 30, (size, size)).astype(np.float32)
    return Example(name, ndct, ndct + noise, ndct + 0.25 * noise)


def full_results():
    """`RESULTS` with everything that is optional, and a number missing here and there."""
    results = copy.deepcopy(RESULTS)
    protocol = results["protocols"]["full_range"]
    protocol["window_hu"] = None
    for row, kind in zip(protocol["rows"], ("input", "model", "baseline"), strict=True):
        row |= {"kind": kind, "vif": 0.5, "interval": {
            "psnr": [row["psnr"] - 1, row["psnr"] + 1], "ssim": None}}
    protocol["rows"][2] |= {"parameters": "σ 0.8 px", "vif": None}
    protocol["seeds"] = [{"name": "AttnDFGAN, 2 seeds", "members": ["AttnDFGAN", "Second"],
                          "psnr": {"mean": 45.25, "sd": 0.125}}]
    protocol["tests"] = [{"first": "AttnDFGAN", "second": "QDCT", "metric": "psnr",
                          "median_difference": 5.4321, "p": 3e-7, "p_holm": 0.0123, "n": 600}]
    results["protocols"]["published"]["window_hu"] = [-160, 240]
    results["statistics"] = {"patients": 12, "slices": 600,
                             "notes": ["Patients were drawn, not slices."]}
    results["physics"] = physics()
    results["verdict"] = VERDICT | {
        "over_input": {"over": "QDCT", "psnr_db": 5.5, "interval": [4.25, 6.75],
                       "decision": "ahead"},
        "over_baseline": {"over": "Gaussian", "psnr_db": -1.25, "interval": [-2.5, -0.125],
                          "decision": "behind"},
        "over_model": {"over": "Sharper", "psnr_db": -1.0, "interval": [-2.5, 0.5],
                       "decision": "level"},
        "bias_hu": {"AttnDFGAN": 1.25, "QDCT": -0.5},
        "anatomy_hu": {"AttnDFGAN": 4.56, "Gaussian": 3.21},
        "detection": {name: {"d_prime": value, "standard_error": 0.1} for name, value in (
            ("AttnDFGAN", 2.5), ("QDCT", 2.75), ("NDCT", 6.25))},
        "lesions": "level",
        "origin": "scans", "patients": 12, "pixel_spacing_mm": 0.78125}
    results["config"]["loss"] = {"image": 1.0, "difference": 0.5, "adversarial": 5.0}
    return results


def physics():
    frequencies = [0.0, 1.0, 2.0]

    def nps(noise_std_hu):
        return {"frequencies": frequencies, "radial": [1.0, noise_std_hu**2, 2.0],
                "mean_frequency": 3.125, "peak_frequency": None, "noise_std_hu": noise_std_hu}

    def ttf(contrast_hu, f50):
        return {"contrast_hu": contrast_hu, "frequencies": frequencies, "ttf": [1.0, 0.5, None],
                "f50": f50, "f10": None, "recovered_contrast": 0.987,
                "reason": "above 0.1 up to the pixels' Nyquist frequency"}

    def phantom(noise_std_hu, f50):
        return {"nps": nps(noise_std_hu), "ttf": [ttf(-800.0, f50), ttf(60.0, None)],
                "detectability": [{"contrast_hu": 20.0, "diameter_mm": 8.0, "cnr": 0.625,
                                   "d_prime": 2.75, "d_prime_se": 0.15}]}

    tissues = {"lung": {"bias_hu": -1.5, "noise_std_hu": 33.25, "pixels": 12345},
               "bone": {"bias_hu": -77.5, "noise_std_hu": 99.25, "pixels": 99}}
    return {
        "phantom": {"description": "Discs in water.", "size": 256, "pixel_spacing_mm": 1.40625,
                    "repeats": 16,
                    "rows": {"AttnDFGAN": phantom(12.5, 3.75), "QDCT": phantom(31.5, 4.25)}},
        "slices": {"frequency_unit": "1/pixel", "rows": {
            "QDCT": {"nps": nps(30.25), "tissues": tissues, "structure": None},
            "AttnDFGAN": {"nps": None, "reason": "no patch lies within a body", "tissues": tissues,
                          "structure": {"explained": 0.1234, "rms_hu": 4.56}}}},
    }


def pictures():
    random = np.random.default_rng(0)
    return {"spectra": {"QDCT": random.random((8, 8)), "AttnDFGAN": random.random((8, 8)) / 4},
            "structure": {"AttnDFGAN": (random.normal(0, 20, (16, 16)), np.full((16, 16), 2.0))},
            "structure_slice": "Slice 12"}


def slices(*, count=3, height=24, width=32):
    """NDCT rises by 10 HU a column from −100 HU, and by 1 HU a slice and 100 HU a row.

    QDCT is 30 HU above it, the model 15 HU below.
    """
    index, row, column = np.mgrid[:count, :height, :width].astype(np.float32)
    ndct = 10 * column - 100 + index + 100 * row
    return Slices([f"Scan {i}" for i in range(count)],
                  {"NDCT": ndct, "QDCT": ndct + 30, "AttnDFGAN": ndct - 15})


def write(folder, *, title="A run", results=RESULTS, rows=(), examples=(), **options):
    path = write_report(folder, title=title, results=results, history=rows, examples=examples,
                        **options)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


class Page(html.parser.HTMLParser):
    """Collects tags, references, scripts with their attributes, and the text of all else."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.references, self.scripts, self.text, self._raw = [], [], [], "", None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._raw = tag if tag in ("style", "script") else None
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        self.references += [value for name, value in attrs
                            if name in ("src", "href", "srcset", "action", "data", "poster")]

    def handle_endtag(self, tag):
        self._raw = None

    def handle_data(self, data):
        if self._raw == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._raw is None:
            self.text += " " + " ".join(data.split())
