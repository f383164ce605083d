"""CLIP's frozen text tower, fed with embeddings instead of tokens, so that prompts can be learned."""

from __future__ import annotations

from typing import Any

import open_clip
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from progeo_edge.errors import ConfigError, InputError

# Of the byte-pair vocabulary that CLIP's own tokenizer uses; the end of text has the highest number.
VOCABULARY_SIZE = 49408
END_OF_TEXT = 49407


class TextTower(nn.Module):
    """The text half of an open_clip model. It shares the model's weights, frozen.

    Args:
        model: `open_clip.CLIP`, which keeps its text parts itself, or `open_clip.CustomTextCLIP`, which has them in
            `.text`.

    Attributes:
        context_length: Number L of positions.
        width: Length of an embedding.
        joint_dim: Length of a feature.
        causal: Whether a position sees only itself and earlier ones.

    Raises:
        ConfigError: the tower works in a way that this class does not compute.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Any: both classes hold the same parts, under attributes that no common type declares.
        parts: Any = model.text if isinstance(model, open_clip.CustomTextCLIP) else model
        _refuse_other_towers(parts)
        self.token_embedding: nn.Embedding = parts.token_embedding
        self.positional_embedding: nn.Parameter = parts.positional_embedding
        self.transformer: nn.Module = parts.transformer
        self.ln_final: nn.Module = parts.ln_final
        self.text_projection: nn.Parameter | nn.Linear | None = parts.text_projection
        self.attn_mask: Tensor | None
        self.register_buffer("attn_mask", parts.attn_mask, persistent=False)
        self.context_length, self.width = self.positional_embedding.shape
        self.joint_dim = _output_dim(self.text_projection, self.width)
        self.requires_grad_(False).eval()

    @property
    def causal(self) -> bool:
        """Whether a position sees only itself and earlier ones."""
        return self.attn_mask is not None

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings of tokens, without positions: (..., L) int64 to (..., L, width)."""
        embeddings: Tensor = self.token_embedding(tokens)
        return embeddings

    def forward(self, prompt_embeddings: Tensor) -> Tensor:
        """Features of texts at their end-of-text token, not normalised.

        In a causal tower no position after the end of the text can change the feature, so they are cut off: the same
        result at about a seventh of the work for a short sentence.

        Args:
            prompt_embeddings: (n, L, width), without positions. The end of text is at the same position in every row,
                as in prompts of one template; it is recognised by its embedding.

        Returns:
            (n, joint_dim).

        Raises:
            InputError: no end of text, or another width.
        """
        end = self._end_position(prompt_embeddings)
        if self.causal:
            prompt_embeddings = prompt_embeddings[:, : end + 1]
        length = prompt_embeddings.shape[1]
        mask = None if self.attn_mask is None else self.attn_mask[:length, :length]
        hidden = self.transformer(prompt_embeddings + self.positional_embedding[:length], attn_mask=mask)
        return self._project(self.ln_final(hidden[:, end]))

    def _end_position(self, prompt_embeddings: Tensor) -> int:
        if prompt_embeddings.ndim != 3 or prompt_embeddings.shape[2] != self.width or not len(prompt_embeddings):
            raise InputError(
                f"prompt embeddings have shape {tuple(prompt_embeddings.shape)}; expected (n, L, {self.width}), n > 0"
            )
        is_end = (prompt_embeddings[0].detach() == self.token_embedding.weight[END_OF_TEXT]).all(dim=-1)
        position = int(is_end.int().argmax())
        if not is_end[position]:
            raise InputError("prompt embeddings hold no end-of-text token; assemble them with PromptLearner")
        return position

    def _project(self, pooled: Tensor) -> Tensor:
        if self.text_projection is None:
            return pooled
        if isinstance(self.text_projection, nn.Linear):
            projected: Tensor = self.text_projection(pooled)
            return projected
        return pooled @ self.text_projection


def _refuse_other_towers(parts: Any) -> None:  # noqa: ANN401 - see TextTower
    name = type(parts).__name__
    if not isinstance(parts, (open_clip.CLIP, TextTransformer)):
        raise ConfigError(f"text tower {name} is not supported; choose an architecture with CLIP's own text tower")
    # CLIP calls them text_pool_type and text_eos_id, TextTransformer pool_type and eos_id.
    pool_type = getattr(parts, "text_pool_type", None) or getattr(parts, "pool_type", "argmax")
    eos_id = getattr(parts, "text_eos_id", None) or getattr(parts, "eos_id", None)
    reads_end = pool_type == "argmax" or (pool_type == "eos" and eos_id == END_OF_TEXT)
    if not reads_end:
        raise ConfigError(
            f"text tower {name} pools by {pool_type!r}; only the feature at CLIP's end-of-text token is supported: "
            "choose another backbone, or leave the text term out with stage2.text_weight=0"
        )
    if getattr(parts, "cls_emb", None) is not None or getattr(parts, "use_pad_mask", False):
        raise ConfigError(
            f"text tower {name} has a class token or masks its padding, which is not supported: choose another "
            "backbone, or leave the text term out with stage2.text_weight=0"
        )
    if parts.vocab_size != VOCABULARY_SIZE:
        raise ConfigError(
            f"text tower {name} has a vocabulary of {parts.vocab_size} tokens; expected the {VOCABULARY_SIZE} of "
            "CLIP's tokenizer: choose another backbone, or leave the text term out with stage2.text_weight=0"
        )


def _output_dim(projection: nn.Parameter | nn.Linear | None, width: int) -> int:
    if projection is None:
        return width
    return projection.out_features if isinstance(projection, nn.Linear) else int(projection.shape[1])


def tokenise(text: str) -> list[int]:
    """CLIP's tokens of a text, from start of text to end of text, of any length."""
    # No text has more tokens than bytes, so nothing is cut off.
    row: Tensor = open_clip.tokenize([text], len(text.encode()) + 2)[0]
    return [int(token) for token in row[: int(torch.argmax(row)) + 1]]
