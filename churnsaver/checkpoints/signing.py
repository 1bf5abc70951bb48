"""Signatures of what the registry says: Ed25519 in DSSE envelopes, against pinned public keys.

DSSE (Dead Simple Signing Envelope, v1) signs the type of the payload together with the payload, so that
a signed manifest can never be passed off as a signed catalogue. The format is that of in-toto and sigstore:
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import ValidationError

from churnsaver.domain.world import Frozen
from churnsaver.errors import RegistryError

PRIVATE_KEY, PUBLIC_KEYS = "signing.key", "trusted.pem"
PEM_PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----\n?", re.DOTALL)


class Signature(Frozen):
    """One signature of an envelope: who, and the signature itself in base64."""

    keyid: str
    sig: str


class Envelope(Frozen):
    """A payload (base64) with its type and its signatures, as DSSE names them."""

    payloadType: str  # noqa: N815 – DSSE's name
    payload: str
    signatures: tuple[Signature, ...]


class Signer:
    """Holds a private key; trainers and the command line have one, services never."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = key_id(key.public_key())

    @classmethod
    def read(cls, path: Path) -> Signer:
        """The key of a PEM file; RegistryError where there is none."""
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise RegistryError(
                f"{path}: the signing key cannot be read ({error.strerror}); make one with `churn-saver keys` "
                "or set CHURN_SAVER_REGISTRY__SIGNING_KEY"
            ) from None
        except (ValueError, TypeError):
            raise RegistryError(
                f"{path}: is no PEM private key without a password; make one with `churn-saver keys`"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise RegistryError(f"{path}: is no Ed25519 key; make one with `churn-saver keys`")
        return cls(key)

    def sign(self, payload: bytes, payload_type: str) -> bytes:
        """The payload in a signed envelope, as JSON."""
        signature = self._key.sign(_signed_bytes(payload_type, payload))
        envelope = Envelope(
            payloadType=payload_type,
            payload=base64.b64encode(payload).decode(),
            signatures=(Signature(keyid=self.key_id, sig=base64.b64encode(signature).decode()),),
        )
        return envelope.model_dump_json(indent=1).encode() + b"\n"


class TrustedKeys:
    """The public keys whose signatures count; more than one while keys are changed."""

    def __init__(self, keys: tuple[Ed25519PublicKey, ...]) -> None:
        self._keys = {key_id(key): key for key in keys}

    @classmethod
    def read(cls, path: Path) -> TrustedKeys:
        """The keys of a PEM file, one block a key; RegistryError where there are none."""
        try:
            blocks = PEM_PUBLIC_KEY.findall(path.read_bytes())
            keys = tuple(load_pem_public_key(block) for block in blocks)
        except OSError as error:
            raise RegistryError(
                f"{path}: the trusted keys cannot be read ({error.strerror}); make a pair with `churn-saver keys` "
                "or set CHURN_SAVER_REGISTRY__TRUSTED_KEYS"
            ) from None
        except ValueError:
            keys = ()
        ours = tuple(key for key in keys if isinstance(key, Ed25519PublicKey))
        if not ours or len(ours) != len(keys):
            raise RegistryError(f"{path}: expected Ed25519 public keys in PEM, one block each; see `churn-saver keys`")
        return cls(ours)

    def verify(self, signed: bytes, payload_type: str, where: str) -> bytes:
        """The payload of an envelope that one of these keys signed.

        Raises:
            RegistryError: it is unsigned, of another type, altered, or signed by a key that is not trusted.
        """
        try:
            envelope = Envelope.model_validate_json(signed)
            payload = base64.b64decode(envelope.payload, validate=True)
            signatures = [(each.keyid, base64.b64decode(each.sig, validate=True)) for each in envelope.signatures]
        except (ValidationError, binascii.Error):
            raise RegistryError(f"{where}: is not signed, or truncated") from None
        if envelope.payloadType != payload_type:
            raise RegistryError(f"{where}: is a signed {envelope.payloadType}; expected {payload_type}")
        if not signatures:
            raise RegistryError(f"{where}: is not signed")
        known = [(self._keys[name], signature) for name, signature in signatures if name in self._keys]
        if not known:
            raise RegistryError(
                f"{where}: is signed by {', '.join(name for name, _ in signatures)}, which is not trusted here "
                f"(trusted: {', '.join(self._keys)})"
            )
        for key, signature in known:
            try:
                key.verify(signature, _signed_bytes(payload_type, payload))
            except InvalidSignature:
                continue
            return payload
        raise RegistryError(f"{where}: was altered after it was signed")


def create_key_pair(folder: Path) -> tuple[Path, Path]:
    """Writes a new pair into `folder`: the private key, readable by its owner alone, and the public key.

    Raises:
        RegistryError: there is a key already (it is never overwritten), or the folder cannot be written.
    """
    private, public = folder / PRIVATE_KEY, folder / PUBLIC_KEYS
    key = Ed25519PrivateKey.generate()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        private.touch(mode=0o600, exist_ok=False)
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with public.open("ab") as file:  # keys that were trusted before stay so
            file.write(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except FileExistsError:
        raise RegistryError(
            f"{private}: there is a signing key already; move it away first, or name another folder with --out"
        ) from None
    except OSError as error:
        raise RegistryError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    return private, public


def key_id(key: Ed25519PublicKey) -> str:
    """A key's name: the beginning of the hash of its bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _signed_bytes(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding of what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
