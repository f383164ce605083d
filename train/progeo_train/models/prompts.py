"""The learned prompts of stage 1: a frozen sentence with a few learned words for every place.

"A photo of a X X X X street.", after CLIP-ReID (arXiv 2211.13977); ProGEO, arXiv 2406.01906, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from progeo_edge.errors import ConfigError
from progeo_train.config import PromptConfig
from progeo_train.models.text_tower import TextTower, tokenise

LEARNED_WORD = "X"


@dataclass(frozen=True)
class Template:
    """A tokenised sentence and where its learned words are.

    Attributes:
        tokens: From start of text to end of text.
        first: Position of the first learned word.
        count: Number of learned words, one after the other.
    """

    tokens: tuple[int, ...]
    first: int
    count: int


def read_template(text: str, context_length: int) -> Template:
    """Tokenise a template and find its learned words.

    Args:
        text: Such as "A photo of a X X X X street."
        context_length: Positions of the text tower.

    Raises:
        ConfigError: no X, an X that is not a token of its own, other words between two X, or a text too long.
    """
    words = text.split().count(LEARNED_WORD)
    if not words:
        raise ConfigError(f"prompt.template {text!r} has no word {LEARNED_WORD}; write one for each learned token")
    tokens = tokenise(text)
    (learned,) = tokenise(LEARNED_WORD)[1:-1]
    positions = [position for position, token in enumerate(tokens) if token == learned]
    if len(positions) != words:
        raise ConfigError(
            f"prompt.template {text!r} has {words} words {LEARNED_WORD} but {len(positions)} such tokens; write each "
            f"learned {LEARNED_WORD} as a word of its own, and no other x alone"
        )
    if positions[-1] - positions[0] + 1 != words:
        raise ConfigError(f"prompt.template {text!r} has words between its {LEARNED_WORD}; write them side by side")
    if len(tokens) > context_length:
        raise ConfigError(
            f"prompt.template {text!r} has {len(tokens)} tokens, the text tower takes {context_length}; shorten it"
        )
    return Template(tuple(tokens), positions[0], words)


class PromptLearner(nn.Module):
    """The prompts of one group of places.

    Args:
        text: The tower that will read them; it lends the embeddings of the frozen words.
        num_classes: Places in the group.
        config: Template and initial spread.
        generator: On the CPU; draws the initial tokens.

    Attributes:
        class_tokens: (num_classes, T, width) parameter, normal with `init_std` at the start.
        prefix: (P, width) buffer: start of text and the words before the learned ones. Not in the state dict.
        suffix: (S, width) buffer: the words after them, end of text, padding. Not in the state dict.

    Raises:
        ConfigError: see `read_template`.
    """

    def __init__(
        self, text: TextTower, num_classes: int, config: PromptConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        template = read_template(config.template, text.context_length)
        tokens = torch.zeros(text.context_length, dtype=torch.int64)
        tokens[: len(template.tokens)] = torch.tensor(template.tokens)
        weight = text.token_embedding.weight
        with torch.no_grad():
            embeddings = text.embed(tokens.to(weight.device)).clone()
        self.prefix: Tensor
        self.suffix: Tensor
        self.register_buffer("prefix", embeddings[: template.first], persistent=False)
        self.register_buffer("suffix", embeddings[template.first + template.count :], persistent=False)
        drawn = torch.randn(num_classes, template.count, text.width, generator=generator) * config.init_std
        self.class_tokens = nn.Parameter(drawn.to(weight))

    def forward(self, labels: Tensor) -> Tensor:
        """Assemble prompts.

        Args:
            labels: (n,) int64, classes of the group; repetition allowed.

        Returns:
            (n, L, width) embeddings without positions.
        """
        prefix = self.prefix.expand(len(labels), -1, -1)
        suffix = self.suffix.expand(len(labels), -1, -1)
        return torch.cat([prefix, self.class_tokens[labels], suffix], dim=1)
