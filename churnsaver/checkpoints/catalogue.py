"""A kind's catalogue: its releases in order, and the aliases that say which of them serves."""

from __future__ import annotations

import contextlib
from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import Field, ValidationError

from churnsaver.domain.world import Frozen
from churnsaver.errors import RegistryError


class Alias(StrEnum):
    """What serves, what may serve next, and what served before."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    PREVIOUS = "previous"


class Release(Frozen):
    """A published checkpoint: the number says how new it is, the hash what it is."""

    number: int
    version: str
    manifest_sha256: str
    published_at: datetime


class Pointer(Frozen):
    """Where an alias points; `rolled_back` says that somebody went back to an older release by name."""

    number: int
    rolled_back: bool = False


class Catalogue(Frozen):
    """Everything that was published of one kind.

    Attributes:
        lineage: random, from the first release on; another one is another catalogue, whose serials begin anew.
        serial: grows with every change.
    """

    kind: str
    lineage: str = ""
    serial: int = 0
    releases: tuple[Release, ...] = ()
    aliases: dict[Alias, Pointer] = Field(default_factory=dict)

    @classmethod
    def parse(cls, payload: bytes, kind: str, where: str) -> Self:
        """The catalogue of `kind` in these bytes; RegistryError where they are none of it."""
        try:
            catalogue = cls.model_validate_json(payload)
        except ValidationError as error:
            raise RegistryError(
                f"{where}: is no catalogue that this version reads: {error.error_count()} faults"
            ) from None
        if catalogue.kind != kind:
            raise RegistryError(f"{where}: is the catalogue of {catalogue.kind}; somebody put it in the wrong place")
        return catalogue

    def at(self, alias: Alias) -> Release | None:
        """The release that an alias points to; RegistryError where it points to nothing."""
        if alias not in self.aliases:
            return None
        if (release := self._found(alias)) is None:
            raise RegistryError(
                f"{self.kind}: the alias {alias} points to release {self.aliases[alias].number}, which does not exist; "
                "publish a checkpoint or roll back to one that does"
            )
        return release

    def named(self, version: str) -> Release:
        """The newest release of a version; RegistryError where there is none."""
        for release in reversed(self.releases):
            if release.version == version:
                return release
        known = ", ".join(release.version for release in self.releases[-5:]) or "none"
        raise RegistryError(f"{self.kind}: no release is {version!r}; the last are: {known}")

    def pointed(self, release: Release) -> Catalogue:
        """With `release` as the challenger."""
        aliases = {**self.aliases, Alias.CHALLENGER: Pointer(number=release.number)}
        return self.model_copy(update={"aliases": aliases})

    def moved(self, release: Release, *, rolled_back: bool = False) -> Catalogue:
        """With `release` as the champion, and the former one as `previous`."""
        aliases = {**self.aliases, Alias.CHAMPION: Pointer(number=release.number, rolled_back=rolled_back)}
        if (former := self._found(Alias.CHAMPION)) is not None and former.number != release.number:
            aliases[Alias.PREVIOUS] = Pointer(number=former.number)
        if Alias.CHALLENGER in aliases and aliases[Alias.CHALLENGER].number == release.number:
            del aliases[Alias.CHALLENGER]
        return self.model_copy(update={"aliases": aliases})

    def promoted(self, release: Release) -> Catalogue:
        """`moved`, forward only: what is older than the champion comes back by a rollback, which says so."""
        champion = None
        with contextlib.suppress(RegistryError):  # an alias that points to nothing is mended by moving it
            champion = self.at(Alias.CHAMPION)
        if champion is not None and release.number < champion.number:
            raise RegistryError(
                f"{release.version} (release {release.number}) is older than the champion {champion.version} "
                f"(release {champion.number}); "
                f"to go back, run `churn-saver rollback {self.kind} --to {release.version}`"
            )
        if champion is not None and release.number == champion.number:
            return self
        return self.moved(release)

    def holds(self, alias: Alias, manifest_sha256: str) -> bool:
        """Whether an alias points to this very checkpoint."""
        found = self._found(alias)
        return found is not None and found.manifest_sha256 == manifest_sha256

    def _found(self, alias: Alias) -> Release | None:
        pointer = self.aliases.get(alias)
        return next((each for each in self.releases if pointer and each.number == pointer.number), None)
