"""Following the registry: new champions serve, and nothing broken ever does."""

from __future__ import annotations

import asyncio
import resource
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from churnsaver.checkpoints import Checkpoint, write_checkpoint
from churnsaver.checkpoints import follower as follower_module
from churnsaver.checkpoints.follower import Follower, Report
from churnsaver.checkpoints.registry import Alias, Catalogue, Pointer
from churnsaver.checkpoints.signing import PRIVATE_KEY
from churnsaver.checkpoints.stores import FolderStore
from churnsaver.errors import CheckpointError, ChurnSaverError, RegistryError
from tests.support.metrics import grows, sample
from tests.support.registry import KIND, Yard, stranger_with_access


@dataclass
class Service:
    """A service that serves with the names of its checkpoints; a golden case named otherwise fails."""

    yard: Yard
    kinds: tuple[str, ...] = (KIND,)
    bundled: Mapping[str, Path] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    retired: list[tuple[str, ...]] = field(default_factory=list)
    put_off: bool = False

    def follower(self) -> Follower[tuple[str, ...]]:
        async def retire(former: tuple[str, ...]) -> None:
            self.retired.append(former)

        return Follower(
            self.yard.registry,
            self.kinds,
            self.yard.root / "cache",
            self.load,
            bundled=self.bundled,
            report=self.reports.append,
            retire=retire,
            is_put_off=lambda _: self.put_off,
        )

    def load(self, found: Mapping[str, Checkpoint], serving: tuple[str, ...] | None) -> tuple[str, ...]:
        names = tuple(str(found[kind].read_json("name.json")) for kind in self.kinds)
        if "crash" in names:
            raise ZeroDivisionError("division by zero")
        if "failing" in names:
            raise CheckpointError("golden case 0 differs by 0.5")
        return names

    async def started(self) -> Follower[tuple[str, ...]]:
        follower = self.follower()
        await follower.start()
        return follower

    @property
    def refusals(self) -> list[str]:
        return [report.reason for report in self.reports if report.reason]


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(Yard(tmp_path))


async def test_a_new_champion_serves_and_the_old_one_retires(service: Service) -> None:
    """Both are reported; nothing happens while nothing changed."""
    one = service.yard.publish("one")
    follower = await service.started()
    await follower.look()
    assert (follower.served, service.retired) == (("one",), [])
    two = service.yard.publish("two")
    await follower.look()
    await follower.look()
    assert (follower.served, service.retired) == (("two",), [("one",)])
    assert [(report.version, report.reason) for report in service.reports] == [(one, ""), (two, "")]


async def test_what_serves_and_what_was_refused_is_shown(service: Service) -> None:
    """One version a kind at a time; a refusal shows until a champion is good again."""
    one = service.yard.publish("one")
    follower = await service.started()
    assert sample("model_info", kind=KIND, version=one) == 1
    service.yard.publish("failing")
    with grows("checkpoints_refused_total", kind=KIND):
        await follower.look()
    assert sample("champion_refused", kind=KIND) == 1
    with grows("checkpoint_swaps_total", kind=KIND):
        two = service.yard.publish("two")
        await follower.look()
    assert sample("champion_refused", kind=KIND) == 0
    assert (sample("model_info", kind=KIND, version=one), sample("model_info", kind=KIND, version=two)) == (None, 1)


async def test_a_rollback_serves_again(service: Service) -> None:
    service.yard.publish("one")
    service.yard.publish("two")
    follower = await service.started()
    service.yard.registry.rollback(KIND)
    await follower.look()
    assert follower.served == ("one",)
    service.yard.publish("three")
    await follower.look()
    assert follower.served == ("three",)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never came to that")


async def until_served(follower: Follower[tuple[str, ...]], name: str) -> None:
    await until(lambda: follower.served == (name,))


async def test_a_hint_is_followed_at_once_and_the_timer_without_one(service: Service) -> None:
    """Many hints in any order do no harm."""
    service.yard.publish("one")
    follower = await service.started()
    following = asyncio.create_task(follower.follow(poll_s=30.0))
    service.yard.publish("two")
    for _ in range(5):
        follower.hint()
    await until_served(follower, "two")
    following.cancel()
    following = asyncio.create_task(follower.follow(poll_s=0.05))
    service.yard.publish("three")
    await until_served(follower, "three")
    following.cancel()


