"""The modes, with their descriptions and flags."""

from typing import NamedTuple

Flags = dict[str, str]
"""Flag, spelled as in `output=PATH` → its purpose."""


class Mode(NamedTuple):
    """A mode. A flag that is not in `flags` is an error.

    Attributes:
      summary: description of a line.
      description: description of a paragraph.
      example: flags of a command; `{attn}` is replaced by the configuration of this name.
      needed: flags that the mode needs.
      optional: flags that can be left out.
      with_input: optional flags that need `--input`.
    """

    summary: str
    description: str
    example: str
    needed: Flags
    optional: Flags
    with_input: Flags = {}  # noqa: RUF012  nobody changes it

    @property
    def flags(self) -> Flags:
        return self.needed | self.optional | self.with_input


def name_of(flag: str) -> str:
    """The name of a flag such as `output=PATH`."""
    return flag.split("=")[0]


def names(flags: Flags) -> tuple[str, ...]:
    return tuple(map(name_of, flags))


_CONFIG = {
    "config=FILE[:VARIANT]":
        "file of the configuration, with a variant after a colon: configs/attn.py:demo; or the "
        "name of a configuration that comes with the program: attn:demo"}
_FIELDS = {
    "config.FIELD=VALUE":
        "changes a field of the configuration, such as --config.batch_size=32; configs/base.py "
        "explains each",
    "print_config": "prints the configuration with all its fields, as JSON, and ends"}
_PROCESSES = {
    "coordinator=HOST:PORT":
        "address of process 0, for several processes; not needed under SLURM, Open MPI, Kubernetes "
        "(an indexed Job) and on TPU slices, which are recognised",
    "num_processes=N": "number of processes; 1 ignores SLURM and the others",
    "process_id=I": "index of this process, from 0",
    "join_timeout=SECONDS": "longest wait of the processes for each other at the start; 300 by "
                            "default"}
_SPLIT = {
    "split=SHARES": "shares of the patients for train, valid and test, such as 0.7,0.1,0.2; "
                    "--output is then a folder",
    "patients=id|study|folder":
        "identity of a patient: the patient ID, the default (the study, if the ID is a "
        "placeholder; of a volume its path); the study, which volumes do not have; or the folder "
        "directly below those given"}
_FORMAT = {
    "input_unit=hu|mu|redcnn|dfgan|stored":
        "unit of an array or a volume: HU, the default, refused where the values cannot be HU; "
        "linear attenuation in 1/mm; (HU + 1024) / 4096 of RED-CNN's preparation; (HU + 500) / 500 "
        "of DFGAN's networks; HU + 1024, as most DICOM files store it. --mode=denoise writes the "
        "same unit",
    "axes=nhw|hwn":
        "axes of an .npy of an array: (N, H, W), the default, refused where it looks like the "
        "other; or (H, W, N). --mode=denoise writes the same axes"}
_ARRAYS = ".npy of HU, (H, W) or (N, H, W)"
_VOLUMES = ".nii or .nii.gz"

