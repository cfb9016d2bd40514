from dfgan_jax.support.spacing import evenly_spaced


def test_evenly_spaced_has_both_ends():
    assert evenly_spaced(9, most=3).tolist() == [0, 4, 8]
    assert evenly_spaced(2, most=50).tolist() == [0, 1]
    assert evenly_spaced(9, most=1).tolist() == [4]
