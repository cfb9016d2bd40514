"""Every field of a configuration, with its unit and its value on the slides, at paper scale.

The configurations in this folder start from it; it is not a configuration of its own.
Any field can be changed on the command line: `--config.batch_size=32`.
"""

import ml_collections

VARIANTS = ("demo", "native", "open", "slides", "published")
"""Of the GANs: `demo`: the recipe, small; `native`: the first training of the pretrained weights,
on pairs that a run names; `open`: the same, on their own pairs (docs/weights.md); `slides`: the
training of the slides; `published`: that of the published code.
Without a variant: the recipe at paper scale."""


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    # Name of the run, in the default workdir runs/NAME and in the report.
    config.name = ""
    # Weights that training starts from, instead of random ones: a name of pretrained weights,
    # a workdir, a checkpoint, or a file (.pth, .pt, .pth.tar, .safetensors). A U-Net without
    # attention may be narrower than this run. Empty: random.
    config.initial_checkpoint = ""

    config.data = ml_collections.ConfigDict()
    # Training pairs in the published file format: an .npy, or several separated by commas. Without
    # files for any split, all are simulated.
    config.data.train = ""
    # Validation pairs, of other patients; needed beside data.train.
    config.data.valid = ""
    # Test pairs, of further patients. Empty beside data.train: training ends without an evaluation.
    config.data.test = ""
    # Shares of the files of data.train in the batches, separated by commas; they add up to 1,
    # such as 0.7,0.3. Empty: each slice is drawn as often as any other.
    config.data.train_shares = ""
    # Height and width after the bilinear resize [pixels]; 0: native. Multiple of 16.
    config.data.size = 256
    # Height and width of the random crops in training [pixels], at the same place in both doses;
    # 0: whole slices. Multiple of 16. Validation and test take whole slices.
    config.data.crop = 0
    # Random flips and quarter turns in training: one of eight orientations for each slice or crop.
    config.data.augment = False
    # Keep the pairs of training and validation in the device's memory: always, never, or auto: on
    # a GPU or TPU, where they take no more than a quarter of its memory.
    config.data.on_device = "auto"
    # Folder of simulated and preprocessed pairs, which take as much room as the files; empty:
    # ~/.cache/dfgan_jax, or $XDG_CACHE_HOME/dfgan_jax.
    config.data.cache_dir = ""

    # Simulated pairs, of runs without files.
    config.simulation = ml_collections.ConfigDict()
    # Number of training slices, each of another phantom; by default as many as AAPM-Mayo 2016.
    config.simulation.train_slices = 2100
    # Number of validation slices.
    config.simulation.valid_slices = 300
    # Number of test slices.
    config.simulation.test_slices = 600
    # Seed of the phantoms and of their noise.
    config.simulation.seed = 0
    # Photons that reach a detector bin unattenuated, at the normal dose and 256².
    config.simulation.photons_per_ray = 1.45e6
    # Dose of `qdct` as a fraction of that of `ndct`.
    config.simulation.dose_fraction = 0.25

    config.generator = ml_collections.ConfigDict()
    # unet, redcnn, cnn10 or nafnet. Each has a width; blocks is NAFNet's, all other fields of this
    # group are the U-Net's, and those of another architecture keep their published values.
    config.generator.architecture = "unet"
    # Channels of the first stage or layer.
    config.generator.width = 32
    # CBAM after every down and up stage of the U-Net: AttnDFGAN.
    config.generator.attention = False
    # image: the U-Net predicts every pixel, as published; difference: it predicts the difference
    # map, which is added to its input.
    config.generator.output = "image"
    # The U-Net adds its input to all features after each up stage, as published.
    config.generator.add_image = True
    # CBAM's gates start open, instead of half closed as published.
    config.generator.open_gates = False
    # Width of the windows whose maxima CBAM's channel gates average [pixels of the image]; 0: the
    # maximum of the whole image, as published.
    config.generator.gate_window = 0
    # Normalisation in the U-Net's stages: batch (as published), group or none.
    config.generator.normalization = "batch"
    # Share of its running statistics that batch normalisation keeps at each update.
    config.generator.momentum = 0.9
    # NAFNet's blocks, separated by commas: of the encoder's stages, the middle, the decoder's.
    config.generator.blocks = "2,2,4,8,12,2,2,2,2"

    # pair: one discriminator on the image, one on the difference map; joint: one on both, as two
    # channels (as published); none: supervised training.
    config.discriminators = "pair"
    config.discriminator = ml_collections.ConfigDict()
    # Channels of the first layer.
    config.discriminator.width = 128
    # Spectral normalisation: divide each kernel by its largest singular value.
    config.discriminator.spectral_norm = False

    # The generator's loss is a weighted sum (slides); the weights image and difference multiply the
    # same mean squared error, since the two are equal in value.
    config.loss = ml_collections.ConfigDict()
    # Weight of the error of the denoised image.
    config.loss.image = 1.0
    # Weight of the error of the difference map.
    config.loss.difference = 1.0
    # Weight of the error of the denoised image's gradients.
    config.loss.gradient_image = 0.0
    # Weight of the error of the difference map's gradients.
    config.loss.gradient_difference = 0.0
    # Weight of the adversarial term.
    config.loss.adversarial = 0.05
    # Form of image and difference: squared (the slides), charbonnier, or log_squared: the
    # logarithm of each slice's mean squared error, so that noisy slices do not drown the others.
    config.loss.intensity = "squared"
    # Weight of pixels from -160 to 240 HU in image and difference; all others have weight 1.
    config.loss.soft_tissue = 1.0
    # Weight of the anatomy in the removed map, as the evaluation measures it: its mean square is
    # added to each slice's squared error. More of it removes less anatomy, and denoises less.
    config.loss.anatomy = 0.0
    # Number of updates before the adversarial term is added; fewer than those of the run.
    config.loss.adversarial_from_step = 0
    # Target score of the normal dose for the discriminators; 0.9 is one-sided label smoothing.
    config.loss.real_label = 1.0
    # Weight of R1, the squared slope of the discriminators at the normal dose.
    config.loss.gradient_penalty = 0.0

    config.optimizer = ml_collections.ConfigDict()
    # Optimizer of the generator: adam, or muon for its convolutions between features and NAdam for
    # the rest. The discriminators take Adam.
    config.optimizer.algorithm = "adam"
    # Learning rate of the generator.
    config.optimizer.generator_learning_rate = 2e-4
    # Learning rate of the discriminators.
    config.optimizer.discriminator_learning_rate = 2e-5
    # Schedule of both learning rates: constant (as published), or cosine, to 0 at the last step.
    config.optimizer.schedule = "constant"
    # Decay of Adam's first moment; with muon that of NAdam's and of the discriminators', while
    # Muon's own momentum decays by 0.95.
    config.optimizer.b1 = 0.9
    # Decay of Adam's second moment.
    config.optimizer.b2 = 0.999
    # Constant in Adam's denominator.
    config.optimizer.eps = 1e-8
    # Number of updates in which the generator's learning rate rises from 0.
    config.optimizer.warm_up_steps = 0
    # Weight decay of the generator, times the learning rate; with muon of its kernels between
    # features alone, times three times the learning rate.
    config.optimizer.weight_decay = 0.0
    # Largest norm of the generator's gradient, which is scaled down to it; 0: no limit.
    config.optimizer.clip_norm = 0.0
    # Decay of the exponential moving average of the generator's weights; validation, evaluation
    # and denoising then use the average. 0: no average.
    config.optimizer.average_decay = 0.0
    # Batch normalisation keeps the running statistics of initial_checkpoint, and normalises by them
    # in training, too; for fine-tuning on few or small batches.
    config.optimizer.freeze_batch_stats = False

    # Slices in one update, over all devices.
    config.batch_size = 16
    # Number of parts of each batch, computed one after another to save memory. The generator
    # normalises each part by its own statistics.
    config.accumulate = 1
    # Compute the generator's activations again for the gradient, stage by stage: less memory, the
    # same numbers, about a third more time.
    config.remat = False
    # Passes over the training pairs.
    config.epochs = 200
    # Seed of the initial weights and of the order of the data.
    config.seed = 0
    # How devices share a batch: pmap, jit, or auto: jit on one device, pmap on several.
    config.parallel = "auto"
    # Precision of the networks' computation: float32 or bfloat16. Parameters stay float32.
    config.dtype = "float32"

    config.validation = ml_collections.ConfigDict()
    # running: normalise by the running statistics, as at test time. batch: by the statistics of
    # each batch, which also update the running ones, as the published code did.
    config.validation.statistics = "running"
    # psnr: the best checkpoint has the highest PSNR under the protocol full_range;
    # generator_loss: the lowest loss of the generator.
    config.validation.select_by = "psnr"
    # First epoch whose checkpoint may be the best.
    config.validation.first_epoch = 1
    # Most slices of the validation split after each epoch, evenly spaced; 0: all.
    config.validation.slices = 0

    config.evaluation = ml_collections.ConfigDict()
    # Tables beside that of full_range, separated by commas: published, redcnn,
    # ldct_benchmark_chest, ldct_benchmark_abdomen, ldct_benchmark_neuro, dugan, corediff; empty:
    # all. The protocols of ldct_benchmark have VIF, which takes longest.
    config.evaluation.protocols = ""
    # Classical denoisers in the tables, tuned on slices of the validation split: gaussian,
    # bilateral, nlm, tv; empty: none.
    config.evaluation.baselines = "gaussian,bilateral,nlm,tv"
    # Further models in the tables, separated by commas: names of pretrained weights
    # (docs/weights.md), workdirs, or files of weights.
    config.evaluation.checkpoints = ""
    # Measure noise, transfer, detectability, HU by tissue and removed structure, on simulated
    # objects and on the test slices.
    config.evaluation.physics = True
    # Pixel pitch of the test slices as they are scored, after the resize [mm]; 0: that of the
    # manifest beside the file. Without one, or where pitches differ by more than a tenth, spectra
    # are in cycles per pixel. Simulated slices have their own.
    config.evaluation.pixel_spacing_mm = 0.0

    # Number of steps between two rows of metrics.jsonl.
    config.log_every_steps = 20
    # Longest time without a checkpoint within an epoch [minutes].
    config.checkpoint_every_minutes = 10.0
    # Shortest time between the checkpoints of two epochs [seconds]. Of the epochs that end sooner,
    # the best is kept in memory and saved with the next checkpoint.
    config.checkpoint_after_seconds = 10.0
    return config