MODES: dict[str, Mode] = {
    "train": Mode(
        summary="trains, scores the best checkpoint on the test split, writes a report",
        description=(
            "Trains the networks of a configuration on its pairs, which are simulated if it names "
            "no files, scores the best checkpoint on the test split and writes report.html into "
            "the workdir. Files for training and validation alone are enough to train; nothing is "
            "scored then. The same command continues a stopped run."),
        example="--config={attn}:demo --config.seed=1 --workdir=runs/mine",
        needed=_CONFIG,
        optional={
            "workdir=DIR": "folder of the run; runs/NAME by default, with the configuration's name",
            **_FIELDS, **_PROCESSES}),
    "evaluate": Mode(
        summary="scores checkpoints on the test split, in one table",
        description=(
            "Puts the low dose, classical denoisers and every checkpoint into one table over the "
            "test split of a configuration, under several protocols, measures noise, sharpness "
            "and detectability beside them, and writes report.html into the workdir."),
        example="--config={attn} --checkpoint=runs/attn,runs/dfgan,redcnn.pth --workdir=scores",
        needed={
            **_CONFIG,
            "checkpoint=PATH[,PATH…]":
                "models to score, a row each: a workdir, the folder of a checkpoint, a file of "
                "weights (.pth, .pt, .pth.tar, .safetensors), or the name of pretrained weights; a "
                "model of your own is NAME=denoised.npy (or NIfTI, or a folder of DICOM files) or "
                "NAME=module:callable"},
        optional={
            "strength=NUMBER": "a further row of each checkpoint, with this strength",
            "dose_fraction=SHARE": "a further row of each checkpoint, with the strength for scans "
                                   "of this dose; up to a quarter it is 1, the row that there is "
                                   "anyway",
            "self_ensemble": "a further row of each checkpoint, as a self-ensemble",
            "workdir=DIR": "folder to write into; runs/NAME_evaluation by default",
            **_FIELDS, **_PROCESSES}),
    "denoise": Mode(
        summary="denoises DICOM files, arrays and volumes",
        description=(
            "Denoises whole slices of any size and writes them in the input's format: a tree of "
            "DICOM files and NIfTI volumes becomes the same tree of new series and volumes. "
            "Nothing is overwritten."),
        example=("--checkpoint=runs/mine --input=quarter_dose/ --output=denoised/ "
                 "--report=denoised.html"),
        needed={
            "input=PATH": "scan to denoise: a folder of DICOM files or volumes, or one such file "
                          f"({_VOLUMES}); or {_ARRAYS}, or of pairs in the published format",
            "output=PATH": "file or folder to write, of the input's kind"},
        optional={
            "checkpoint=PATH":
                "a workdir, the folder of a checkpoint, a file of weights (.pth, .pt, .pth.tar, "
                ".safetensors), or the name of pretrained weights; attn_dfgan by default",
            "strength=NUMBER": "input + strength · (denoised − input), 0 to 1.5; 1 by default",
            "dose_fraction=SHARE": "dose of the scan over the dose that the result is to look "
                                   "like, in place of the strength: above a quarter, less is "
                                   "removed, such as two thirds at 0.5",
            "self_ensemble": "averages the results of a slice's eight flips and quarter turns, in "
                             "eight times the time",
            "report=FILE": "HTML file to write: slices before and after, their difference, noise "
                           "and HU by tissue",
            "workers=N": "processes that read and write the slices of a folder; 0: threads of one "
                         "process; by default one for each core beside a GPU or TPU, if there are "
                         "many slices",
            **_FORMAT, **_PROCESSES}),
    "convert": Mode(
        summary="converts weights: PyTorch's files, safetensors, checkpoints, and to ONNX",
        description=(
            "Converts weights, by the suffixes of the paths, and prints the conversion of each "
            "tensor. PyTorch is not needed."),
        example="--input=gan_generator_best.pth --output=ported --verify",
        needed={
            "input=PATH": "a workdir, the folder of a checkpoint, or a file of weights (.pth, .pt, "
                          ".pth.tar, .safetensors); again for each file of a discriminator",
            "output=PATH": ".pth, .pt, .pth.tar, .safetensors or .onnx to write, or the folder of "
                           "a checkpoint"},
        optional={
            "container=KEYS": "the generator in a file with several: its keys, joined by dots",
            "storage=float32|float16": "type of the numbers in a file of weights; float16 halves "
                                       "the file; float32 by default",
            "verify": "reads the output back, and denoises a simulated slice with it"}),
    "simulate": Mode(
        summary="makes pairs from phantoms, or from full-dose scans",
        description=(
            "Writes pairs of normal and low dose in the published format. Without --input they "
            "are of phantoms, which the configuration describes. With --input they are of "
            "full-dose scans, and the noise of a lower dose is inserted into each slice; a "
            "manifest has the measurements of each."),
        example="--input=normal_dose/ --output=pairs/ --split=0.7,0.1,0.2 --dose_fraction=0.25",
        needed={
            "output=PATH": "of phantoms, the folder for train.npy, valid.npy and test.npy; of "
                           "scans, the .npy to write, or with --split a folder"},
        optional={
            "input=PATH[,PATH…]":
                f"full-dose scans: a folder of DICOM files or volumes ({_VOLUMES}), or one such "
                f"file; {_ARRAYS}; or a pattern of paths in quotes: 'scans/**/*.nii.gz'; "
                "again for more",
            "config=FILE[:VARIANT]":
                "configuration, such as configs/attn.py or attn; needed without --input; with it, "
                "simulation.dose_fraction and simulation.seed replace the defaults of the flags",
            **_FIELDS},
        with_input={
            "dose_fraction=SHARE": "lower dose over full dose, or a range, from which a value is "
                                   "drawn for each slice: 0.1..0.5; 0.25 by default",
            "kernel=KERNEL": "reconstruction kernel of the noise: soft, medium, sharp, ramp, or "
                             "its f50 in lp/cm; auto, the default, measures it",
            "refilter=F50": "f50 in lp/cm of another kernel for both doses, or a range, from which "
                            "a value is drawn for each slice: 2.8..6.5",
            "full_dose_photons_per_ray=NUMBER":
                "photons of the full dose, instead of the measured number; "
                "dfgan_jax/simulation/noise_insertion.py defines it",
            "pixel_spacing=MM": "pixel pitch, for an .npy, which does not have it",
            "noise_seed=N": "of the noise; 0 by default",
            **_FORMAT, **_SPLIT}),
    "pair": Mode(
        summary="pairs the DICOM files of two doses for training",
        description=(
            "Matches the slices of two doses in trees of DICOM files, by position and "
            "acquisition, and writes them in the published format, with a manifest. Slices without "
            "a certain counterpart are left out, counted and explained. The doses are in trees of "
            "their own, --ndct and --qdct, or in one, --input."),
        example="--ndct=normal_dose/ --qdct=quarter_dose/ --output=pairs/ --split=0.7,0.1,0.2",
        needed={
            "ndct=DIR[,DIR…]":
                "folders or files of DICOM at the normal dose, or a pattern of their paths in "
                "quotes: 'LDCT/**/*Full Dose*'; again for more",
            "qdct=DIR[,DIR…]": "the same at the low dose",
            "output=PATH": ".npy to write; with --split, a folder"},
        optional={
            "input=DIR[,DIR…]":
                "instead of --ndct and --qdct: folders with both doses, or a pattern, told apart "
                "by the description of the series, such as 'Full Dose Images' and 'Low Dose "
                "Images'",
            **_SPLIT}),
    "benchmark": Mode(
        summary="measures the speed of the networks on this machine",
        description=(
            "Times training and denoising on one device, by batch size and type, in a few "
            "minutes, prints a table and writes benchmark.json into the workdir."),
        example="--config={attn}",
        needed=_CONFIG,
        optional={
            "checkpoint=PATH": "weights for the comparison of bfloat16 with float32; untrained "
                               "by default",
            "workdir=DIR": "folder to write into; runs/NAME_benchmark by default", **_FIELDS}),
    "preflight": Mode(
        summary="compiles the steps for devices that this machine lacks",
        description=(
            "Compiles the steps of a configuration for a slice of TPU chips, with libtpu and "
            "without a TPU, and reports whether they fit, their collectives, and the largest "
            "batch; writes preflight.json into the workdir. For GPUs steps are only lowered."),
        example="--config={attn} --topology=v5e:16x16",
        needed=_CONFIG,
        optional={
            "topology=KIND:SHAPE": "slice of TPU chips, such as v5e:16x16, v5p:4x4x4 or v6e:8x8; "
                                   "with --platform=cuda, the number of GPUs, 1 by default",
            "platform=tpu|cuda": "the kind of devices; tpu by default",
            "workdir=DIR": "folder to write into; runs/NAME_preflight by default", **_FIELDS}),
}


def explain(name: str) -> str:
    """The purpose of a flag, in every mode that has it."""
    texts: dict[str, list[str]] = {}
    for mode, each in MODES.items():
        for flag, text in each.flags.items():
            if name_of(flag) == name:
                texts.setdefault(text, []).append(mode)
    return "; ".join(f"{', '.join(modes)}: {text}" for text, modes in texts.items())
