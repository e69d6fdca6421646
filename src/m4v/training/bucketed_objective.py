"""Training on clips of several sizes and lengths: every step has one bucket, and is that bucket's own step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from m4v.core.errors import UserError
from m4v.data.buckets import epoch_turn
from m4v.data.mixing import Mixture
from m4v.training.loop import LossTerm, Objective


@dataclass(frozen=True)
class BucketObjective:
    """What one bucket trains.

    Attributes:
        name: Size and length.
        kind: `image` or `video`: which steps of the mixture it serves.
        objective: Its batches and losses, numbered by its own steps.
        num_batches: Batches per epoch: how often its turn comes among the buckets of its kind.
    """

    name: str
    kind: str
    objective: Objective
    num_batches: int


class BucketedObjective:
    """Objectives of several buckets that take turns as a pure function of the step.

    The mixture decides between images and videos. Within a kind, buckets come as often per epoch as they have batches,
    in shuffled order; bucket steps are numbered without gaps, so that each bucket's clips come in whole epochs.

    Args:
        parts: Buckets that have clips; at least one.
        images_per_window: Image steps in every window of the mixture.
        videos_per_window: Video steps in every window.
        seed: Root of the order.

    Raises:
        UserError: if a kind that the mixture asks for has no bucket.
    """

    def __init__(
        self, parts: Sequence[BucketObjective], *, images_per_window: int, videos_per_window: int, seed: int
    ) -> None:
        self.parts = tuple(parts)
        self.seed = seed
        self.mixture = Mixture(parts=(("image", images_per_window), ("video", videos_per_window)))
        self._of_kind = {kind: [part for part in parts if part.kind == kind] for kind in ("image", "video")}
        for kind, count in self.mixture.parts:
            if count and not self._of_kind[kind]:
                raise UserError(
                    f"The stage takes {count} {kind} batches of {self.mixture.window}, but no bucket has any."
                )

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Networks being trained; the same for all buckets."""
        return self.parts[0].objective.modules

    def turn(self, step: int) -> tuple[BucketObjective, int]:
        """Give the bucket of a step, and the number of its own step."""
        kind, number = self.mixture.at(self.seed, step)
        parts = self._of_kind[kind]
        chosen, earlier = epoch_turn(self.seed, kind, number, tuple(part.num_batches for part in parts))
        return parts[chosen], earlier

    def batch(self, step: int) -> dict[str, Tensor]:
        """Take clips and captions of the step's bucket."""
        part, own_step = self.turn(step)
        return part.objective.batch(own_step)

    def terms(self, batch: Mapping[str, Tensor], step: int) -> Iterator[LossTerm]:
        """Compute the losses of the step's bucket."""
        part, own_step = self.turn(step)
        for term in part.objective.terms(batch, own_step):
            yield replace(term, kind=f"{part.name}/{term.kind}")

    def num_items(self, step: int) -> int:
        """Items of the step: every bucket has a batch size of its own."""
        part, own_step = self.turn(step)
        return part.objective.num_items(own_step)

    def facts(self, step: int) -> Mapping[str, float]:
        """Image and video batches up to and including a step."""
        kind, earlier = self.mixture.at(self.seed, step)
        images = earlier + 1 if kind == "image" else step - earlier
        return {"image_batches": images, "video_batches": step + 1 - images}
