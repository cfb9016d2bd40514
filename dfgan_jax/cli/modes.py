"""What each mode does, which flags it takes, and which of them it needs."""

from typing import NamedTuple

Flags = dict[str, str]
"""What each flag is for, by the flag as help spells it: `output=PATH`."""


class Mode(NamedTuple):
    """What a mode does and takes. A flag that stands nowhere in it is refused.

    Attributes:
      summary: what it does, in a line.
      description: what it does, in a paragraph.
      example: flags of a command; `{attn}` stands for the configuration of this name.
      needed: flags without which the mode cannot run.
      optional: flags that can be left out.
      with_input: flags that say something only where `--input` is given.
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
    """The name of a flag that is spelled with what it takes."""
    return flag.split("=")[0]


def names(flags: Flags) -> tuple[str, ...]:
    return tuple(map(name_of, flags))


_CONFIG = {
    "config=FILE[:VARIANT]":
        "file of the configuration, with a variant after a colon: configs/attn.py:demo; where "
        "there is no such file, the name of one that comes with the program: attn:demo"}
_FIELDS = {
    "config.FIELD=VALUE":
        "changes a field of the configuration, such as --config.batch_size=32; configs/base.py "
        "explains each",
    "print_config": "prints the configuration with all its fields, as JSON, and ends"}
_PROCESSES = {
    "coordinator=HOST:PORT":
        "where process 0 listens, if there are several processes; not needed under SLURM, Open "
        "MPI, Kubernetes (an indexed Job) and on TPU slices, which are recognised",
    "num_processes=N": "how many processes there are; 1: this one alone, whatever started it",
    "process_id=I": "which of them this is, from 0",
    "join_timeout=SECONDS": "how long the processes wait for each other at the start; 300 by "
                            "default"}
_SPLIT = {
    "split=SHARES": "shares of the patients for train, valid and test, such as 0.7,0.1,0.2; "
                    "--output is then a folder",
    "patients=id|study|folder":
        "what tells patients apart: the patient ID, which is the default (the study, where the ID "
        "is a placeholder); the study; or the folder right below those given"}
_KINDS = (".npy of HU, (H, W) or (N, H, W), or of pairs in the published format; or .nii or "
          ".nii.gz")

MODES: dict[str, Mode] = {
    "train": Mode(
        summary="trains, scores the best checkpoint on the test split, writes a report",
        description=(
            "Trains the networks of a configuration on its pairs, which are simulated where it "
            "names no files, scores the best checkpoint on the test split and writes report.html "
            "into the workdir. A run that was stopped goes on when the same command is given "
            "again."),
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
                "what is scored, a row each: a workdir, the folder of a checkpoint, a file of "
                "weights (.pth, .pt, .pth.tar, .safetensors), or the name of pretrained weights"},
        optional={
            "workdir=DIR": "folder to write into; runs/NAME_evaluation by default",
            **_FIELDS, **_PROCESSES}),
    "denoise": Mode(
        summary="denoises DICOM files, arrays and volumes",
        description=(
            "Denoises whole slices of any size and writes them in the input's format: a tree of "
            "DICOM files becomes the same tree of new series. Nothing is overwritten."),
        example=("--checkpoint=runs/mine --input=quarter_dose/ --output=denoised/ "
                 "--report=denoised.html"),
        needed={
            "input=PATH": f"what is denoised: a folder of DICOM files, or one; {_KINDS}",
            "output=PATH": "file or folder to write, of the input's kind"},
        optional={
            "checkpoint=PATH":
                "a workdir, the folder of a checkpoint, a file of weights (.pth, .pt, .pth.tar, "
                ".safetensors), or the name of pretrained weights; attn_dfgan by default",
            "strength=NUMBER": "input + strength · (denoised − input), 0 to 1.5; 1 by default",
            "report=FILE": "HTML file to write: slices before and after, what was removed, noise "
                           "and HU by tissue"}),
    "convert": Mode(
        summary="converts weights: PyTorch's files, safetensors, checkpoints, and to ONNX",
        description=(
            "Converts weights, by the suffixes of the paths, and tells what becomes of each "
            "tensor. PyTorch is not needed."),
        example="--input=gan_generator_best.pth --output=ported --verify",
        needed={
            "input=PATH": "a workdir, the folder of a checkpoint, or a file of weights (.pth, .pt, "
                          ".pth.tar, .safetensors); again for each file of a discriminator",
            "output=PATH": ".pth, .pt, .pth.tar, .safetensors or .onnx to write, or the folder of "
                           "a checkpoint"},
        optional={
            "container=KEYS": "which generator, where a file has several: the keys that lead to "
                              "it, joined by dots",
            "storage=float32|float16": "type of the numbers in a file of weights; float16 takes "
                                       "half the room of float32, the default",
            "verify": "reads back what was written, and denoises a simulated slice with it"}),
    "simulate": Mode(
        summary="makes pairs from phantoms, or from full-dose scans",
        description=(
            "Writes pairs of normal and low dose in the published format. Without --input they "
            "are of phantoms, which the configuration describes. With --input they are of "
            "full-dose scans, each slice with the noise of a lower dose inserted; a manifest "
            "says what was measured in each."),
        example="--input=normal_dose/ --output=pairs/ --split=0.7,0.1,0.2 --dose_fraction=0.25",
        needed={
            "output=PATH": "of phantoms, the folder for train.npy, valid.npy and test.npy; of "
                           "scans, the .npy to write, or with --split a folder"},
        optional={
            "input=PATH": "a full-dose scan: a folder of DICOM files, or one; "
                          f"{_KINDS}; again for more",
            "config=FILE[:VARIANT]":
                "configuration, such as configs/attn.py or attn; needed without --input; with it, "
                "simulation.dose_fraction and simulation.seed count where no flag says otherwise",
            **_FIELDS},
        with_input={
            "dose_fraction=SHARE": "lower dose over full dose, or a range of which each slice's is "
                                   "drawn: 0.1..0.5; 0.25 by default",
            "kernel=KERNEL": "kernel that the noise is reconstructed with: soft, medium, sharp, "
                             "ramp, or its f50 in lp/cm; auto, the default: as measured",
            "refilter=F50": "f50 in lp/cm of another kernel that both doses get, or a range of "
                            "which each slice's is drawn: 2.8..6.5",
            "full_dose_photons_per_ray=NUMBER":
                "photons of the full dose, instead of as measured; "
                "dfgan_jax/simulation/noise_insertion.py says which",
            "pixel_spacing=MM": "pixel pitch, for an .npy, which does not say it",
            "noise_seed=N": "of the noise; 0 by default",
            **_SPLIT}),
    "pair": Mode(
        summary="pairs the DICOM files of two doses for training",
        description=(
            "Matches the slices of two trees of DICOM files, by where they lie and how they were "
            "made, and writes them in the published format, with a manifest. What has no certain "
            "counterpart is left out, counted and explained."),
        example="--ndct=normal_dose/ --qdct=quarter_dose/ --output=pairs/ --split=0.7,0.1,0.2",
        needed={
            "ndct=DIR": "folder of DICOM files at the normal dose; again for more",
            "qdct=DIR": "the same at the low dose",
            "output=PATH": ".npy to write; with --split, a folder"},
        optional=_SPLIT),
    "benchmark": Mode(
        summary="measures what this machine does with the networks",
        description=(
            "Times training and denoising on one device, by batch size and type, in a few "
            "minutes, prints a table and writes benchmark.json into the workdir."),
        example="--config={attn}",
        needed=_CONFIG,
        optional={
            "checkpoint=PATH": "weights that bfloat16 is compared with float32 on; untrained ones "
                               "by default",
            "workdir=DIR": "folder to write into; runs/NAME_benchmark by default", **_FIELDS}),
    "preflight": Mode(
        summary="compiles the steps for devices that one does not have",
        description=(
            "Compiles the steps of a configuration for a slice of TPU chips, with libtpu and "
            "without a TPU, and says whether they fit, what they exchange, and the largest batch; "
            "writes preflight.json into the workdir. For GPUs steps are only lowered."),
        example="--config={attn} --topology=v5e:16x16",
        needed=_CONFIG,
        optional={
            "topology=KIND:SHAPE": "slice of TPU chips, such as v5e:16x16, v5p:4x4x4 or v6e:8x8, "
                                   "needed for them; with --platform=cuda, the number of GPUs, 1 "
                                   "by default",
            "platform=tpu|cuda": "what to compile for; tpu by default",
            "workdir=DIR": "folder to write into; runs/NAME_preflight by default", **_FIELDS}),
}


def explain(name: str) -> str:
    """What a flag is for, in every mode that takes it."""
    texts: dict[str, list[str]] = {}
    for mode, each in MODES.items():
        for flag, text in each.flags.items():
            if name_of(flag) == name:
                texts.setdefault(text, []).append(mode)
    return "; ".join(f"{', '.join(modes)}: {text}" for text, modes in texts.items())
