import pytest

from configs import attn, dfgan
from dfgan_jax.cli import splits
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.support.errors import InputError


def options(*given, baselines="nlm"):
    """The options of a run with a file for some splits."""
    config = attn.get_config()
    for split in given:
        config.data[split] = f"{split}.npy"
    config.evaluation.baselines = baselines
    return RunOptions.of(config)


@pytest.mark.parametrize(("given", "read"), [
    ((), ("train", "valid", "test")),
    (("train", "valid", "test"), ("train", "valid", "test")),
    (("train", "valid"), ("train", "valid"))])
def test_training_needs_no_test_file(given, read):
    assert splits.of_training(options(*given).data) == read


@pytest.mark.parametrize(("given", "message"), [
    (("train",), "valid is empty, but config.data.train is train.npy: phantoms would choose"),
    (("train", "test"), "valid is empty, but config.data.train is train.npy: phantoms would choo"),
    (("valid",), "train is empty, but config.data.valid is valid.npy: training would be on phan"),
    (("test",), "train is empty, but config.data.test is test.npy: training would be on phantoms"),
])
def test_no_phantoms_train_or_choose_beside_files(given, message):
    with pytest.raises(InputError, match=f"config.data.{message}"):
        splits.of_training(options(*given, baselines="").data)


@pytest.mark.parametrize(("given", "baselines", "read"), [
    ((), "nlm", ("valid", "test")), ((), "", ("test",)), (("test",), "", ("test",)),
    (("valid", "test"), "nlm", ("valid", "test")), (("train", "test"), "", ("test",))])
def test_an_evaluation_reads_what_its_rows_need(given, baselines, read):
    chosen = options(*given, baselines=baselines)
    assert splits.of_evaluation(chosen.data, chosen.evaluation) == read


@pytest.mark.parametrize(("given", "baselines", "message"), [
    (("test",), "nlm", "valid is empty, but config.data.test is test.npy: classical denoisers"),
    (("valid",), "nlm", "test is empty, but config.data.valid is valid.npy: the scores would be"),
    (("valid",), "", "test is empty, but config.data.valid is valid.npy: the scores would be tho"),
    (("train",), "nlm", "test is empty, but config.data.train is train.npy: the scores would be"),
])
def test_no_phantoms_are_scored_or_tuned_on_beside_files(given, baselines, message):
    chosen = options(*given, baselines=baselines)
    with pytest.raises(InputError, match=f"config.data.{message}"):
        splits.of_evaluation(chosen.data, chosen.evaluation)


def test_native_slices_are_those_of_files():
    native = RunOptions.of(dfgan.get_config("native"))
    with pytest.raises(InputError, match=r"config\.data\.train is empty, and config\.data\.size is "
                                         r"0, .* Expected files of pairs; or, .* variant :demo"):
        splits.of_training(native.data)
    with pytest.raises(InputError, match=r"config\.data\.test is empty, and config\.data\.size is"):
        splits.of_evaluation(native.data, native.evaluation)
    splits.of_training(RunOptions.of(dfgan.get_config("open")).data)
