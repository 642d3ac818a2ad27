"""What a declared table is: its columns, each with what it means, and the contract that is published of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
        name: of the table and of its contract `schemas/NAME.json`.
        version: of the schema; grows when the contract changes.
        schema: all columns, in order, partition columns included.
        partition_by: the columns that are folder names.
    """

    name: str
    version: int
    schema: pa.Schema
    partition_by: tuple[str, ...] = ()

    @property
    def file_schema(self) -> pa.Schema:
        """The columns that the files hold."""
        return pa.schema([field for field in self.schema if field.name not in self.partition_by])

    def contract(self) -> dict[str, Any]:
        """The published contract, as it stands in `schemas/NAME.json`."""
        return {
            "table": self.name,
            "version": self.version,
            "partition_by": list(self.partition_by),
            "columns": [
                {
                    "name": field.name,
                    "type": _type_name(field.type),
                    "nullable": field.nullable,
                    "unit": (field.metadata.get(b"unit") or b"").decode() or None,
                    "description": field.metadata[b"description"].decode(),
                }
                for field in self.schema
            ],
        }


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_map(kind):
        return f"map<{_type_name(kind.key_type)}, {_type_name(kind.item_type)}>"
    return str(kind)


def column(name: str, kind: pa.DataType, description: str, *, null: bool = False, unit: str = "") -> pa.Field:
    """A column of a table, with what it means and its unit."""
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=null, metadata=metadata)
