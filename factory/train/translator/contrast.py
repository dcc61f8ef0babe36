"""What CUT trains: generator, discriminator, and the projections whose patches are contrasted.

Park et al. 2020, Contrastive Learning for Unpaired Image-to-Image Translation (arXiv 2007.15651).
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, normalize

from factory.models.translators.config import ResnetSettings
from factory.models.translators.resnet import BlurDown, ResnetGenerator
from factory.train.translator.settings import CutOptimisation

_DIM = 256  # of projected patches
_STD = 0.02  # of the first weights, as in the published code


class PatchDiscriminator(nn.Module):
    """A PatchGAN of three levels (Isola et al. 2017), antialiased, with instance norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 1, 1), nn.LeakyReLU(0.2), BlurDown(width)]
        for last in (False, False, True):
            wider = min(2 * width, 512)
            layers += [nn.Conv2d(width, wider, 4, 1, 1), nn.InstanceNorm2d(wider)]
            layers += [nn.LeakyReLU(0.2)] if last else [nn.LeakyReLU(0.2), BlurDown(wider)]
            width = wider
        self.model = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns (N, 1, h, w): how real each patch of (N, 3, H, W) images looks; 1 is real."""
        found: Tensor = self.model(images)
        return found


class Contrast(nn.Module):
    """All that learns; called with a batch of each domain it returns the loss.

    Args:
        settings: of the generator.
        options: weights of the losses, patches, temperature.
    """

    def __init__(self, settings: ResnetSettings, options: CutOptimisation) -> None:
        super().__init__()
        self.options = options
        self.generator = ResnetGenerator(settings)
        self.discriminator = PatchDiscriminator(options.discriminator_channels)
        last = 11 if settings.antialias_down else 9
        blocks = {last + 1, last + 1 + min(4, settings.blocks - 1)}
        self.layers = (0, 4, 8 if settings.antialias_down else 7, *sorted(blocks))
        with torch.no_grad():
            tried = self.generator.list_features(torch.zeros(1, 3, 32, 32), self.layers)
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(each.shape[1], _DIM), nn.ReLU(), nn.Linear(_DIM, _DIM))
            for each in tried
        )
        for each in self.modules():
            if isinstance(each, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(each.weight, std=_STD)
                if each.bias is not None:
                    nn.init.zeros_(each.bias)

    def forward(self, source: Tensor, target: Tensor, seed: int) -> Tensor:
        """Returns the sum of all losses, of (N, 3, H, W) images in [-1, 1].

        One backward pass serves both sides of the game: the discriminator sees translations
        without their gradient, the generator a discriminator whose weights stand still.
        """
        options, both = self.options, source
        if options.identity:
            both = torch.cat([source, target])
        made = self.generator(both)
        translated = made[: len(source)]
        fooled = self._judge_frozen(translated)
        judged = self.discriminator(torch.cat([translated.detach(), target])).float()
        fake, real = judged[: len(source)], judged[len(source) :]
        adversarial = (fooled - 1.0).square().mean()
        discriminating = (fake.square().mean() + (real - 1.0).square().mean()) / 2.0
        contrast = options.contrast * self._contrast(both, made, seed)
        loss: Tensor = adversarial + discriminating + contrast
        return loss

    def _judge_frozen(self, images: Tensor) -> Tensor:
        module = self.discriminator
        still = {name: value.detach() for name, value in module.named_parameters()}
        buffers = dict(module.named_buffers())
        found: Tensor = functional_call(module, {**still, **buffers}, (images,))
        return found.float()

    def _contrast(self, images: Tensor, made: Tensor, seed: int) -> Tensor:
        """Returns the patchwise InfoNCE: each patch of what was made against those of its image."""
        with torch.no_grad():
            keys = self.generator.list_features(images, self.layers)
        queries = self.generator.list_features(made, self.layers)
        draw = torch.Generator().manual_seed(seed)
        losses = []
        for query, key, project in zip(queries, keys, self.projections, strict=True):
            places = query.shape[2] * query.shape[3]
            picked = torch.randperm(places, generator=draw)[: self.options.patches]
            picked = picked.to(query.device)
            found, wanted = (
                normalize(project(each.flatten(2)[..., picked].mT).float(), dim=-1)
                for each in (query, key)
            )
            logits = found @ wanted.detach().mT / self.options.temperature
            own = torch.arange(len(picked), device=query.device).expand(len(logits), -1)
            losses.append(cross_entropy(logits.flatten(0, 1), own.flatten()))
        return torch.stack(losses).mean()
