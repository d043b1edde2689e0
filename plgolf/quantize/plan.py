"""The plan: which codec each tensor gets, by rules for roles, parts and layers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from plgolf.config import newer
from plgolf.errors import UserError
from plgolf.model.layers import layer_indices
from plgolf.quantize.codec import Codec, Raw
from plgolf.quantize.gptq import Gptq
from plgolf.quantize.rows import Rows
from plgolf.roles import Role


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """The table of codecs: exactly one must be given, with its settings.

    Args:
        raw: floating-point values.
        rows: integer codes of 2 to 8 bits with one scale for each row.
        gptq: the same, rounded by the inputs that a matrix has in a calibration.

    Raises:
        UserError: no codec or several are given.
    """

    raw: Raw | None = None
    rows: Rows | None = None
    gptq: Gptq | None = newer(None)

    def __post_init__(self) -> None:
        given = self._given()
        if len(given) != 1:
            names, found = [field.name for field in fields(self)], ", ".join(given) or "none"
            raise UserError(f"codec must be exactly one of {', '.join(names)}, got {found}")

    def _given(self) -> dict[str, Codec]:
        codecs = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: codec for name, codec in codecs.items() if codec is not None}

    @property
    def name(self) -> str:
        """Name of the codec that is given."""
        return next(iter(self._given()))

    @property
    def codec(self) -> Codec:
        """The codec that is given."""
        return next(iter(self._given().values()))


def assign_rules(rules: Mapping[str, CodecConfig], roles: Mapping[str, Role]) -> dict[str, str]:
    """Finds the rule of each tensor.

    A rule is named after what it matches: a role (``matrix``, ``embedding``, ``head``, ``scalar``), a part
    and a role (``mlp.scalar``), or a part alone, which stands for its matrices. A part is a name on the way
    to the parameter, such as ``attention``, ``mlp`` or ``q_proj``. ``of layers`` limits a rule to some
    layers, in words: ``mlp of layers last 2``. If several rules match a tensor, the one with the innermost
    part is its rule; of rules with the same part, the one with layers.

    Args:
        rules: codecs by what they match.
        roles: roles by the name of the tensor.

    Returns:
        Names of rules by the name of the tensor, in the order of ``roles``.

    Raises:
        UserError: a tensor has no rule or two equally specific ones, or a rule is left without a tensor.

    >>> roles = {"mlp.up.weight": Role.MATRIX, "attention.q.weight": Role.MATRIX}
    >>> assign_rules({"mlp": CodecConfig(rows=Rows(bits=5)), "matrix": CodecConfig(rows=Rows(bits=6))}, roles)
    {'mlp.up.weight': 'mlp', 'attention.q.weight': 'matrix'}
    """
    count = max((layer + 1 for layer in map(_layer, roles) if layer is not None), default=0)
    parsed = {rule: _parse(rule, count) for rule in rules}
    assigned = {}
    for name, role in roles.items():
        ranks = {rule: found.rank(name) for rule, found in parsed.items() if found.matches(name, role)}
        best = [rule for rule, rank in ranks.items() if rank == max(ranks.values())]
        if len(best) != 1:
            found = " and ".join(best) or "none"
            raise UserError(
                f"quantize must have one rule for {name}, whose role is {role.value}, got {found}"
            )
        assigned[name] = best[0]
    for rule in rules:
        if rule not in assigned.values():
            raise UserError(f"quantize.{rule} must match a tensor that no other rule takes, got none")
    return assigned


class _Rule(NamedTuple):
    """What a rule matches; None matches everything."""

    part: str | None
    role: Role
    layers: frozenset[int] | None

    def matches(self, name: str, role: Role) -> bool:
        inside = self.part is None or self.part in name.split(".")[:-1]
        return role is self.role and inside and (self.layers is None or _layer(name) in self.layers)

    def rank(self, name: str) -> tuple[int, bool]:
        """Returns how specific the rule is for a tensor that it matches."""
        path = name.split(".")[:-1]
        depth = len(path) - path[::-1].index(self.part) if self.part else 0
        return depth, self.layers is not None


def _layer(name: str) -> int | None:
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else None


def _parse(rule: str, num_layers: int) -> _Rule:
    what, _, words = rule.partition(" of layers ")
    layers = layer_indices(words, num_layers, name=f"quantize.{rule}") if words else None
    roles = {role.value: role for role in Role}
    if what in roles:
        return _Rule(None, roles[what], layers)
    part, _, role = what.partition(".")
    if role and role not in roles:
        raise UserError(f"quantize.{rule} must end with a role, one of {', '.join(roles)}, got {role!r:.50}")
    return _Rule(part, roles[role or "matrix"], layers)
