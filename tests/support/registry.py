"""A registry of a test's own: keys, a folder, and small checkpoints to put into it."""

from __future__ import annotations

from pathlib import Path

from churnsaver.checkpoints import Gate, open_checkpoint, write_checkpoint
from churnsaver.checkpoints.registry import Registry
from churnsaver.checkpoints.signing import PRIVATE_KEY, PUBLIC_KEYS, Signer, TrustedKeys, create_key_pair
from churnsaver.checkpoints.stores import FolderStore, Store

KIND = "risk"


class Yard:
    """Keys and a registry under `root`, and whatever a test wants to do to them."""

    def __init__(self, root: Path, store: Store | None = None) -> None:
        self.root, self.keys = root, root / "keys"
        if not (self.keys / PRIVATE_KEY).exists():
            create_key_pair(self.keys)
        self.folder = root / "registry"
        self.store = store or FolderStore(self.folder)
        self.registry = self.opened(self.keys)

    def opened(self, keys: Path, trusted: Path | None = None) -> Registry:
        """The registry as somebody with these keys sees it."""
        trusted_keys = TrustedKeys.read((trusted or keys) / PUBLIC_KEYS)
        return Registry(self.store, trusted_keys, Signer.read(keys / PRIVATE_KEY))

    def checkpoint(self, name: str, kind: str = KIND, *, gate: Gate | None = None, **files: str) -> Path:
        """A checkpoint whose content says its name; `files` are more JSON files."""
        folder = self.root / "trained" / kind / name
        contents = {"name.json": f'"{name}"', **{f"{each}.json": text for each, text in files.items()}}
        encoded = {each: text.encode() for each, text in contents.items()}
        write_checkpoint(folder, kind, encoded, seed=42, metrics={}, gate=gate)
        return folder

    def publish(self, name: str, kind: str = KIND) -> str:
        """Publishes such a checkpoint; returns its version."""
        manifest, _ = self.registry.publish(self.checkpoint(name, kind))
        return manifest.version

    def environment(self) -> dict[str, str]:
        """The settings that point a process at this registry."""
        return registry_environment(self.folder, self.keys)


def stranger_with_access(yard: Yard) -> Registry:
    """The registry as somebody sees it who can write to it and trusts a key of their own, too."""
    folder = yard.root / "stranger"
    if not folder.exists():
        create_key_pair(folder)
        (folder / PUBLIC_KEYS).write_bytes((folder / PUBLIC_KEYS).read_bytes() + (yard.keys / PUBLIC_KEYS).read_bytes())
    return yard.opened(folder)


def registry_environment(folder: Path, keys: Path) -> dict[str, str]:
    """The settings that point a process at a registry and its keys."""
    return {
        "CHURN_SAVER_REGISTRY__URL": str(folder),
        "CHURN_SAVER_REGISTRY__TRUSTED_KEYS": str(keys / PUBLIC_KEYS),
        "CHURN_SAVER_REGISTRY__SIGNING_KEY": str(keys / PRIVATE_KEY),
    }


def publish_all(folder: Path, root: Path) -> Yard:
    """A registry under `root` with every checkpoint in the folders of `folder` as champion."""
    yard = Yard(root)
    for path in sorted(folder.iterdir()):
        if (path / "manifest.json").exists():
            yard.registry.publish(path)
    return yard


def name_of(path: Path) -> str:
    """What a checkpoint of `Yard.checkpoint` says its name is."""
    return str(open_checkpoint(path).read_json("name.json"))
