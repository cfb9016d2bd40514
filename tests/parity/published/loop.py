"""The published training loop's step in PyTorch, for either layout of the discriminators."""

import torch
from torch import nn

from tests.parity.published import losses
from tests.parity.published.losses import Weights

GENERATOR_LEARNING_RATE = 2e-4
DISCRIMINATOR_LEARNING_RATE = 2e-5


class Loop:
    """The networks, their Adam optimisers and the step that trains both.

    Args:
      generator: maps (N, 1, H, W) normalised quarter-dose slices to denoised ones.
      discriminators: as published {"joint": on image and difference map, as two
        channels}; else {"image": …, "difference": …}, of one channel each.
      weights: of the generator's loss terms; those that weigh nothing are not computed.
    """

    def __init__(self, generator: nn.Module, discriminators: dict[str, nn.Module],
                 weights: Weights):
        self.generator = generator
        self.discriminators = nn.ModuleDict(discriminators)
        self.weights = weights
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=GENERATOR_LEARNING_RATE)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminators.parameters(), lr=DISCRIMINATOR_LEARNING_RATE)

    def scores(self, image, qdct) -> list[torch.Tensor]:
        """Each discriminator's scores of an image and of its difference map."""
        difference = image - qdct
        inputs = {"image": image, "difference": difference,
                  "joint": torch.cat([image, difference], dim=1)}
        return [discriminator(inputs[name]) for name, discriminator in self.discriminators.items()]

    def generator_loss(self, denoised, ndct, qdct):
        """The weighted sum; its adversarial term is the mean over the discriminators."""
        weights = self.weights
        loss = weights.image * losses.intensity(denoised, ndct)
        loss = loss + weights.difference * losses.intensity(denoised - qdct, ndct - qdct)
        if weights.gradient_image:
            loss = loss + weights.gradient_image * losses.gradient(denoised, ndct)
        if weights.gradient_difference:
            loss = loss + weights.gradient_difference * losses.gradient(
                denoised - qdct, ndct - qdct)
        scores = self.scores(denoised, qdct)
        adversarial = sum(losses.adversarial_generator(each) for each in scores) / len(scores)
        return loss + weights.adversarial * adversarial

    def discriminator_loss(self, denoised, ndct, qdct):
        """The mean over the discriminators; `denoised` carries no gradient."""
        pairs = zip(self.scores(ndct, qdct), self.scores(denoised, qdct), strict=True)
        terms = [losses.adversarial_discriminator(real, fake) for real, fake in pairs]
        return sum(terms) / len(terms)

    def step(self, ndct, qdct) -> dict[str, float]:
        """Updates the generator, then the discriminators by the same prediction."""
        self.generator.train()
        denoised = self.generator(qdct)

        self.generator_optimizer.zero_grad()
        generator_loss = self.generator_loss(denoised, ndct, qdct)
        generator_loss.backward()
        self.generator_optimizer.step()

        # The generator's loss left its gradient in the discriminators too.
        self.discriminator_optimizer.zero_grad()
        discriminator_loss = self.discriminator_loss(denoised.detach(), ndct, qdct)
        discriminator_loss.backward()
        self.discriminator_optimizer.step()
        return {"generator_loss": generator_loss.item(),
                "discriminator_loss": discriminator_loss.item()}
