"""The files of published results: tables as papers print them, a line per model and a column per attack."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError, unknown_name
from segrobust.core.files import read_json
from segrobust.core.options import existing_file
from segrobust.core.rows import CLEAN, INPUT, METRIC_SIZES
from segrobust.core.units import parse_eps

STATUS = ("not reproduced", "reproduced")
SIDED = ("one", "two")
TABLE_ONLY = ("name", "std", "remark", "columns", "rows")
COLUMN_LISTS = ("metrics", "reads")
OF_THE_PLACE = ("where", "model_is", "value")


@dataclass(frozen=True, kw_only=True)
class GoldenCell:
    """One published number.

    Args:
        where: the file, table, model, column and metric.
        model_is: the model in words; empty for one of ``segrobust.models.published``.
        source, tag: what was read, and how: ``tex`` or ``pdf`` the paper, ``C`` a repository, ``run`` its results,
            ``metafile`` mmseg's, ``P*`` a machine's conversion of the paper and ``ocr`` its scan, where digits may have
            slipped.
        images: of the split; ``sample``: how many of them were measured, where they are not named.
        protocol: ours that is the paper's, ``"own"`` for the model's own test pipeline; None: none of ours is, and
            ``nearest`` are those under which the number bounds ours. ``needs``: what ours would have to have.
        attack: as text that ``segrobust.attacks.build_attack`` reads, ``"clean"``, or None where it is not ours;
            ``backwards``: its gradients per image.
        eps: radii in image units, one for each way to read ``eps_published``.
        reads: the field of our records.
        value, tolerance: percent, points. sided: ``"two"``, or ``"one"``: ours is at most theirs. why: the tolerance.
    """

    where: tuple[str, str, str, str, str]
    model_is: str = ""
    source: str
    tag: str
    data: str
    split: str
    images: int
    sample: int | None = None
    protocol: str | None
    nearest: tuple[str, ...] = ()
    protocol_published: str
    needs: str = ""
    metric_size: str = INPUT
    attack: str | None
    backwards: int | None = None
    norm: str | None = None
    eps_published: str = ""
    eps: tuple[float, ...] = ()
    reads: str
    value: float
    sided: str
    tolerance: float
    why: str
    status: str
    note: str = ""

    def __post_init__(self) -> None:
        if not _is_number(self.value) or not _is_number(self.tolerance) or self.tolerance <= 0:
            raise UserError(f"expected a number and a tolerance > 0, got {self.value!r} and {self.tolerance!r}")
        for what, value, known in (
            ("sided", self.sided, SIDED),
            ("status", self.status, STATUS),
            ("metric_size", self.metric_size, METRIC_SIZES),
        ):
            if value not in known:
                raise unknown_name(what, str(value), known)
        bounded = self.attack not in (None, CLEAN)
        if bounded and not (self.norm and self.eps and type(self.backwards) is int):
            raise UserError(f"expected norm, eps and backwards of {self.attack}")
        if bounded and self.sided == "two" and (self.protocol is None or len(self.eps) > 1):
            raise UserError("expected one-sided numbers where the protocol is not ours or eps can be read in two ways")

    @property
    def table(self) -> str:
        return self.where[1]

    @property
    def model(self) -> str:
        return self.where[2]

    @property
    def column(self) -> str:
        return self.where[3]

    @property
    def metric(self) -> str:
        return self.where[4]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def read_cells(path: Path) -> list[GoldenCell]:
    """The numbers of a file's tables, in its order; entries of a column stand in place of the table's.

    Raises:
        UserError: no such file, an unknown or missing entry, or a line of another length than its table.
    """
    content = read_json(existing_file(path))
    tables = content.get("tables") if isinstance(content, dict) else None
    if not isinstance(tables, list) or not tables:
        raise UserError(f"{path}: expected a list of tables")
    words = content.get("models", {})
    return [cell for table in tables for cell in _of_table(path, table, words)]


def _of_table(path: Path, table: Mapping[str, Any], words: Mapping[str, str]) -> Iterator[GoldenCell]:
    try:
        shared = {name: value for name, value in table.items() if name not in TABLE_ONLY}
        for model, line in table["rows"].items():
            for column, given in zip(table["columns"], line, strict=True):
                place = (path.name, table["name"], model, column["name"])
                fields = {**shared, **{name: value for name, value in column.items() if name != "name"}}
                yield from _of_column(place, words.get(model, ""), fields, given)
    except UserError as error:
        raise UserError(f"{path}, {', '.join(place[1:])}: {error}") from None
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        name = table.get("name") if isinstance(table, Mapping) else table
        raise UserError(f"{path}, table {name}: not a table of published results ({error})") from None


def _of_column(
    place: tuple[str, str, str, str], words: str, fields: Mapping[str, Any], given: Any
) -> Iterator[GoldenCell]:
    """One per metric; none for what the paper does not tell."""
    if given is None:
        return
    known = {field.name for field in dataclasses.fields(GoldenCell)} - set(OF_THE_PLACE) | {"metrics"}
    if strange := next((name for name in fields if name not in known), None):
        raise unknown_name("entry", strange, known)
    metrics = fields["metrics"]
    norm = fields.get("norm") or ""
    told = {name: value for name, value in fields.items() if name not in COLUMN_LISTS}
    told |= {"nearest": tuple(fields.get("nearest", ())), "model_is": words}
    told["eps"] = tuple(parse_eps(text, norm) for text in fields.get("eps", ()))
    values = given if isinstance(given, list) else [given]
    for metric, reads, value in zip(metrics, fields.get("reads", metrics), values, strict=True):
        yield GoldenCell(where=(*place, metric), reads=reads, value=value, **told)
