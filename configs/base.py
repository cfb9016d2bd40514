"""Every field of a configuration, with its unit and its default at paper scale.

`attn.py`, `dfgan.py` and `redcnn.py` start from this; it is not a configuration of its own.
Any field can be changed on the command line: `--config.batch_size=32`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    # Names the default workdir, runs/NAME, and the report.
    config.name = ""
    # Weights that training starts from, instead of random ones: a workdir, a checkpoint, or a
    # file (.pth, .pt, .pth.tar, .safetensors). Empty: random.
    config.initial_checkpoint = ""

    config.data = ml_collections.ConfigDict()
    # Pairs in the published file format, one .npy for each split; empty: simulated.
    config.data.train = ""
    config.data.valid = ""
    config.data.test = ""
    # Height and width after the bilinear resize [pixels]; 0: native. Multiple of 16.
    config.data.size = 256
    # The pairs of training and validation stay on the device: always, never, or auto: on a GPU or
    # TPU, where they take no more than a quarter of its memory.
    config.data.on_device = "auto"
    # Folder that keeps simulated and preprocessed pairs; empty: ~/.cache/dfgan_jax, or
    # $XDG_CACHE_HOME/dfgan_jax.
    config.data.cache_dir = ""

    # Simulated pairs, for the splits whose file is empty.
    config.simulation = ml_collections.ConfigDict()
    # Number of slices, each of another phantom; those of AAPM-Mayo 2016 by default.
    config.simulation.train_slices = 2100
    config.simulation.valid_slices = 300
    config.simulation.test_slices = 600
    # Which phantoms.
    config.simulation.seed = 0
    # Photons that reach a detector bin unattenuated, at the normal dose and 256².
    config.simulation.photons_per_ray = 1.45e6
    # Dose of `qdct` as a fraction of that of `ndct`.
    config.simulation.dose_fraction = 0.25

    config.generator = ml_collections.ConfigDict()
    # unet; or redcnn, which takes no attention.
    config.generator.architecture = "unet"
    # Channels of the U-Net's first stage, or of every layer of RED-CNN.
    config.generator.width = 32
    # CBAM after every down and up stage of the U-Net: AttnDFGAN.
    config.generator.attention = False

    # pair: one on the image, one on the difference map; joint: one on both, as two
    # channels (as published); none: supervised training.
    config.discriminators = "pair"
    config.discriminator = ml_collections.ConfigDict()
    # Channels of the first layer.
    config.discriminator.width = 128

    # Weights of the generator's terms (slides); image and difference weigh the same
    # mean squared error, since the two are equal in value.
    config.loss = ml_collections.ConfigDict()
    config.loss.image = 1.0
    config.loss.difference = 1.0
    config.loss.gradient_image = 0.0
    config.loss.gradient_difference = 0.0
    config.loss.adversarial = 0.05

    # Adam.
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.generator_learning_rate = 2e-4
    config.optimizer.discriminator_learning_rate = 2e-5
    # Of both learning rates: constant (as published), or cosine, down to 0 at the last step.
    config.optimizer.schedule = "constant"
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8

    # Slices in one update, over all devices.
    config.batch_size = 16
    # Parts that each batch is taken in, one after another: less memory. The generator normalises
    # each part by its own statistics.
    config.accumulate = 1
    # Less memory, the same numbers, about a third more time: compute the generator's activations
    # again for the gradient, stage by stage.
    config.remat = False
    config.epochs = 200
    # Of the initial weights and of the order of the data.
    config.seed = 0
    # auto: jit on one device, pmap on several; or pmap, jit.
    config.parallel = "auto"
    # Of the networks' computation: float32 or bfloat16. Parameters stay float32.
    config.dtype = "float32"

    config.validation = ml_collections.ConfigDict()
    # running: with the running statistics, as at test time. batch: with those of each
    # batch, which also move the running ones, as the published code did.
    config.validation.statistics = "running"
    # The best checkpoint has the highest psnr, under the protocol full_range, or the
    # lowest generator_loss.
    config.validation.select_by = "psnr"
    # First epoch that may be the best.
    config.validation.first_epoch = 1

    config.evaluation = ml_collections.ConfigDict()
    # Tables beside that of full_range, separated by commas: published, redcnn,
    # ldct_benchmark_chest, ldct_benchmark_abdomen, ldct_benchmark_neuro, dugan, corediff; empty:
    # all. VIF, which takes longest, is in those of ldct_benchmark.
    config.evaluation.protocols = ""
    # Classical denoisers in the tables, tuned on slices of the validation split: gaussian,
    # bilateral, nlm, tv; empty: none.
    config.evaluation.baselines = "gaussian,bilateral,nlm,tv"
    # Noise, transfer, detectability, HU by tissue, structure removed; on simulated objects and on
    # the test slices.
    config.evaluation.physics = True
    # Pixel pitch of the test slices as they are scored, after the resize [mm]; 0: not known, so
    # that their spectra are in cycles a pixel. Simulated slices have their own.
    config.evaluation.pixel_spacing_mm = 0.0

    # Steps between two rows of metrics.jsonl.
    config.log_every_steps = 20
    # Longest time without a checkpoint within an epoch [minutes].
    config.checkpoint_every_minutes = 10.0
    # A checkpoint is saved after each epoch that ends this long after the last one [seconds]; of
    # those that end sooner the best is kept, and saved with the next.
    config.checkpoint_after_seconds = 10.0
    return config


def apply_variant(config: ml_collections.ConfigDict, variant: str, *, run_name: str
                  ) -> ml_collections.ConfigDict:
    """Changes a paper-scale configuration into one of its variants.

    Args:
      config: at paper scale; changed in place.
      variant: what stands behind the colon: empty, `demo` or `published`.
      run_name: name of the paper-scale run.

    Raises:
      ValueError: there is no such variant.
    """
    if variant not in ("", "demo", "published"):
        raise ValueError(f"no variant {variant!r}: there are demo and published, or none for the "
                         "paper scale")
    config.name = f"{run_name}_{variant}" if variant else run_name
    if variant == "demo":
        config.data.size = 128
        config.simulation.train_slices = 320
        config.simulation.valid_slices = 16
        config.simulation.test_slices = 32
        # A noisier scan than the calibrated one, so that minutes of training show.
        config.simulation.photons_per_ray = 4e5
        config.generator.width = 12
        config.discriminator.width = 16
        config.optimizer.generator_learning_rate = 5e-3
        config.optimizer.discriminator_learning_rate = 1e-4
        config.optimizer.schedule = "cosine"
        config.batch_size = 4
        config.epochs = 10
        config.log_every_steps = 10
    if variant == "published":
        config.discriminators = "joint"
        config.loss.gradient_image = 1.0
        config.loss.gradient_difference = 1.0
        config.validation.statistics = "batch"
        config.validation.select_by = "generator_loss"
        config.validation.first_epoch = 10
    return config
