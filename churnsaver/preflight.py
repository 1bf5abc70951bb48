"""`python -m churnsaver.preflight KIND…`: whether a process of this version could start with what it is given.

Reads every setting as the services do, and asks the registry for a signed champion of each kind. It runs before
an upgrade replaces anything, with the new image and the new settings; exit 2 names the setting and the mend.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from churnsaver.checkpoints.registry import Alias, Registry
from churnsaver.errors import ChurnSaverError, RegistryError
from churnsaver.following import open_registry
from churnsaver.settings import load_message_books, load_serve_settings, load_world


def check(kinds: Sequence[str]) -> dict[str, str]:
    """The champion's version of each of `kinds`.

    Raises:
        ChurnSaverError: a setting is wrong, or a kind has no champion that can be read and trusted.
    """
    settings = load_serve_settings()
    load_world()
    load_message_books()
    registry = open_registry(settings.registry)
    return {kind: _champion(registry, kind) for kind in kinds}


def _champion(registry: Registry, kind: str) -> str:
    release = registry.catalogue(kind).at(Alias.CHAMPION)
    if release is None:
        raise RegistryError(f"{registry.location}: has no {kind} champion; train one with --publish")
    return registry.manifest(kind, release).version


if __name__ == "__main__":
    try:
        for champion in check(sys.argv[1:]).items():
            print(*champion, sep="\t")
    except ChurnSaverError as error:
        print(f"preflight: {error}", file=sys.stderr)
        sys.exit(2)
