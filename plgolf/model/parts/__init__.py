"""Optional techniques, one file each; ``PartsConfig`` is the table of them."""

from dataclasses import dataclass, fields

from plgolf.config import newer
from plgolf.model.parts.backout import BackoutConfig
from plgolf.model.parts.bigram_hash import BigramHashConfig
from plgolf.model.parts.depth_gate import DepthGateConfig
from plgolf.model.parts.exclusive import ExclusiveConfig
from plgolf.model.parts.key_offset import KeyOffsetConfig
from plgolf.model.parts.logit_rescale import LogitRescaleConfig
from plgolf.model.parts.output_gate import OutputGateConfig
from plgolf.model.parts.ports import PartConfig
from plgolf.model.parts.residual_scale import ResidualScaleConfig
from plgolf.model.parts.smear_gate import SmearGateConfig
from plgolf.model.parts.value_embedding import ValueEmbeddingConfig


@dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """Optional techniques; null for none. Parts at the same place are applied in this order.

    Args:
        bigram_hash: adds an embedding of each pair of neighbouring tokens.
        smear_gate: mixes the embedding of the previous token into each position.
        value_embedding: adds a token embedding, shared by layers, to attention's values.
        exclusive: removes a position's own value from what it attends to.
        output_gate: gates each attention head by the layer's input.
        residual_scale: multiplies the stream and the first layer's input by learned factors in each layer.
        depth_gate: gates what a layer adds to the stream by the layer's input.
        key_offset: takes channels of the keys from the previous position.
        backout: subtracts the stream of the middle of the model from its end.
        logit_rescale: limits logits by a shifted sigmoid instead of the soft cap.
    """

    bigram_hash: BigramHashConfig | None = newer(None)
    smear_gate: SmearGateConfig | None = newer(None)
    value_embedding: ValueEmbeddingConfig | None = newer(None)
    exclusive: ExclusiveConfig | None = newer(None)
    output_gate: OutputGateConfig | None = newer(None)
    residual_scale: ResidualScaleConfig | None = newer(None)
    depth_gate: DepthGateConfig | None = newer(None)
    key_offset: KeyOffsetConfig | None = newer(None)
    backout: BackoutConfig | None = newer(None)
    logit_rescale: LogitRescaleConfig | None = newer(None)

    def in_use(self) -> dict[str, PartConfig]:
        """Returns the settings of the techniques in use, by name, in the order of application."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in settings.items() if part is not None}
