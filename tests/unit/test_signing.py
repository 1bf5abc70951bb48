"""Signatures: what a trusted key signed is believed, and nothing else."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from churnsaver.checkpoints.signing import PRIVATE_KEY, PUBLIC_KEYS, Signer, TrustedKeys, create_key_pair
from churnsaver.errors import RegistryError

KIND = "application/vnd.test+json"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    create_key_pair(tmp_path / "keys")
    return tmp_path / "keys"


def test_what_was_signed_is_believed(keys: Path) -> None:
    """The payload comes back, byte for byte; the same payload gets the same signature."""
    signer = Signer.read(keys / PRIVATE_KEY)
    signed = signer.sign(b'{"a": 1}', KIND)
    assert TrustedKeys.read(keys / PUBLIC_KEYS).verify(signed, KIND, "here") == b'{"a": 1}'
    assert signer.sign(b'{"a": 1}', KIND) == signed


def change(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda envelope: {**envelope, **fields}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (change(payload="eyJhIjogMn0="), "was altered after it was signed"),
        (change(payloadType="application/other"), r"is a signed application/other; expected application/vnd\.test"),
        (change(signatures=[]), "is not signed"),
        (change(payload="not base64!"), "is not signed, or truncated"),
        (lambda envelope: {"a": 1}, "is not signed, or truncated"),
    ],
    ids=["another payload", "another type", "no signature", "no base64", "no envelope"],
)
def test_anything_else_is_refused(keys: Path, harm: Callable[[dict[str, Any]], Any], said: str) -> None:
    """Each fault is named, with the place."""
    signed = Signer.read(keys / PRIVATE_KEY).sign(b'{"a": 1}', KIND)
    harmed = json.dumps(harm(json.loads(signed))).encode()
    with pytest.raises(RegistryError, match=f"^here: {said}"):
        TrustedKeys.read(keys / PUBLIC_KEYS).verify(harmed, KIND, "here")


def test_half_an_envelope_is_refused(keys: Path) -> None:
    signed = Signer.read(keys / PRIVATE_KEY).sign(b"{}", KIND)
    with pytest.raises(RegistryError, match="truncated"):
        TrustedKeys.read(keys / PUBLIC_KEYS).verify(signed[: len(signed) // 2], KIND, "here")


def test_a_stranger_is_named(keys: Path, tmp_path: Path) -> None:
    """The message says whose signature it is and whose would be trusted."""
    create_key_pair(tmp_path / "stranger")
    stranger, trusted = Signer.read(tmp_path / "stranger" / PRIVATE_KEY), Signer.read(keys / PRIVATE_KEY)
    with pytest.raises(RegistryError, match=f"signed by {stranger.key_id}, which is not trusted.*{trusted.key_id}"):
        TrustedKeys.read(keys / PUBLIC_KEYS).verify(stranger.sign(b"{}", KIND), KIND, "here")


def test_a_signature_for_one_type_is_none_for_another(keys: Path) -> None:
    """A signed manifest cannot be passed off as a catalogue by renaming its type."""
    signed = json.loads(Signer.read(keys / PRIVATE_KEY).sign(b"{}", "application/manifest"))
    renamed = json.dumps({**signed, "payloadType": KIND}).encode()
    with pytest.raises(RegistryError, match="altered"):
        TrustedKeys.read(keys / PUBLIC_KEYS).verify(renamed, KIND, "here")


def test_two_keys_may_be_trusted(keys: Path, tmp_path: Path) -> None:
    """While keys are changed, both sign what counts."""
    create_key_pair(tmp_path / "new")
    both = tmp_path / "both.pem"
    both.write_bytes((keys / PUBLIC_KEYS).read_bytes() + (tmp_path / "new" / PUBLIC_KEYS).read_bytes())
    for folder in (keys, tmp_path / "new"):
        signed = Signer.read(folder / PRIVATE_KEY).sign(b"{}", KIND)
        assert TrustedKeys.read(both).verify(signed, KIND, "here") == b"{}"


def test_the_private_key_is_its_owners_and_never_overwritten(keys: Path) -> None:
    before = (keys / PRIVATE_KEY).read_bytes()
    assert stat.S_IMODE((keys / PRIVATE_KEY).stat().st_mode) == 0o600
    with pytest.raises(RegistryError, match="there is a signing key already"):
        create_key_pair(keys)
    assert (keys / PRIVATE_KEY).read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_files_that_hold_no_key_are_named(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty or damaged: the file and the mend."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    for read in (Signer.read, TrustedKeys.read):
        with pytest.raises(RegistryError, match=r"key.*churn-saver keys"):
            read(path)
