"""Post-train the decoder of an image tokenizer for a generator that is already trained, and measure what it changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.files import require_folder_name
from tokenry.core.io.progress import Progress, one_stage, part
from tokenry.core.io.workspace import Workspace, fingerprint
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Column, Figure, Patches, Series, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._hardware import Hardware
from tokenry.verbs.images.pfid import distance_cell, stored, stored_distance

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tokenry.generation import DecoderPairs, VQTokenizer
    from tokenry.verbs.images._tokenizers import SquareImages

PLAN_FILE, PAIRS, CHECKPOINTS, TOKENIZER = "post_train.json", "pairs", "checkpoints", "tokenizer"
_SHOWN, _SIDE, _HELD_OUT = 8, 512, 5


@dataclass(frozen=True)
class Plan:
    """Repair the decoder of an image tokenizer for the generator that feeds it: it learns real images from codes with sampling errors.

    The generator is a causal language model whose vocabulary holds the codes, then the classes, then perhaps a token for no class. The folder of
    an image is its class. Every fifth image is held out and measured on. The same command resumes an interrupted run.

    Attributes:
        tokenizer: folder of the tokenizer: Emu3VQVAE, JanusVQVAE, or VQModel of diffusers.
        generator: folder or hub name of the generator.
        images: folder of real images, one folder inside it for each class.
        sigma: share of the real tokens that is kept.
        temperature: what the generator's logits are divided by.
        guidance: strength of the guidance at the last token; 1 for none.
        guidance_power: exponent of the rise of the guidance.
        reencode: train on codes of the decoded image, as the paper does, not on the mixed tokens themselves.
        perceptual: image encoder whose tokens the perceptual term compares, a folder or hub name.
        allow_blur: train without a perceptual term.
        steps: training steps.
        batch_size: images per step.
        learning_rate: of decoder and discriminator.
        adversarial_weight: weight of the adversarial term; 0 for none.
        features: image encoder whose features are compared, a folder or hub name; or pixels.
        size: side of the square that each image is cropped and resized to, in pixels.
        limit: maximum number of images, taken at equal distances.
        draws: resamples of the intervals; 0 for no interval.
        seed: random seed.
        output: folder for the tokenizer, the pairs, the checkpoints, result.json and report.html.
    """

    tokenizer: Path = argument()
    generator: str = argument()
    images: Path = argument()
    sigma: float = 0.7
    temperature: float = 1.0
    guidance: float = 1.0
    guidance_power: float = 1.0
    reencode: bool = True
    perceptual: str | None = None
    allow_blur: bool = False
    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 5e-5
    adversarial_weight: float = 0.5
    features: str = "pixels"
    size: int = 256
    limit: int | None = None
    draws: int = 200
    seed: int = 0
    hardware: Hardware = Hardware()
    output: Path = Path("runs/images-post-train")

    def __post_init__(self) -> None:
        require_fraction(self.sigma, "sigma")
        require_at_least(1, steps=self.steps, batch_size=self.batch_size, size=self.size)
        require_at_least(0, guidance=self.guidance, learning_rate=self.learning_rate)
        require_at_least(0, adversarial_weight=self.adversarial_weight, draws=self.draws, seed=self.seed)
        require_at_least(10, limit=self.limit)
        for name in ("temperature", "guidance_power"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.perceptual is None and not self.allow_blur:
            raise UserError(
                "post-training needs a perceptual term, since with the squared error alone the decoder blurs: name an image encoder "
                "(--perceptual), or ask for --allow-blur."
            )
        require_folder_name(self.output, "the tokenizer")


def run(plan: Plan, progress: Progress) -> Result:
    """Measure, draw pairs, train, measure again, save."""
    import torch

    from tokenry.core.io.files import new_folder
    from tokenry.generation import PostTrainingConfig, load_vq_tokenizer, post_train_decoder
    from tokenry.generation.image_tokenizer.encoder_distance import EncoderDistance
    from tokenry.models import load_model
    from tokenry.verbs._environment import environment
    from tokenry.verbs.images._tokenizers import feature_title, read_images

    images = read_images(plan.images, plan.size, plan.limit)
    held = list(range(0, len(images), _HELD_OUT))
    training = images.only([number for number in range(len(images)) if number % _HELD_OUT])
    if len(training) < plan.batch_size or len(held) < 2:
        raise UserError(
            f"{plan.images} leaves {len(training)} images to train on and batch_size is {plan.batch_size}: give more images, or lower it."
        )
    device = plan.hardware.place()
    tokenizer = load_vq_tokenizer(plan.tokenizer)
    generator = load_model(plan.generator, dtype=plan.hardware.dtype or "float32").to(device)
    tokenizer.module.to(device)
    perceptual = None if plan.perceptual is None else EncoderDistance(plan.perceptual).to(device)
    images_told = fingerprint([file.name for file in images.files], length=32)
    settings = {**plan_settings(plan), "images_fingerprint": images_told}
    Workspace(plan.output, settings, PLAN_FILE).claim(
        f"{plan.output} holds a post-training with other settings or images: name a new folder (--output)."
    )
    measure = _Measurement(plan, tokenizer, generator, images.only(held), device)
    before = measure(part(progress, 0.0, 0.1), "before")
    pairs = _pairs(plan, tokenizer, generator, training, part(progress, 0.1, 0.4))
    config = PostTrainingConfig(
        steps=plan.steps, batch_size=plan.batch_size, learning_rate=plan.learning_rate,
        discriminator_learning_rate=plan.learning_rate, adversarial_weight=plan.adversarial_weight,
        seed=plan.seed, allow_blur=plan.allow_blur,
    )  # fmt: skip
    first = pairs.codes[:_SHOWN].to(device)
    with torch.no_grad():
        rows = [training[list(range(len(first)))], tokenizer.decode(first)]
    trained = post_train_decoder(
        tokenizer, pairs, training, config, perceptual, folder=plan.output / CHECKPOINTS, resume=True,
        progress=one_stage(part(progress, 0.4, 0.9), "post-training the decoder"),
    )  # fmt: skip
    after = measure(part(progress, 0.9, 1.0), "after")
    with torch.no_grad():
        rows.append(tokenizer.decode(first))
    if not (plan.output / TOKENIZER).exists():
        with new_folder(plan.output / TOKENIZER) as folder:
            tokenizer.module.save_pretrained(folder)
    data = {
        "kind": "images post-train",
        "tokenizer": str(plan.tokenizer),
        "generator": plan.generator,
        "pairs": len(pairs.codes),
        "held_out": len(held),
        "reference": str(plan.images),
        "preparation": images.preparation,
        "features": feature_title(plan.features),
        "before": before,
        "after": after,
        "change": measure.change(),
        "losses": {
            name: _thinned(values) for name, values in trained.history.items() if name != "learning_rate"
        },
        "steps": plan.steps,
        "frozen": trained.frozen,
        "picture": _picture(rows),
        "shown": len(first),
        "settings": plan_settings(plan),
        "environment": environment(device),
    }
    return Result(f"Post-training of {plan.tokenizer}", data, lay_out(data), only_saved=("picture",))


def _pairs(
    plan: Plan,
    tokenizer: "VQTokenizer",
    generator: "PreTrainedModel",
    images: "SquareImages",
    progress: Progress,
) -> "DecoderPairs":
    from tokenry.core.tensors.fingerprints import model_fingerprint
    from tokenry.generation import PairDrawing, PreservedSampling, draw_pairs

    sampling = PreservedSampling(plan.sigma, plan.temperature, plan.guidance, plan.guidance_power)
    told = fingerprint([file.name for file in images.files], model_fingerprint(generator), length=32)
    return draw_pairs(
        tokenizer, _of_classes(plan, tokenizer, generator), images, _numbers(images),
        PairDrawing(sampling, plan.reencode, seed=plan.seed), plan.output / PAIRS, told, progress,
    )  # fmt: skip


def _of_classes(plan: Plan, tokenizer: "VQTokenizer", generator: "PreTrainedModel") -> Any:
    from functools import partial

    from tokenry.generation import ClassConditionalLM

    return partial(ClassConditionalLM, generator, len(tokenizer.codebooks[0]), guided=plan.guidance != 1)


def _numbers(images: "SquareImages") -> "torch.Tensor":
    """The class of each image: its folder, numbered in the order of the names."""
    import torch

    classes = sorted(set(images.classes))
    return torch.tensor([classes.index(name) for name in images.classes])


class _Measurement:
    """pFID, rFID and gFID on held-out images; samples are drawn once, and decoded before and after."""

    def __init__(
        self,
        plan: Plan,
        tokenizer: "VQTokenizer",
        generator: "PreTrainedModel",
        images: "SquareImages",
        device: "torch.device",
    ) -> None:
        from tokenry.verbs.images._tokenizers import feature_function

        self._plan, self._tokenizer, self._images, self._device = plan, tokenizer, images, device
        self._generator = _of_classes(plan, tokenizer, generator)
        self._features = feature_function(plan.features, device)
        self._codes: torch.Tensor | None = None
        self._rows: list[Any] = []

    def __call__(self, progress: Progress, when: str) -> dict[str, Any]:
        import torch

        from tokenry.core.stats import FrechetStats, frechet_estimate
        from tokenry.generation import PFIDConfig, pfid

        plan, images = self._plan, self._images
        config = PFIDConfig(batch_size=min(plan.batch_size, 16), draws=plan.draws, seed=plan.seed)
        found = pfid(
            self._tokenizer, images, self._features, config, progress=one_stage(progress, f"measuring {when}")
        )
        if self._codes is None:
            self._codes = self._sampled()
        with torch.no_grad():
            self._reference = torch.cat(
                [self._features(images[[number]].to(self._device)) for number in range(len(images))]
            )
            self._rows.append(
                torch.cat([self._features(self._tokenizer.decode(codes)) for codes in self._codes.split(16)])
            )
        generated = frechet_estimate(
            self._rows[-1], FrechetStats().update(self._reference), plan.draws, plan.seed
        )
        return {"gfid": stored_distance(generated), **stored(found)}

    def change(self) -> dict[str, float | None]:
        """How gFID changed, of the same samples, each drawn with itself."""
        from tokenry.core.stats import FrechetStats, frechet_draws
        from tokenry.core.stats.frechet import around

        reference = FrechetStats().update(self._reference)
        values = [FrechetStats().update(rows).distance(reference) for rows in self._rows]
        drawn = [frechet_draws(rows, reference, self._plan.draws, self._plan.seed) for rows in self._rows]
        return stored_distance(around(values[1] - values[0], drawn[1] - drawn[0], len(self._rows[0])))

    def _sampled(self) -> "torch.Tensor":
        """One sample for each held-out image, of its class."""
        import torch

        from tokenry.generation import PreservedSampling, preserved_generate

        plan, classes = self._plan, _numbers(self._images)
        sampling = PreservedSampling(0.0, plan.temperature, plan.guidance, plan.guidance_power)
        shape = self._tokenizer.encode(self._images[[0]].to(self._device)).shape
        draw, found = torch.Generator().manual_seed(plan.seed), []
        for part_of in classes.split(64):
            nothing = torch.zeros(len(part_of), shape[1:].numel(), dtype=torch.long, device=self._device)
            found.append(preserved_generate(self._generator(part_of), nothing, sampling, draw))
        return torch.cat(found).view(-1, *shape[1:])


def _picture(rows: "list[torch.Tensor]") -> str:
    """Real images, and what is decoded of their pairs before and after, one below the other."""
    import torch

    from tokenry.verbs.images._pictures import encoded, enlarged, montage, visible

    images = torch.cat([visible(row) for row in rows])
    return encoded(enlarged(montage(images, len(rows[0])), _SIDE))


def _thinned(values: list[float], points: int = 100) -> list[float]:
    return values[:: max(1, len(values) // points)]


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the distances before and after, the losses and a few images."""
    change = data["change"]
    apart = "" if change["low"] is None else f" (95 %: {change['low']:+.2f} to {change['high']:+.2f})"
    lead = (
        f"{plural(data['pairs'], 'pair')}, {data['steps']:,} steps. The distance of generated images changes by {change['value']:+.2f}{apart} on "
        f"{plural(data['held_out'], 'held-out image')}: {data['preparation']}, features: {data['features']}. Encoder, codebook and generator are "
        "as they were."
    )
    names = {"gfid": "generated (gFID)", "pfid": "perturbed (pFID)", "rfid": "reconstructed (rFID)"}
    table = Table(
        "Fréchet distances to held-out images, lower is better",
        ("images", Column("before", "", ".2f"), Column("after", "", ".2f")),
        [
            (title, distance_cell(data["before"][name]), distance_cell(data["after"][name]))
            for name, title in names.items()
        ],
    )
    losses = data["losses"]
    every = data["steps"] / max(1, len(losses["loss"]))
    figure = Figure(
        "losses", "lines",
        [
            Series(name, [round(place * every) for place in range(len(values))], values)
            for name, values in losses.items()
            if name != "loss"
        ],
        "step", "loss", "; ".join(f"{name} ends at {values[-1]:.3f}" for name, values in losses.items()),
    )  # fmt: skip
    rows = ("real", "its codes decoded before", "and after")
    title = f"images, from above to below: {', '.join(rows)}"
    picture = Patches(title, data["picture"], len(rows), data["shown"], [])
    return [Text(lead, "lead"), table, picture, figure]
