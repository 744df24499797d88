"""The choices of a compression, and the recipe of its retraining."""

import dataclasses
import math
from typing import Any

from squeezenext.arguments import checked
from squeezenext.config import Config, recipes
from squeezenext.config import io as config_io
from squeezenext.config.training import Distillation, Training
from squeezenext.errors import InputError

# The model's own recipe is made for many more epochs, from scratch.
RECIPE: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "rate_scaling": "sqrt",
    "reference_batch": recipes.FINE_TUNE_BATCH,
    "schedule": "cosine",
    "batch_size": recipes.FINE_TUNE_BATCH,
}
ROOM = 0.01  # share of the budget kept free: trained codebooks take some bytes more


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """The choices of a compression.

    Attributes:
      lossless: keep every weight to the last bit.
      integer: store whole numbers, which the C runtime reads.
      max_bytes: budget; None: answers move by at most `allocation.NEAR`.
      epochs: epochs of retraining, 0 for none.
      density: share of the weights that retraining keeps, above 0 and at most 1.
      changes: changes to the retraining's recipe, as --set takes them.
    """

    lossless: bool = False
    integer: bool = False
    max_bytes: int | None = None
    epochs: float = 0.0
    density: float = 0.35
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_bytes is not None and self.max_bytes < 1:
            raise InputError(f"--max_bytes {self.max_bytes}: must be positive.")
        if self.lossless and self.integer:
            raise InputError("--lossless keeps the weights, --integer rounds them: drop one.")
        if self.lossless and self.epochs:
            raise InputError("--lossless keeps the weights, --num_epochs changes them: drop one.")
        if not 0 <= self.epochs < math.inf:
            raise InputError(
                f"--num_epochs {self.epochs:g}: must be a number of epochs, such as 8."
            )
        if self.changes and not self.epochs:
            raise InputError(f"--set {self.changes[0]} means nothing without --num_epochs.")
        if not 0 < self.density <= 1:
            raise InputError(
                f"--density {self.density}: must be above 0 and at most 1, such as 0.35."
            )

    def bytes_before_training(self) -> int | None:
        """Returns a smaller budget, which leaves room for trained codebooks."""
        return self.max_bytes and max(1, int(self.max_bytes * (1 - ROOM)))

    def recipe(self, config: Config, teacher: str) -> Config:
        """Returns the configuration of either half of the retraining.

        Batch norm and augmentation stay those with which the network was trained.
        """
        training = Training(
            **RECIPE,
            epochs=self.epochs / 2,
            warmup_epochs=0.0,
            weight_decay=0.0,
            batch_norm_momentum=config.training.batch_norm_momentum,
            synchronized_batch_norm=config.training.synchronized_batch_norm,
            distillation=Distillation(teacher=teacher, temperature=2.0, label_share=0.3),
        )
        images = dataclasses.replace(config.images, progressive=())
        config = dataclasses.replace(config, training=training, images=images)
        return config_io.override(config, *self.changes)