def apply_variant(config: ml_collections.ConfigDict, variant: str, *, run_name: str
                  ) -> ml_collections.ConfigDict:
    """Changes a paper-scale configuration into one of its variants.

    Args:
      config: of `get_config`, for one of the GANs; changed in place.
      variant: the text after the colon: empty, or one of `VARIANTS`.
      run_name: name of the paper-scale run.

    Raises:
      ValueError: there is no such variant.
    """
    if variant not in ("", *VARIANTS):
        raise ValueError(f"no variant {variant!r}: there are {', '.join(VARIANTS)}, or none for "
                         "the recipe at paper scale")
    config.name = f"{run_name}_{variant}" if variant else run_name
    if variant not in ("slides", "published"):
        apply_recipe(config)
    if variant == "demo":
        apply_demo(config)
        config.generator.width = 12
        config.discriminator.width = 16
        config.optimizer.generator_learning_rate = 5e-3
        config.optimizer.discriminator_learning_rate = 1e-4
    if variant in ("native", "open"):
        apply_native(config)
        config.generator.width = 16
        # Batches mix doses, so that their statistics fit none of their slices (docs/recipe.md).
        config.generator.normalization = "none"
        config.discriminator.width = 16
        config.optimizer.discriminator_learning_rate = 2e-5
    if variant == "open":
        take_open_pairs(config)
    if variant == "published":
        config.discriminators = "joint"
        config.loss.gradient_image = 1.0
        config.loss.gradient_difference = 1.0
        config.validation.statistics = "batch"
        config.validation.select_by = "generator_loss"
        config.validation.first_epoch = 10
    return config