@pytest.mark.parametrize(("then", "served"), [("late", "late"), ("failing", "one")])
async def test_what_was_put_off_at_the_start_is_loaded_later(
    service: Service, monkeypatch: pytest.MonkeyPatch, then: str, served: str
) -> None:
    """As at a start: what turns out to be bad is refused and reported, and what served before it serves again."""
    one = service.yard.publish("one")
    await service.started()
    late = service.yard.publish("late")
    service.put_off = True
    follower = await service.started()
    assert [report.version for report in service.reports] == [one]
    assert follower.serving() == []
    service.put_off, real = False, service.load

    def load(found: Mapping[str, Checkpoint], serving: tuple[str, ...] | None) -> tuple[str, ...]:
        if serving is not None and found[KIND].version == late and then == "failing":
            raise CheckpointError("golden case 0 differs by 0.5")
        return real(found, serving)

    monkeypatch.setattr(follower, "_load", load)
    following = asyncio.create_task(follower.follow(poll_s=0.05))
    follower.begin_again()
    await until(lambda: service.retired == [("late",)])
    assert follower.served == (served,)
    assert [each.version for each in follower.serving()] == [late if then == "late" else one]
    assert sample("model_info", kind=KIND, version=late) == (1 if then == "late" else None)
    assert sample("champion_refused", kind=KIND) == (then == "failing")
    assert service.refusals == (["golden case 0 differs by 0.5"] if then == "failing" else [])
    following.cancel()


async def test_where_nothing_can_be_loaded_later_it_is_said_and_tried_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What serves goes on; a better champion serves as soon as it is there."""
    service.yard.publish("one")
    follower = await service.started()
    real = service.load

    def load(found: Mapping[str, Checkpoint], serving: tuple[str, ...] | None) -> tuple[str, ...]:
        if "one" in (names := real(found, serving)):
            raise CheckpointError("weights that are none")
        return names

    monkeypatch.setattr(follower, "_load", load)
    following = asyncio.create_task(follower.follow(poll_s=0.05))
    follower.begin_again()
    await until(lambda: service.refusals == ["weights that are none"])
    await asyncio.sleep(0.2)
    assert (follower.served, sample("champion_refused", kind=KIND)) == (("one",), 1)
    assert len(service.refusals) == 1
    service.yard.publish("two")
    monkeypatch.setattr(follower_module, "RETRY_S", 0.0)
    await until_served(follower, "two")
    assert sample("champion_refused", kind=KIND) == 0
    following.cancel()


# -- what is broken never serves -----------------------------------------------------------------------


def truncated(yard: Yard) -> None:
    yard.publish("two")
    next(path for path in (yard.folder / "blobs").iterdir() if path.read_text() == '"two"').write_text('"tw')


def bit_flipped(yard: Yard) -> None:
    yard.publish("two")
    path = next(path for path in (yard.folder / "blobs").iterdir() if path.read_text() == '"two"')
    path.write_bytes(path.read_bytes()[:-2] + b"p" + path.read_bytes()[-1:])


def unsigned(yard: Yard) -> None:
    yard.publish("two")
    catalogue = yard.registry.catalogue(KIND)
    (yard.folder / "kinds" / f"{KIND}.json").write_text(catalogue.model_dump_json())


def wrong_key(yard: Yard) -> None:
    stranger_with_access(yard).publish(yard.checkpoint("two"))


def wrong_kind(yard: Yard) -> None:
    """A policy whose signed manifest was put into the catalogue of risk models by somebody with the key."""
    _, release = yard.registry.publish(yard.checkpoint("two", "policy"))
    source = yard.folder / "manifests" / "policy" / f"{release.manifest_sha256}.json"
    shutil.copy(source, yard.folder / "manifests" / KIND)
    _rewrite(
        yard,
        lambda catalogue: catalogue.model_copy(
            update={"releases": (*catalogue.releases, release.model_copy(update={"number": 3}))}
        ).moved(release.model_copy(update={"number": 3})),
    )


def failing_golden_case(yard: Yard) -> None:
    yard.publish("failing")


def crashing(yard: Yard) -> None:
    yard.publish("crash")


def pickle_inside(yard: Yard) -> None:
    """A pickle under a harmless name, signed by who may sign."""
    folder = yard.root / "trained" / "pickled"
    write_checkpoint(folder, KIND, {"name.json": b"\x80\x04K\x01."}, seed=42, metrics={})
    with pytest.raises(CheckpointError, match="pickle"):
        yard.registry.publish(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("churnsaver.checkpoints.checkpoint.PICKLE_BEGINNINGS", (b"nothing begins so",))
        yard.registry.publish(folder)


def older_version(yard: Yard) -> None:
    """Somebody puts yesterday's catalogue back, signature and all."""
    (yard.folder / "kinds" / f"{KIND}.json").write_bytes((yard.root / "yesterday.json").read_bytes())


