"""Configuration of the small text encoder that is trained jointly with the denoiser, torch-free."""

from dataclasses import dataclass

from m4v.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Shape of a T5 encoder; its vocabulary size comes from the tokenizer.

    Attributes:
        model_dim: Width of a text token, and of the pooled vector.
        num_layers: Transformer layers.
        num_heads: Attention heads per layer.
        head_dim: Width of a head.
        feed_forward_dim: Hidden width of the gated-GELU feed-forward part.
        max_length: Tokens every prompt is padded or cut to, its end mark included; at least 2.

    Raises:
        UserError: if a value is out of range.
    """

    model_dim: int = 128
    num_layers: int = 3
    num_heads: int = 4
    head_dim: int = 32
    feed_forward_dim: int = 320
    max_length: int = 32

    def __post_init__(self) -> None:
        for name in ("model_dim", "num_layers", "num_heads", "head_dim", "feed_forward_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected 1 or more.")
        if self.max_length < 2:
            raise UserError(f"max_length is {self.max_length}; expected 2 or more (one word and the end mark).")

    @classmethod
    def toybox_xs(cls) -> "TextEncoderConfig":
        """About 0.6 million parameters with a vocabulary of 256."""
        return cls()

    @classmethod
    def toybox_m(cls) -> "TextEncoderConfig":
        """About 1 million parameters with a vocabulary of 256; room for the long captions of the whole world."""
        return cls(model_dim=192, num_layers=4, feed_forward_dim=256, max_length=64)

    @classmethod
    def debug(cls) -> "TextEncoderConfig":
        """Smallest encoder with every mechanism; for tests."""
        return cls(model_dim=16, num_layers=1, num_heads=2, head_dim=8, feed_forward_dim=16, max_length=12)