def apply_recipe(config: ml_collections.ConfigDict) -> None:
    """Changes the slides' training of a GAN into the recipe of docs/recipe.md.

    The gains below, in dB on phantoms, are from this page.
    """
    # Few slices are seen often in 200 epochs.
    config.data.augment = True
    # 2.6: the image passes unchanged where the difference is 0.
    config.generator.output = "difference"
    # 0.2: the skip connections already carry the image.
    config.generator.add_image = False
    # 0.1, with attention.
    config.generator.open_gates = True
    # 0.07: the mean PSNR is the mean of logarithms.
    config.loss.intensity = "log_squared"
    # On the scale of a logarithm: a slice's squared error falls by 1 % for 0.02 of this loss.
    config.loss.adversarial = 5.0
    config.optimizer.schedule = "cosine"
    # 0.05, and less spread from seed to seed.
    config.optimizer.average_decay = 0.999


def supervised_config(architecture: str, *, title: str, variant: str) -> ml_collections.ConfigDict:
    """The training of a network without an adversary, with the applicable parts of the recipe.

    Args:
      architecture: of the generator; also the name of the run.
      title: of the network, in messages.
      variant: the text after the colon: empty, demo, native or open.

    Raises:
      ValueError: there is no such variant.
    """
    if variant not in ("", "demo", "native", "open"):
        raise ValueError(f"no variant {variant!r} of {title}: there are demo, native and open, or "
                         "none for the paper scale")
    config = get_config()
    config.name = f"{architecture}_{variant}" if variant else architecture
    config.generator.architecture = architecture
    config.discriminators = "none"
    # 0.1 dB for RED-CNN: the mean PSNR is the mean of logarithms.
    config.loss.intensity = "log_squared"
    config.optimizer.schedule = "cosine"
    config.data.augment = True
    config.optimizer.average_decay = 0.999
    if variant == "demo":
        apply_demo(config)
    if variant in ("native", "open"):
        apply_native(config)
    if variant == "open":
        take_open_pairs(config)
    return config


