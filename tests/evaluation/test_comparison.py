import csv
import json

import numpy as np
import pytest

import dfgan_jax
from configs import attn, dfgan, redcnn
from dfgan_jax.cli.compared import compare
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.data.domain import Domain, ScanProperties
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import write_pairs
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.evaluation import baselines, row_physics, tables
from dfgan_jax.evaluation.comparison import Comparison, chosen_examples, finite_or_null
from dfgan_jax.evaluation.protocols import PROTOCOLS
from dfgan_jax.evaluation.report import curves
from dfgan_jax.evaluation.rows import baseline_rows, input_row
from dfgan_jax.support.errors import InputError
from tests.cli.untrained import untrained


def discs(count, size=128):
    """Discs of soft tissue with noise, in normalised HU."""
    rng = np.random.default_rng(count)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = rng.uniform(size / 3, size / 2.2, (count, 1, 1))
    ndct = np.where(np.hypot(x, y) < radius, 1.08, -1.0).astype(np.float32)
    return Pairs(ndct, ndct + rng.normal(0, 0.06, ndct.shape).astype(np.float32))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two checkpoints that differ by their seed, with everything measured."""
    folder = tmp_path_factory.mktemp("evaluated")
    config, _ = untrained(folder / "a", dfgan, seed=1)
    untrained(folder / "b", dfgan, seed=2)
    config.evaluation.baselines = "gaussian,tv"
    with pytest.MonkeyPatch.context() as patch:
        # As many as the seven slices are filled up to, so that each model compiles once.
        patch.setattr(row_physics, "REPEATS", 8)
        patch.setattr(curves, "_png", lambda figure: b"")  # drawing takes seconds
        compare(
            RunOptions.of(config), workdir=folder / "out",
            data={"valid": discs(3), "test": discs(7)},
            denoisers=[Denoiser.load(folder / name) for name in "ab"])
    return folder / "out"


@pytest.fixture(scope="module")
def results(evaluated):
    return json.loads((evaluated / "results.json").read_text())


NAMES = ["QDCT", "Gaussian", "Total variation", "DFGAN (a)", "DFGAN (b)"]


def test_the_input_classical_denoisers_and_checkpoints_share_one_table(results):
    assert list(results["protocols"]) == list(PROTOCOLS)
    for name, protocol in results["protocols"].items():
        assert [row["name"] for row in protocol["rows"]] == NAMES
        assert [row["kind"] for row in protocol["rows"]] == [
            "input", "baseline", "baseline", "model", "model"]
        assert protocol["size"] == 128
        assert (protocol["window_hu"] is None) == (name in ("full_range", "published"))
    # A blur of flat discs helps, and the noise is known: 0.06 of 500 HU.
    scores = {row["name"]: row for row in results["protocols"]["full_range"]["rows"]}
    assert scores["QDCT"]["rmse_hu"] == pytest.approx(30, rel=0.02)
    assert scores["Total variation"]["rmse_hu"] < scores["Gaussian"]["rmse_hu"] < 29
    gaussian = baselines.BASELINES["gaussian"]
    assert scores["Gaussian"]["parameters"] == gaussian.describe(baselines.tune(
        gaussian, *(500 * each - 500 for each in (discs(3).qdct, discs(3).ndct))))
    low, high = scores["QDCT"]["interval"]["rmse_hu"]
    assert low < scores["QDCT"]["rmse_hu"] < high
    assert list(results["speed"]) == NAMES[1:]
    assert all(speed["slices_per_s"] > 0 for speed in results["speed"].values())
    assert results["speed"]["DFGAN (a)"]["gflop"] == results["speed"]["DFGAN (b)"]["gflop"] > 0
    assert any("tuned on 3 of 3 validation slices (simulated (seed 0))" in note
               for note in results["statistics"]["notes"])


def test_seeds_of_one_model_have_a_mean_and_a_deviation(results):
    protocol = results["protocols"]["full_range"]
    by_name = {row["name"]: row["psnr"] for row in protocol["rows"]}
    [seeds] = protocol["seeds"]
    assert (seeds["name"], seeds["members"]) == ("DFGAN, 2 seeds", ["DFGAN (a)", "DFGAN (b)"])
    first, second = by_name["DFGAN (a)"], by_name["DFGAN (b)"]
    assert first != second
    assert seeds["psnr"]["mean"] == pytest.approx((first + second) / 2)
    assert seeds["psnr"]["sd"] == pytest.approx(abs(first - second) / 2**0.5)


def test_any_two_rows_are_tested(results):
    tests = results["protocols"]["full_range"]["tests"]
    assert len(tests) == 3 * 10
    best = next(test for test in tests if test["metric"] == "rmse_hu"
                and (test["first"], test["second"]) == ("QDCT", "Total variation"))
    # All seven phantoms gain: the smallest p that seven pairs can have.
    assert (best["n"], best["p"]) == (7, 2 / 2**7)
    assert best["median_difference"] > 0
    assert best["p_holm"] >= best["p"]
    assert results["statistics"]["patients"] == 7  # each phantom is one


def test_every_line_of_the_csv_files_carries_its_protocol(evaluated, results):
    with (evaluated / "slices.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 8 * len(NAMES) * 7
    neuro = [line for line in lines if line["protocol"] == "ldct_benchmark_neuro"]
    assert {(line["window_low_hu"], line["window_high_hu"], line["data_range_hu"], line["size"])
            for line in neuro} == {("0.0", "80.0", "80", "128")}
    mean = np.mean([float(line["vif"]) for line in neuro if line["name"] == "Gaussian"])
    row = results["protocols"]["ldct_benchmark_neuro"]["rows"][1]
    assert row["vif"] == pytest.approx(mean, abs=1e-6)
    with (evaluated / "patients.csv").open(newline="") as file:
        patients = list(csv.DictReader(file))
    assert len(patients) == len(lines)
    assert patients[0]["patient"] == "phantom 0"


def test_physics_is_measured_for_each_row_and_the_normal_dose(results):
    phantom, slices = results["physics"]["phantom"], results["physics"]["slices"]
    assert list(phantom["rows"]) == list(slices["rows"])
    assert sorted(phantom["rows"]) == sorted(["NDCT", *NAMES])
    noise = {name: row["nps"]["noise_std_hu"] for name, row in phantom["rows"].items()}
    # A quarter of the dose has twice the noise, and electronic noise more.
    assert 2.0 < noise["QDCT"] / noise["NDCT"] < 2.4
    assert noise["Gaussian"] < noise["QDCT"]
    assert slices["rows"]["QDCT"]["structure"] is None
    assert slices["rows"]["Gaussian"]["tissues"]["soft tissue"]["pixels"] > 1000
    assert slices["frequency_unit"] == "lp/cm"  # of phantoms, whose pixels are known


def test_small_slices_keep_their_own_pixel_size(monkeypatch):
    """The simulated objects need 128 pixels; the test slices may have fewer."""
    monkeypatch.setattr(row_physics, "REPEATS", 8)
    options = RunOptions.of(dfgan.get_config())
    physics = Comparison(options.evaluation, sources=options.sources,
                         data={"test": discs(1, size=64)})._physics
    assert physics.results["slices"]["pixel_spacing_mm"] == 360 / 64
    assert physics.results["phantom"]["pixel_spacing_mm"] == 360 / 128


@pytest.mark.parametrize(("pitches", "given", "expected"), [
    ((0.7, 0.75), 0.0, 0.725 * 2), ((0.7, 0.8), 0.0, None), ((0.7, ""), 0.0, None),
    ((), 0.0, None), ((0.7, 0.75), 1.5, 1.5)])
def test_the_manifest_tells_the_pixel_size(tmp_path, monkeypatch, pitches, given, expected):
    """Slices of 128² are scored at 64²: their pixels are twice as large."""
    monkeypatch.setattr(row_physics, "REPEATS", 8)
    native, scored = discs(2, size=128), discs(2, size=64)
    write_pairs(tmp_path / "test.npy", Pairs(*(500 * each - 500 for each in (
        native.ndct, native.qdct))))
    if pitches:
        rows = "".join(f"{i},p,{pitch}\n" for i, pitch in enumerate(pitches))
        (tmp_path / "test.manifest.csv").write_text(f"index,patient,pixel_spacing_mm\n{rows}")
    config = dfgan.get_config()
    config.data.test = str(tmp_path / "test.npy")
    config.evaluation.pixel_spacing_mm, config.evaluation.baselines = given, ""
    options = RunOptions.of(config)
    physics = Comparison(options.evaluation, sources=options.sources,
                         data={"test": scored})._physics
    assert physics.results["slices"]["pixel_spacing_mm"] == (
        expected if expected is None else pytest.approx(expected))
    phantom = physics.results["phantom"]
    assert ("not by the scanner of the test slices, since their pixel pitch is unknown"
            in phantom["description"]) == (phantom["matched"] is None) == (expected is None)
    if expected is not None:  # the simulated objects have the pixels, too
        assert phantom["pixel_spacing_mm"] == pytest.approx(expected)
        normal, low = phantom["matched"]["objects_noise_hu"].values()
        # The normal dose has no noise: it is inferred from that which the low dose adds, 30 HU.
        assert (low ** 2 - normal ** 2) ** 0.5 == pytest.approx(30, rel=0.1)


def test_facts_and_notes_tell_pixels_thickness_and_the_training(tmp_path, capsys):
    """The model was trained on pixels of another pitch, and on the test slices themselves."""
    native, scored = discs(2, size=192), discs(2, size=64)
    write_pairs(tmp_path / "test.npy", Pairs(*(500 * each - 500 for each in (
        native.ndct, native.qdct))))
    (tmp_path / "test.manifest.csv").write_text(
        "index,patient,pixel_spacing_mm,thickness_mm\n0,p,0.7,3\n1,p,0.7,1.5\n")
    (tmp_path / "valid.manifest.csv").write_text("index,patient,thickness_mm\n0,q,5\n")
    trained_on = Domain.of([ScanProperties(None, None, 0.7)], sizes=[192], simulated=False)
    config, _ = untrained(tmp_path / "a", dfgan, trained_on=trained_on.as_json(),
                          data={"train": scored.fingerprint(), "valid": "of others"})
    config.data.test = str(tmp_path / "test.npy")
    config.data.valid = str(tmp_path / "valid.npy")
    config.evaluation.baselines, config.evaluation.physics = "gaussian", False
    config.evaluation.protocols = "published"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "_png", lambda figure: b"")
        compare(RunOptions.of(config), workdir=tmp_path / "out",
                data={"test": scored, "valid": discs(1, size=64)},
                denoisers=[Denoiser.load(tmp_path / "a")])
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["test_slices"] == {"pixel_spacing_mm": pytest.approx(2.1),
                                    "thickness_mm": [1.5, 3.0], "native_sizes": [[192, 192]]}
    notes = found["statistics"]["notes"]
    assert any("The resize from 192×192 to 64×64 pixels has no antialiasing" in note
               and "reads 11% of the pixels" in note for note in notes)
    assert "DFGAN was trained on pixels of 0.7 mm; those of the test slices have 2.1 mm." in notes
    [warning] = found["warnings"]
    assert warning == ("Trained on this very test split, so that the scores are far too good: "
                       "DFGAN.")
    printed = capsys.readouterr()
    assert f"warning: {warning}" in printed.err
    assert warning in notes
    assert warning in printed.out
    assert warning in (tmp_path / "out" / "report.html").read_text()
    tuning = ("Classical denoisers are tuned on slices of thickness 5 mm, and the test slices have "
              "1.5 mm, 3 mm: their rows may be too low.")
    assert f"warning: {tuning}\n" in printed.err
    assert tuning in notes


def test_without_proportions_the_pixels_have_no_pitch(tmp_path):
    native, scored = discs(1, size=128), discs(1, size=64)
    write_pairs(tmp_path / "test.npy", Pairs(*(500 * each[:, :64] - 500 for each in (
        native.ndct, native.qdct))))
    (tmp_path / "test.manifest.csv").write_text("index,patient,pixel_spacing_mm\n0,p,0.7\n")
    config = dfgan.get_config()
    config.data.test = str(tmp_path / "test.npy")
    config.evaluation.baselines, config.evaluation.physics = "", False
    options = RunOptions.of(config)
    assert Comparison(options.evaluation, sources=options.sources,
                      data={"test": scored})._pitch is None


def notes_on_qdct(data, protocol, monkeypatch):
    """The notes beside the tables of full_range and of a protocol, whose only row is QDCT."""
    config = dfgan.get_config()
    config.evaluation.baselines, config.evaluation.physics = "", False
    config.evaluation.protocols = protocol
    options = RunOptions.of(config)
    comparison = Comparison(options.evaluation, sources=options.sources, data={"test": data})
    monkeypatch.setattr(Comparison, "_headline", "QDCT")
    comparison._add("QDCT", input_row())
    return comparison._notes_on_data()


def test_a_note_counts_slices_without_an_error_in_the_window(monkeypatch):
    """Air with noise is -160 HU in the window of `redcnn`, before and after."""
    data = discs(3, size=48)
    noise = np.random.default_rng(0).normal(0, 0.04, (2, 48, 48))
    data.ndct[1], data.qdct[1] = -1.0 + noise
    notes = [note for note in notes_on_qdct(data, "redcnn", monkeypatch)
             if "equal their references" in note]
    assert notes == ["redcnn: 1 of 3 slices of QDCT equal their references within the window: "
                     "their PSNR is infinite, and rows with such slices have no mean."]


def test_a_note_counts_slices_without_a_range(monkeypatch):
    """Sixteen slices and three of air, which have a batch of their own."""
    data = discs(19, size=32)
    data.ndct[16:], data.qdct[16:] = -1.5 + np.random.default_rng(0).normal(0, 0.04,
                                                                            (2, 3, 32, 32))
    assert ("published: 3 of 19 slices are in batches without a pixel above 0 HU in QDCT: they "
            "have no range, and these rows no mean of PSNR and SSIM.") in notes_on_qdct(
                data, "published", monkeypatch)


def test_slices_without_content_or_noise_count_in_no_score_of_any_row(tmp_path):
    """A blank slice: classical denoisers restore it, a network does not, and QDCT equals it."""
    data = discs(5, size=48)
    data.ndct[1] = data.qdct[1] = -1.0
    data.ndct[2] = -1.0
    data.qdct[3] = data.ndct[3]
    config, _ = untrained(tmp_path / "a", redcnn, discriminators="none")
    config.evaluation.baselines, config.evaluation.physics = "gaussian,tv", False
    config.evaluation.protocols = "full_range"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "_png", lambda figure: b"")
        compare(RunOptions.of(config), workdir=tmp_path / "out",
                data={"valid": discs(3, size=48), "test": data},
                denoisers=[Denoiser.load(tmp_path / "a")])
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["slices"] == found["verdict"]["slices"] == 2
    assert ("3 of 5 test slices have a constant NDCT, or a QDCT equal to it: they count in no "
            "score of any row.") in found["statistics"]["notes"]
    with (tmp_path / "out" / "slices.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["slice"] for line in lines} == {"0", "4"}
    means = {row["name"]: row["psnr"] for row in found["protocols"]["full_range"]["rows"]}
    for name, mean in means.items():
        assert mean == pytest.approx(np.mean([float(line["psnr"]) for line in lines
                                              if line["name"] == name]), abs=1e-5)
    best = max(("Gaussian", "Total variation"), key=means.get)
    assert found["verdict"]["over_baseline"]["over"] == best
    psnr = {(line["name"], line["slice"]): float(line["psnr"]) for line in lines}
    gains = {number: psnr["RED-CNN", number] - psnr["QDCT", number] for number in ("0", "4")}
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"Slice {min(gains, key=gains.get)}, RED-CNN, smallest gain of all slices" in page


def test_a_test_split_without_content_is_refused():
    data = discs(2, size=48)
    data.qdct[:] = data.ndct
    config = dfgan.get_config()
    config.evaluation.physics = False
    options = RunOptions.of(config)
    with pytest.raises(InputError, match="all 2 slices have a constant NDCT, or a QDCT equal to"):
        Comparison(options.evaluation, sources=options.sources, data={"test": data})


def test_the_origin_of_the_numbers_is_recorded(evaluated, results):
    data, denoiser = discs(7), Denoiser.load(evaluated.parent / "a")
    recorded = results["checkpoints"]["DFGAN (a)"]["weights_sha256"]
    assert recorded == denoiser.weights_sha256
    assert recorded != results["checkpoints"]["DFGAN (b)"]["weights_sha256"]
    assert results["data_sha256"] == {"valid": discs(3).sha256(), "test": data.sha256()}
    assert results["evaluation_config"]["evaluation"]["baselines"] == "gaussian,tv"
    assert results["versions"]["dfgan_jax"] == dfgan_jax.__version__


def test_the_report_and_the_printed_tables_are_there(evaluated, results):
    with (evaluated / "slices.csv").open(newline="") as file:
        psnr = {(line["name"], int(line["slice"])): float(line["psnr"])
                for line in csv.DictReader(file) if line["protocol"] == "full_range"}
    worst = min(range(7), key=lambda index: psnr["DFGAN (a)", index] - psnr["QDCT", index])
    page = (evaluated / "report.html").read_text()
    assert f"Slice {worst}, DFGAN (a), smallest gain of all slices" in page
    text = tables.as_text(results)
    assert "redcnn: 7 slices at 128, clipped to -160 to 240 HU, data range 400 HU" in text
    assert "DFGAN, 2 seeds" in text
    assert all(note in text for note in results["statistics"]["notes"])


def test_classical_denoisers_are_tuned_on_validation_slices_alone(monkeypatch):
    tuned_on = []

    def tune(baseline, qdct, ndct):
        tuned_on.append((qdct, ndct))
        return baseline.start(1.0)

    monkeypatch.setattr(baselines, "tune", tune)
    valid = discs(9)
    rows = baseline_rows(RunOptions.of(attn.get_config()).evaluation.baselines, valid)
    assert list(rows) == ["Gaussian", "Bilateral", "Non-local means", "Total variation"]
    for qdct, ndct in tuned_on:  # the first, the last, and two between
        np.testing.assert_array_equal(qdct, 500 * valid.qdct[[0, 3, 5, 8]] - 500)
        np.testing.assert_array_equal(ndct, 500 * valid.ndct[[0, 3, 5, 8]] - 500)


def test_equal_images_leave_json_that_every_program_reads():
    results = {"rows": [{"psnr": float("inf"), "ssim": 1.0}], "slices": 3, "name": "QDCT"}
    assert json.loads(json.dumps(finite_or_null(results), allow_nan=False)) == {
        "rows": [{"psnr": None, "ssim": 1.0}], "slices": 3, "name": "QDCT"}


def test_examples_show_the_slice_that_gains_least():
    ndct = np.zeros((9, 2, 2), np.float32)
    images = np.full((9, 2, 2), 0.5, np.float32)
    images[1] = 0.9
    examples = chosen_examples("model", images, ndct, ndct + 1, scored=np.arange(9), worst=1)
    assert [e.name for e in examples] == [
        "Slice 1, model, smallest gain of all slices", "Slice 2, model", "Slice 4, model",
        "Slice 6, model"]
    assert examples[0].denoised is not None