def points_to_nothing(yard: Yard) -> None:
    _rewrite(yard, lambda catalogue: catalogue.model_copy(update={"aliases": {Alias.CHAMPION: Pointer(number=9)}}))


def _rewrite(yard: Yard, change: Callable[[Catalogue], Catalogue]) -> None:
    yard.registry._change(KIND, change)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (truncated, "truncated or altered"),
        (bit_flipped, "truncated or altered"),
        (unsigned, "is not signed"),
        (wrong_key, "not trusted"),
        (wrong_kind, "is a checkpoint of kind policy; expected risk"),
        (failing_golden_case, "golden case 0 differs"),
        (crashing, "ZeroDivisionError"),
        (pickle_inside, "holds a pickle"),
        (older_version, "somebody put an old catalogue back"),
        (points_to_nothing, "points to release 9, which does not exist"),
    ],
)
async def test_broken_checkpoints_never_serve(service: Service, harm: Callable[[Yard], None], said: str) -> None:
    """The old one keeps serving, the reason is reported once, a good one afterwards serves."""
    yard = service.yard
    yard.publish("zero")
    shutil.copy(yard.folder / "kinds" / f"{KIND}.json", yard.root / "yesterday.json")
    yard.publish("one")
    good = (yard.folder / "kinds" / f"{KIND}.json").read_bytes()
    follower = await service.started()
    harm(yard)
    for _ in range(3):
        await follower.look()
    assert follower.served == ("one",)
    assert len(service.refusals) == 1
    assert said in service.refusals[0]
    if harm in (unsigned, wrong_key, older_version):
        (yard.folder / "kinds" / f"{KIND}.json").write_bytes(good)
    yard.publish("good")
    await follower.look()
    assert follower.served == ("good",)