def apply_demo(config: ml_collections.ConfigDict) -> None:
    """Fewer and smaller phantoms for fewer steps: minutes on two CPU cores."""
    config.data.size = 128
    config.simulation.train_slices = 320
    config.simulation.valid_slices = 16
    config.simulation.test_slices = 32
    # A noisier scan than the calibrated one, so that minutes of training have a visible effect.
    config.simulation.photons_per_ray = 4e5
    config.batch_size = 4
    config.epochs = 10
    config.log_every_steps = 10
    # In so few epochs no slice is seen often: flips and turns only slow training down.
    config.data.augment = False
    config.optimizer.average_decay = 0.99
    # A row for the pretrained weights of the package, beside the trained network.
    config.evaluation.checkpoints = "attn_dfgan"


def apply_native(config: ml_collections.ConfigDict) -> None:
    """The first training of the pretrained weights, on crops of slices at their native size."""
    config.data.size = 0
    config.data.crop = 128
    config.batch_size = 4
    config.epochs = 60
    config.checkpoint_every_minutes = 5.0
    # 1.0 dB over Adam for AttnDFGAN on validation slices, 0.6 dB on test scans; nothing for RED-CNN
    # there (three seeds; docs/recipe.md).
    config.optimizer.algorithm = "muon"
    config.optimizer.generator_learning_rate = 2e-3
    # Without it the weights of the deep stages grow as long as the training lasts.
    config.optimizer.weight_decay = 0.03


def take_open_pairs(config: ml_collections.ConfigDict) -> None:
    """The pairs of the pretrained weights; docs/weights.md has the commands that make them."""
    files = {"native": 0.29, "native_2": 0.29, "refiltered": 0.18, "sharp": 0.18,
             "phantoms": 0.06}
    config.data.train = ",".join(f"open_pairs/{name}/train.npy" for name in files)
    config.data.train_shares = ",".join(map(str, files.values()))
    config.data.valid = "open_pairs/valid.npy"
    config.data.test = "open_pairs/test.npy"
