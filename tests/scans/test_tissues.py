import numpy as np
import pytest

from dfgan_jax.scans.tissues import (
    TISSUES,
    TissueError,
    body_mask,
    moments,
    tissue_errors,
    tissue_masks,
)

ROWS, COLUMNS = np.mgrid[:160, :160]


def round_slice():
    """Air, a body of radius 60 with a lung, bone, fat and water in it, and a table."""
    hu = np.full((160, 160), -1000.0, np.float32)
    hu[np.hypot(ROWS - 75, COLUMNS - 80) < 60] = 40
    hu[150:154] = 200
    for row, column, value in ((60, 60, -800), (60, 100, 700), (100, 60, -110), (100, 100, 220)):
        hu[np.hypot(ROWS - row, COLUMNS - column) < 14] = value
    return hu


def test_body_is_filled_without_table_and_rim():
    body = body_mask(round_slice(), margin=6)
    distance = np.hypot(ROWS - 75, COLUMNS - 80)
    assert body[distance < 49].all()
    assert not body[distance > 57].any()
    assert body[60, 60]
    wider = body_mask(round_slice(), margin=1)
    assert not body[~wider].any()
    assert wider.sum() > body.sum() + 1000


def test_there_may_be_no_body():
    assert not body_mask(np.full((64, 64), -1000.0, np.float32)).any()


def test_tissues_lose_their_edges():
    masks = tissue_masks(round_slice(), np.ones((160, 160), bool))
    assert list(masks) == list(TISSUES) == ["lung", "fat", "soft tissue", "bone"]
    for name, (row, column) in {"lung": (60, 60), "bone": (60, 100), "fat": (100, 60)}.items():
        distance = np.hypot(ROWS - row, COLUMNS - column)
        mask = masks[name] & (distance < 20)
        assert mask[distance < 8].all()
        assert not mask[distance > 13].any()
    assert not masks["fat"][np.hypot(ROWS - 60, COLUMNS - 60) < 20].any()  # the lung's rim
    # Blood with contrast medium is neither soft tissue nor bone.
    assert not any(mask[100, 100] for mask in masks.values())
    assert sum(mask.astype(int) for mask in masks.values()).max() == 1
    inside = np.zeros((160, 160), bool)
    assert not any(mask.any() for mask in tissue_masks(round_slice(), inside).values())


def test_noise_of_the_reference_does_not_select():
    """Where noisy pixels were sorted, fat would lose those that look like water."""
    truth = round_slice()
    truth[truth == -110] = -75
    noisy = truth + np.random.default_rng(0).normal(0, 60, truth.shape).astype(np.float32)
    body = body_mask(truth)
    fat = tissue_masks(noisy, body)["fat"] & (np.hypot(ROWS - 100, COLUMNS - 60) < 11)
    assert fat.sum() > 100
    sorted_by_noise = (noisy > -190) & (noisy < -30) & (np.hypot(ROWS - 100, COLUMNS - 60) < 11)
    assert (truth - noisy)[sorted_by_noise].mean() > 15
    assert abs((truth - noisy)[fat].mean()) < 8  # 60 / √mask is 4


def test_slices_are_pooled():
    rng = np.random.default_rng(1)
    errors = rng.normal(3, 7, (3, 40, 40))
    masks = [dict(zip(TISSUES, rng.random((4, 40, 40)) < share, strict=True))
             for share in (0.1, 0.5, 0.9)]
    for slice_masks in masks:
        slice_masks["bone"][:] = False
    found = tissue_errors(sum(moments(error, each)
                              for error, each in zip(errors, masks, strict=True)))
    for name in TISSUES:
        values = np.concatenate([error[each[name]]
                                 for error, each in zip(errors, masks, strict=True)])
        if name == "bone":
            assert found[name] == TissueError(None, None, 0)
            continue
        assert found[name].pixels == len(values)
        assert found[name].bias_hu == pytest.approx(values.mean())
        assert found[name].noise_std_hu == pytest.approx(values.std())
        assert found[name].as_json() == {
            "bias_hu": found[name].bias_hu, "noise_std_hu": found[name].noise_std_hu,
            "pixels": len(values)}


def test_a_constant_error_has_no_noise():
    for bias in np.linspace(0.1, 70.1, 40):  # some variances round to below 0
        error = np.full((30, 30), bias)
        masks = dict.fromkeys(TISSUES, np.ones((30, 30), bool))
        found = tissue_errors(moments(error, masks))["lung"]
        assert found.bias_hu == pytest.approx(bias)
        assert isinstance(found.noise_std_hu, float)
        assert found.noise_std_hu == pytest.approx(0, abs=1e-5)
