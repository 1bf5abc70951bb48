"""The exceptions that a person is meant to read.

ChurnSaverError
├── BadInput            a file, field or setting is wrong; the message names it and the mend (exit 2)
│   ├── SchemaError     a dataset schema or a row that does not follow it
│   ├── SettingsError   a settings file
│   ├── CheckpointError a checkpoint that cannot be trusted or read
│   └── RegistryError   a registry or a key that is missing, unreadable, read-only or not what it says
└── GateFailed          a measured figure missed its target (exit 1)
"""

from __future__ import annotations


class ChurnSaverError(Exception):
    """Anything this project raises on purpose. `str()` of it is one sentence for a person."""


class BadInput(ChurnSaverError):
    """Input from outside that cannot be used; the message says where it is and how to mend it."""


class SchemaError(BadInput):
    """A dataset schema, or a row of data that does not follow it."""


class SettingsError(BadInput):
    """A settings file with a missing, unknown or impossible value."""


class CheckpointError(BadInput):
    """A checkpoint that is missing, truncated, altered or of another kind."""


class RegistryError(BadInput):
    """A checkpoint registry or a signing key that cannot be used, or that cannot be trusted."""


class GateFailed(ChurnSaverError):
    """A measured figure missed its target."""
