"""The plan: which codec each tensor gets, by rules for roles and parts."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from plgolf.errors import UserError
from plgolf.quantize.codec import Codec, Raw
from plgolf.quantize.rows import Rows
from plgolf.roles import Role


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """The table of codecs: exactly one must be given, with its settings.

    Args:
        raw: floating-point values.
        rows: integer codes of 2 to 8 bits with one scale for each row.

    Raises:
        UserError: no codec or several are given.
    """

    raw: Raw | None = None
    rows: Rows | None = None

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
    to the parameter, such as ``attention``, ``mlp`` or ``q_proj``. If several rules match a tensor, the one
    with the innermost part is its rule.

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
    parsed = {rule: _parse(rule) for rule in rules}
    assigned = {}
    for name, role in roles.items():
        path = name.split(".")[:-1]
        depths = {
            rule: len(path) - path[::-1].index(part) if part else 0
            for rule, (part, kind) in parsed.items()
            if kind is role and (part is None or part in path)
        }
        best = [rule for rule, depth in depths.items() if depth == max(depths.values())]
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


def _parse(rule: str) -> tuple[str | None, Role]:
    """Returns the part, or None for all, and the role that a rule matches."""
    roles = {role.value: role for role in Role}
    if rule in roles:
        return None, roles[rule]
    part, _, role = rule.partition(".")
    if role and role not in roles:
        raise UserError(f"quantize.{rule} must end with a role, one of {', '.join(roles)}, got {role!r:.50}")
    return part, roles[role or "matrix"]
