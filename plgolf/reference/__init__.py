"""Names, settings and artifacts of the reference program (https://github.com/openai/parameter-golf)."""

from plgolf.reference.artifact import (
    read_artifact_dict,
    read_reference_artifact,
    write_reference_artifact,
)
from plgolf.reference.names import (
    is_control_name,
    weight_name_from_reference,
    weight_name_to_reference,
    weights_from_reference,
    weights_to_reference,
)
from plgolf.reference.settings import gpt_config_from_reference, gpt_config_from_weights

__all__ = [
    "gpt_config_from_reference",
    "gpt_config_from_weights",
    "is_control_name",
    "read_artifact_dict",
    "read_reference_artifact",
    "weight_name_from_reference",
    "weight_name_to_reference",
    "weights_from_reference",
    "weights_to_reference",
    "write_reference_artifact",
]
