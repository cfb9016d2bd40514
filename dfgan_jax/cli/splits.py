"""The splits that a mode reads, all from files or all simulated: phantoms score no real scans."""

from collections.abc import Mapping

from dfgan_jax.data.dataset import SPLITS
from dfgan_jax.data.options import DataOptions
from dfgan_jax.evaluation.options import EvaluationOptions
from dfgan_jax.support.errors import InputError


def of_training(data: DataOptions) -> tuple[str, ...]:
    """The splits of a training run; the test split is missing if files have the others alone.

    Raises:
      InputError: some splits have files, and that of training or validation has none; or none has,
        and the size is that of files.
    """
    _check_size_without_files(data, "train")
    _check_no_mix(data, {
        "train": "training would be on phantoms. Expected files of pairs for it, too",
        "valid": "phantoms would choose the best checkpoint. Expected pairs of other patients "
                 "than those of training"})
    return SPLITS if data.test or not data.train else ("train", "valid")


def of_evaluation(data: DataOptions, evaluation: EvaluationOptions) -> tuple[str, ...]:
    """The splits of an evaluation.

    Raises:
      InputError: some splits have files, and one that the evaluation needs has none; or none has,
        and the size is that of files.
    """
    _check_size_without_files(data, "test")
    reasons = {
        "test": "the scores would be those of phantoms. Expected the pairs to score",
        "valid": "classical denoisers would be tuned on phantoms, to their disadvantage. Expected "
                 "pairs of other patients than those of the test split; or "
                 "--config.evaluation.baselines= for a table without them"}
    _check_no_mix(data, {split: reasons[split] for split in reasons if split in evaluation.splits})
    return evaluation.splits


def _check_size_without_files(data: DataOptions, split: str) -> None:
    """Refuses phantoms at a native size, which only files have: `:native` without its files.

    Args:
      split: whose missing files the message names.
    """
    if not data.size and not any(map(data.files, SPLITS)):
        raise InputError(
            f"config.data.{split} is empty, and config.data.size is 0, the native size of files: "
            "thousands of phantoms of 512×512 would be simulated, for hours. Expected files of "
            "pairs; or, for phantoms, the variant :demo, or a size (--config.data.size=256)")


def _check_no_mix(data: DataOptions, reasons: Mapping[str, str]) -> None:
    """Refuses files for some splits where another split would be simulated.

    Args:
      reasons: split that must have files, too → what would be wrong, and what was expected.
    """
    given = next((split for split in SPLITS if data.files(split)), None)
    for split, reason in reasons.items():
        if given and not data.files(split):
            raise InputError(f"config.data.{split} is empty, but config.data.{given} is "
                             f"{','.join(data.files(given))}: {reason}")