async def test_a_refused_checkpoint_is_tried_again_later(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed for want of disk may work a minute later."""
    service.yard.publish("one")
    follower = await service.started()
    service.yard.publish("two")
    download = FolderStore.download

    def full(self: FolderStore, name: str, target: Path) -> None:
        raise RegistryError(f"{target}: cannot be copied (No space left on device)")

    monkeypatch.setattr(FolderStore, "download", full)
    await follower.look()
    assert follower.served == ("one",)
    assert "No space left" in service.refusals[0]
    monkeypatch.setattr(FolderStore, "download", download)
    await follower.look()
    assert follower.served == ("one",), "within the minute it is left alone"
    monkeypatch.setattr(follower_module, "RETRY_S", 0.0)
    await follower.look()
    assert follower.served == ("two",)


async def test_a_disk_that_takes_no_more_keeps_the_old_one_serving(service: Service) -> None:
    """A real refusal of the system while the checkpoint is written beside; nothing half-written stays."""
    service.yard.publish("one")
    follower = await service.started()
    service.yard.registry.publish(service.yard.checkpoint("large", weights=f'"{"x" * 2_000_000}"'))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        await follower.look()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert follower.served == ("one",)
    assert "File too large" in service.refusals[0]
    assert not list((service.yard.root / "cache" / KIND).glob(".fetching-*"))


async def test_clocks_that_disagree_change_nothing(service: Service) -> None:
    """A publisher whose clock runs a year ahead, then one a year behind: releases count, times do not."""
    service.yard.publish("one")
    follower = await service.started()
    for name, year in (("two", 2036), ("three", 2016)):
        service.yard.publish(name)

        def dated(catalogue: Catalogue, year: int = year) -> Catalogue:
            *before, last = catalogue.releases
            moved = last.model_copy(update={"published_at": datetime(year, 1, 1, tzinfo=UTC)})
            return catalogue.model_copy(update={"releases": (*before, moved)})

        _rewrite(service.yard, dated)
        await follower.look()
        assert follower.served == (name,)


async def test_kinds_swap_one_by_one(service: Service) -> None:
    """A bad policy does not keep a good risk model from serving."""
    service.kinds = (KIND, "policy")
    service.yard.publish("r1")
    service.yard.publish("p1", "policy")
    follower = await service.started()
    service.yard.publish("r2")
    service.yard.publish("failing", "policy")
    await follower.look()
    assert follower.served == ("r2", "p1")


# -- start ---------------------------------------------------------------------------------------------


async def test_a_start_without_the_registry_serves_what_served_last(service: Service) -> None:
    service.yard.publish("one")
    await service.started()
    shutil.rmtree(service.yard.folder)
    assert (await service.started()).served == ("one",)


async def test_a_start_with_a_bad_champion_serves_what_served_last(service: Service) -> None:
    service.kinds = (KIND, "policy")
    service.yard.publish("r1")
    service.yard.publish("p1", "policy")
    await service.started()
    service.yard.publish("failing", "policy")
    follower = await service.started()
    assert follower.served == ("r1", "p1")
    assert service.refusals == ["golden case 0 differs by 0.5"]


async def test_an_old_catalogue_is_remembered_over_a_restart(service: Service) -> None:
    service.yard.publish("one")
    old = (service.yard.folder / "kinds" / f"{KIND}.json").read_bytes()
    service.yard.publish("two")
    await service.started()
    (service.yard.folder / "kinds" / f"{KIND}.json").write_bytes(old)
    assert (await service.started()).served == ("two",)
    assert "old catalogue" in service.refusals[0]


async def test_a_registry_begun_anew_is_followed(service: Service) -> None:
    """Its serials start at 1 again; that is no old catalogue put back."""
    for name in ("one", "two", "three"):
        service.yard.publish(name)
    follower = await service.started()
    shutil.rmtree(service.yard.folder)
    await follower.look()
    assert "is gone" in service.refusals[0]
    service.yard.publish("four")
    await follower.look()
    assert follower.served == ("four",)
    assert (await service.started()).served == ("four",)


@pytest.mark.parametrize("registry_is_there", [True, False])
async def test_what_was_altered_in_the_cache_never_serves(service: Service, *, registry_is_there: bool) -> None:
    """Files, hashes and manifest changed together on the pod's own disk: fetched again, or refused."""
    service.yard.publish("one")
    await service.started()
    (cached,) = (path for path in (service.yard.root / "cache" / KIND).iterdir() if path.is_dir())
    write_checkpoint(cached, KIND, {"name.json": b'"hacked"'}, seed=42, metrics={})
    if registry_is_there:
        assert (await service.started()).served == ("one",)
    else:
        shutil.rmtree(service.yard.folder)
        with pytest.raises(ChurnSaverError):
            await service.started()


async def test_a_champion_that_crashes_its_loader_at_the_start_is_passed_over(service: Service) -> None:
    service.yard.publish("one")
    await service.started()
    service.yard.publish("crash")
    assert (await service.started()).served == ("one",)
    assert "ZeroDivisionError" in service.refusals[0]


async def test_what_the_project_ships_serves_where_nothing_was_published(service: Service) -> None:
    service.bundled = {KIND: service.yard.checkpoint("shipped")}
    follower = await service.started()
    assert follower.served == ("shipped",)
    service.yard.publish("one")
    await follower.look()
    assert follower.served == ("one",)


async def test_nothing_to_serve_is_said(service: Service) -> None:
    """The registry, the kind, and what to do."""
    with pytest.raises(RegistryError, match=r"has no champion of kind risk.*make up"):
        await service.started()
    service.yard.publish("failing")
    with pytest.raises(ChurnSaverError, match="golden case"):
        await service.started()


async def test_only_two_fetched_checkpoints_are_kept(service: Service) -> None:
    service.yard.publish("0")
    follower = await service.started()
    for number in range(1, 5):
        service.yard.publish(str(number))
        await follower.look()
    kept = [path for path in (service.yard.root / "cache" / KIND).iterdir() if path.is_dir()]
    assert len(kept) == 2
    assert (service.yard.keys / PRIVATE_KEY).exists()
