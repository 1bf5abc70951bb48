"""`python -m churnsaver.preflight KIND…`: whether a process of this version could start with what it is given.

Reads every setting as the services do, asks the registry for a signed champion of each kind, and compares its contracts
with those of the services that run. It runs before an upgrade replaces anything, with the new image and the new
settings; exit 2 names the setting, the kind or the field, and the mend.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from churnsaver.checkpoints.registry import Alias, Registry
from churnsaver.errors import BadInput, ChurnSaverError, RegistryError
from churnsaver.following import open_registry
from churnsaver.rpc.contract import breaks
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2
from churnsaver.settings import Addresses, load_message_books, load_serve_settings, load_world

CONTRACTS = {
    "decision": decision_service_pb2.DESCRIPTOR.services_by_name["DecisionService"],
    "generator": generator_service_pb2.DESCRIPTOR.services_by_name["GeneratorService"],
    "shield": shield_service_pb2.DESCRIPTOR.services_by_name["ShieldService"],
}


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


def compare(addresses: Addresses) -> dict[str, str]:
    """What came of each service's contract; one that is down holds nothing up, for an upgrade may be its mend.

    Raises:
        BadInput: a service that runs and this version would misunderstand each other.
    """
    found: dict[str, str] = {}
    for name, contract in CONTRACTS.items():
        address = getattr(addresses, name)
        broken = breaks(contract, address)
        if broken:
            mend = "keep numbers and types, and add new fields and methods beside them"
            raise BadInput(f"{name} at {address}: {'; '.join(broken)}; {mend}")
        found[name] = "nobody answers, so nothing was compared" if broken is None else "understands this version"
    return found


def _champion(registry: Registry, kind: str) -> str:
    release = registry.catalogue(kind).at(Alias.CHAMPION)
    if release is None:
        raise RegistryError(f"{registry.location}: has no {kind} champion; train one with --publish")
    return registry.manifest(kind, release).version


if __name__ == "__main__":
    try:
        for kind, version in check(sys.argv[1:]).items():
            print(kind, version, sep="\t")
        for service, said in compare(load_serve_settings().addresses).items():
            print(service, said, sep="\t")
    except ChurnSaverError as error:
        print(f"preflight: {error}", file=sys.stderr)
        sys.exit(2)
