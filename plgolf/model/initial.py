"""Initial values of embeddings and matrices; vectors and scales begin with values from their own settings."""

from typing import TYPE_CHECKING, Literal

from torch import nn

from plgolf.model.linear import CastLinear

if TYPE_CHECKING:
    from plgolf.model.gpt import GPT

Matrices = Literal["uniform", "orthogonal"]


def initialise(module: nn.Module, *, embedding_std: float, matrices: Matrices) -> None:
    """Sets the initial values of embeddings and matrices below a module.

    An embedding is normal, and so is what has its own ``initial_std``. A matrix with ``zero_init`` is 0, so
    that a layer begins without effect. Other matrices are ``uniform`` in +-1/sqrt(columns), PyTorch's own
    values, which are kept, or ``orthogonal`` (https://arxiv.org/abs/1312.6120), times the ``gain`` of each.

    Args:
        module: a module whose linear maps have just been made.
        embedding_std: standard deviation of an embedding.
        matrices: values of matrices that do not begin as 0.
    """
    for part in module.modules():
        if not isinstance(part, nn.Embedding | CastLinear):
            continue
        std = getattr(part, "initial_std", embedding_std)
        if std is not None:
            nn.init.normal_(part.weight, std=std)
        elif isinstance(part, CastLinear):
            if part.zero_init:
                nn.init.zeros_(part.weight)
            elif matrices == "orthogonal" and not part.weight.is_meta:
                nn.init.orthogonal_(part.weight)
            part.weight.detach().mul_(part.gain)


def initialise_rest(gpt: "GPT", *, embedding_std: float, matrices: Matrices) -> None:
    """Sets the initial values of a model but for its embedding, which has them; arguments as above."""
    for name, module in gpt.named_children():
        if name != "embedding":
            initialise(module, embedding_std=embedding_std, matrices=matrices)
    if gpt.config.first_values:
        from plgolf.model.first_values import set_first_values  # noqa: PLC0415 (few use it)

        set_first_values(gpt)
