"""Keeps a process on the champions of the registry: fetch beside, verify, load, try, swap one reference.

A service hands in how its checkpoints become what it serves with; that function also runs their golden
cases and the service's own, and raises where one fails. Whatever is wrong with a new checkpoint, or with the
registry, what serves goes on serving.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from pydantic import ValidationError

from churnsaver.checkpoints.checkpoint import Checkpoint, open_checkpoint
from churnsaver.checkpoints.registry import Alias, Catalogue, Registry, Release
from churnsaver.domain.world import Frozen
from churnsaver.errors import CheckpointError, ChurnSaverError, RegistryError
from churnsaver.tasks import in_thread
from churnsaver.telemetry import CHAMPION_REFUSED, CHECKPOINT_SWAPS, CHECKPOINTS_REFUSED, MODEL_INFO, REGISTRY_SEEN

log = structlog.get_logger()

SERVED = "served.json"
# What was refused is tried again after this long: a disk may be full for a while, a checkpoint is bad for good.
RETRY_S = 60.0
# Where an object lies in memory, in the words of HTTP libraries: no reason to report a fault again.
ADDRESS = re.compile(r"0x[0-9a-f]+")

Served = TypeVar("Served")


class LastServed(Frozen):
    """What a kind served with, remembered beside its files: for a start without the registry, and against replays.

    Attributes:
        lineage, serial: of the catalogue that was followed last.
        number: of the release.
    """

    lineage: str
    serial: int
    number: int
    version: str
    manifest_sha256: str


class Report(Frozen):
    """That a checkpoint serves (`reason` is empty) or was refused."""

    kind: str
    version: str
    manifest_sha256: str
    reason: str = ""


class Follower(Generic[Served]):
    """Serves with the champions of some kinds.

    Args:
        registry: where they are published.
        kinds: the kinds that are loaded together.
        cache: folder for what is fetched; it survives a restart.
        load: makes what serves from a checkpoint of each kind, given also what serves now (None at the start);
            raises where a golden case fails. Runs in a thread.
        bundled: checkpoints that the project ships, for kinds of which nothing was published.
        report: told what serves and what was refused.
        retire: told what served until now, after the swap.
        is_put_off: whether what `load` made is yet to be tried, because what it takes is away; see `begin_again`.

    Attributes:
        served: what serves now. A request takes it once and keeps it to its end.
    """

    served: Served

    def __init__(
        self,
        registry: Registry,
        kinds: Sequence[str],
        cache: Path,
        load: Callable[[Mapping[str, Checkpoint], Served | None], Served],
        *,
        bundled: Mapping[str, Path] | None = None,
        report: Callable[[Report], None] = lambda _: None,
        retire: Callable[[Served], Awaitable[None]] | None = None,
        is_put_off: Callable[[Served], bool] = lambda _: False,
    ) -> None:
        self._registry, self._kinds, self._cache, self._load = registry, tuple(kinds), cache, load
        self._bundled, self._report, self._retire = dict(bundled or {}), report, retire
        self._is_put_off = is_put_off
        self._last = {kind: self._read_last(kind) for kind in kinds}
        self._found: dict[str, LastServed] = {}
        self._refused: dict[str, tuple[str, float]] = {}
        self._hinted, self._again = asyncio.Event(), False
        self.checkpoints: dict[str, Checkpoint] = {}
        for kind in kinds:
            # A counter that is there before its first event, so that its first increase is seen.
            CHECKPOINT_SWAPS.labels(kind)
            CHECKPOINTS_REFUSED.labels(kind)
            CHAMPION_REFUSED.labels(kind)

    def serving(self) -> list[Checkpoint]:
        """The checkpoints that serve now: none as long as they are put off."""
        return [] if self._is_put_off(self.served) else list(self.checkpoints.values())

    def hint(self) -> None:
        """Something may have changed: looks at once. Any number of hints, in any order, do no harm."""
        self._hinted.set()

    def begin_again(self) -> None:
        """Loads everything anew, for what was put off; what serves goes on until that is done."""
        self._again = True
        self.hint()

    # -- start -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Loads the champions; where one cannot serve, what served last, else what the project ships.

        Raises:
            ChurnSaverError: a kind has nothing that can serve; the message is about its champion.
        """
        await self._begin(None)

    async def _start_again(self) -> None:
        if any(self._was_refused(kind, each.sha256) for kind, each in self.checkpoints.items()):
            return
        former, before = self.served, self.checkpoints
        try:
            await self._begin(former)
        except ChurnSaverError as error:
            for kind, checkpoint in before.items():
                self._refuse(kind, checkpoint.version, checkpoint.sha256, error)
            return
        self._again = False
        for kind, checkpoint in before.items():
            if checkpoint.version != self.checkpoints[kind].version:
                _forget_serving(kind, checkpoint)
        await self._hand_over(former)

    async def _begin(self, serving: Served | None) -> None:
        found = await asyncio.gather(*map(self._options, self._kinds))
        options = dict(zip(self._kinds, found, strict=True))
        fault: ChurnSaverError | None = None
        # The best of every kind first; then as few second choices in their place as possible.
        ranks = sorted(itertools.product(*(range(len(options[kind])) for kind in self._kinds)), key=sum)
        for rank in ranks:
            chosen = {kind: options[kind][n] for kind, n in zip(self._kinds, rank, strict=True)}
            try:
                self.served = await self._try(chosen, serving)
            except ChurnSaverError as error:
                fault = fault or error
                continue
            break
        else:
            assert fault is not None
            raise fault
        self.checkpoints = chosen
        for kind, checkpoint in chosen.items():
            if fault is not None and checkpoint is not (best := options[kind][0]):
                self._refuse(kind, best.version, best.sha256, fault)
            elif not self._is_put_off(self.served):
                self._accept(kind)
            await self._note(kind, checkpoint)

    async def _options(self, kind: str) -> list[Checkpoint]:
        """What the kind could start with, best first, without what is damaged."""
        options: list[Checkpoint] = []
        fault: ChurnSaverError | None = None
        for find in (self._champion, self._served_before, self._shipped):
            try:
                found = await in_thread(find, kind)
            except ChurnSaverError as error:
                self._refuse(kind, "", "", error)
                fault = fault or error
                continue
            if found is not None and found.sha256 not in {each.sha256 for each in options}:
                options.append(found)
        if not options:
            raise fault or RegistryError(
                f"{self._registry.location}: has no champion of kind {kind}, or does not exist; run `make up`, or "
                "train one with --publish"
            )
        return options

    def _champion(self, kind: str) -> Checkpoint | None:
        champion = self._champion_release(kind)
        return None if champion is None else self._fetch(kind, champion)

    def _champion_release(self, kind: str) -> Release | None:
        catalogue = self._registry.catalogue(kind)
        if catalogue.serial or self._last[kind] is None:
            REGISTRY_SEEN.labels(kind).set(time.time())
        return self._followed(catalogue)

    def _served_before(self, kind: str) -> Checkpoint | None:
        last = self._last[kind]
        if last is None:
            return None
        checkpoint = open_checkpoint(self._folder(kind, last.manifest_sha256), kind)
        if checkpoint.sha256 != last.manifest_sha256:
            raise CheckpointError(f"{checkpoint.path}: is not what served last; it was altered since")
        return checkpoint

    def _shipped(self, kind: str) -> Checkpoint | None:
        return open_checkpoint(self._bundled[kind], kind) if kind in self._bundled else None

    # -- follow ------------------------------------------------------------------------------------

    async def follow(self, poll_s: float) -> None:
        """Looks on every hint and every `poll_s` seconds, until it is cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hinted.wait(), poll_s)
            self._hinted.clear()
            await (self._start_again() if self._again else self.look())

    async def look(self) -> None:
        """Compares each kind's champion with what serves, and swaps what is new and good."""
        for kind in self._kinds:
            version, sha256 = "", ""
            try:
                champion = await in_thread(self._champion_release, kind)
                if champion is None or champion.manifest_sha256 == self.checkpoints[kind].sha256:
                    self._accept(kind)
                    continue
                version, sha256 = champion.version, champion.manifest_sha256
                if self._was_refused(kind, sha256):
                    continue
                checkpoint = await in_thread(self._fetch, kind, champion)
                served = await self._try({**self.checkpoints, kind: checkpoint}, self.served)
            except ChurnSaverError as error:
                self._refuse(kind, version, sha256, error)
            else:
                await self._swap(kind, checkpoint, served)

    async def _try(self, chosen: Mapping[str, Checkpoint], serving: Served | None) -> Served:
        """What serves with these checkpoints; CheckpointError whatever a broken one makes a library raise."""
        try:
            return await in_thread(self._load, chosen, serving)
        except ChurnSaverError:
            raise
        except Exception as error:
            versions = ", ".join(checkpoint.version for checkpoint in chosen.values())
            log.exception("checkpoint.failed", versions=versions)
            raise CheckpointError(f"{versions}: cannot be loaded ({type(error).__name__}: {error})") from None

    async def _swap(self, kind: str, checkpoint: Checkpoint, served: Served) -> None:
        former, self.served = self.served, served
        _forget_serving(kind, self.checkpoints[kind])
        self.checkpoints = {**self.checkpoints, kind: checkpoint}
        self._accept(kind)
        CHECKPOINT_SWAPS.labels(kind).inc()
        await self._note(kind, checkpoint)
        await self._hand_over(former)

    async def _hand_over(self, former: Served) -> None:
        if self._retire is not None:
            try:
                await self._retire(former)
            except Exception:
                log.exception("checkpoint.not_retired")  # what was swapped serves all the same

    # -- what may serve ----------------------------------------------------------------------------

    def _followed(self, catalogue: Catalogue) -> Release | None:
        """The champion; RegistryError where following it would mean going back without a rollback."""
        last, release = self._last[catalogue.kind], catalogue.at(Alias.CHAMPION)
        if release is not None:
            self._found[catalogue.kind] = LastServed(
                lineage=catalogue.lineage,
                serial=catalogue.serial,
                number=release.number,
                version=release.version,
                manifest_sha256=release.manifest_sha256,
            )
        if last is None:
            return release
        where = f"{self._registry.location}/kinds/{catalogue.kind}.json"
        if not catalogue.serial:
            raise RegistryError(f"{where}: is gone, and {last.version} served from it; bring the registry back")
        if release is None or catalogue.lineage != last.lineage:
            return release  # a registry that was begun anew
        if catalogue.serial < last.serial:
            raise RegistryError(
                f"{where}: is older (serial {catalogue.serial}) than what was seen before (serial {last.serial}); "
                "somebody put an old catalogue back"
            )
        if release.number < last.number and not catalogue.aliases[Alias.CHAMPION].rolled_back:
            raise RegistryError(
                f"{where}: the champion {release.version} is older than {last.version}, and nobody rolled back; "
                f"run `churn-saver rollback {catalogue.kind} --to {release.version}` to go back"
            )
        return release

    def _was_refused(self, kind: str, sha256: str) -> bool:
        refused, at_s = self._refused.get(kind, ("", 0.0))
        return refused == sha256 and time.monotonic() - at_s < RETRY_S

    def _accept(self, kind: str) -> None:
        self._refused.pop(kind, None)
        CHAMPION_REFUSED.labels(kind).set(0)

    def _refuse(self, kind: str, version: str, sha256: str, error: ChurnSaverError) -> None:
        """Reports a fault once, however often it is met again."""
        about = sha256 or ADDRESS.sub("", str(error))
        known, _ = self._refused.get(kind, ("", 0.0))
        self._refused[kind] = (about, time.monotonic())
        CHAMPION_REFUSED.labels(kind).set(1)
        if known != about:
            CHECKPOINTS_REFUSED.labels(kind).inc()
            log.error("checkpoint.refused", kind=kind, version=version, reason=str(error))
            self._report(Report(kind=kind, version=version, manifest_sha256=sha256, reason=str(error)))

    async def _note(self, kind: str, checkpoint: Checkpoint) -> None:
        if self._is_put_off(self.served):
            return
        found = self._found.get(kind)
        if found is not None and found.manifest_sha256 == checkpoint.sha256:
            await in_thread(self._remember, kind, found)
        MODEL_INFO.labels(kind, checkpoint.version).set(1)
        log.info("checkpoint.serving", kind=kind, version=checkpoint.version, path=str(checkpoint.path))
        self._report(Report(kind=kind, version=checkpoint.version, manifest_sha256=checkpoint.sha256))

    # -- on disk -----------------------------------------------------------------------------------

    def _folder(self, kind: str, sha256: str) -> Path:
        return self._cache / kind / sha256[:16]

    def _fetch(self, kind: str, release: Release) -> Checkpoint:
        return self._registry.fetch(kind, release, self._folder(kind, release.manifest_sha256))

    def _read_last(self, kind: str) -> LastServed | None:
        try:
            return LastServed.model_validate_json((self._cache / kind / SERVED).read_bytes())
        except (OSError, ValidationError):  # never served, or cut off: the champion is fetched
            return None

    def _remember(self, kind: str, serves: LastServed) -> None:
        """Writes what serves for the next start, and deletes what neither serves nor served before."""
        former, self._last[kind] = self._last[kind], serves
        kept = {self._folder(kind, each.manifest_sha256).name for each in (serves, former) if each}
        folder = self._cache / kind
        try:
            beside = folder / f".{SERVED}"
            beside.write_text(serves.model_dump_json())
            beside.replace(folder / SERVED)
            for fetched in folder.iterdir():
                if fetched.is_dir() and fetched.name not in kept:
                    shutil.rmtree(fetched, ignore_errors=True)
        except OSError as error:
            log.warning("checkpoint.not_remembered", kind=kind, reason=str(error))


def _forget_serving(kind: str, checkpoint: Checkpoint) -> None:
    with contextlib.suppress(KeyError):  # it was put off, and never served
        MODEL_INFO.remove(kind, checkpoint.version)
