"""The bank: messages written ahead for each brief, reviewed by the shield, ranked, shared by all replicas.

Choosing is a look-up on a shelf in memory. Beside it, one replica at a time fills the bank, replaces what is old and
retires what draws opt-outs; all replicas follow what it and people have said. A new model's bank is filled while the
former one serves, and takes over whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Container, Iterable

import structlog
from redis.asyncio import Redis

from churnsaver.domain.message import Brief
from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.message_counts import OPTED_OUT, USES, MessageCounts
from churnsaver.settings import GeneratorSettings
from churnsaver.tasks import stop_tasks
from services.generator import metrics
from services.generator.engine import Engine, EngineFailed
from services.generator.evidence import Counts, Evidence
from services.generator.filling import Filler
from services.generator.listing import Entry, list_entries
from services.generator.message import EVIDENCE, BankMessage, Judgement, Judgements, Verdict
from services.generator.prompt import bank_version, prompts
from services.generator.ranking import Reward
from services.generator.reviewing import DraftReview, ShieldUnavailable
from services.generator.shelf import Shelf
from services.generator.store import BATCH, News, Store, StoreUnavailable

log = structlog.get_logger()

NEWS_S = 0.5
UPKEEP_S = 2.0
IDLE_S = 2.0
RETRY_S = 5.0  # after an engine or a shield that failed: asking one that is away each second says nothing new
# A new model's bank takes over when it serves this share of the briefs that the former one serves. What a model cannot
# write must not keep the rest of its messages back for ever; one that writes for fewer is no step forward.
ENOUGH = 0.9


class Bank:
    """Messages by brief.

    Attributes:
        prompts: the briefs that messages are wanted for, by what the model is told of them.
        wanted: the same briefs by key.
        languages: that the model writes in.
        filling: whether a brief may still get its first message.
        version: of everything that decides what is written; Redis keeps each version apart.
    """

    def __init__(
        self,
        settings: GeneratorSettings,
        world: World,
        engine: Engine,
        reward: Reward,
        review: DraftReview,
        redis: Redis,
        *,
        seed: int,
        version: str,
        former: Bank | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`version`: of engine and reward model. `former`: whose messages are given out until this bank is filled."""
        self._settings, self._clock = settings.bank, clock
        self.languages = settings.languages
        self.prompts = prompts(settings, world)
        self.wanted: dict[str, Brief] = {brief.key: brief for briefs in self.prompts.values() for brief in briefs}
        self.version = bank_version(version, settings, seed, self.prompts)
        self._judgements: Judgements = former._judgements if former else Judgements(settings.bank.approval)
        self._own = self._new_shelf()
        self._predecessor = former  # until this bank is on duty, for it may settle and judge until then
        self._former: Shelf | None = None
        self._store = Store(redis, self.version)
        # What was weighed before is forgotten with this process: one look more than GROWTH allows is little.
        self._evidence: Evidence = former._evidence if former else Evidence()
        self._weighed = 0
        self._filler = Filler(
            settings.bank, self.prompts, engine, reward, review, self._judgements, seed=seed, clock=clock
        )
        if former:
            self._filler.asked = former._filler.asked
        self._unkept: set[str] = set()
        self._untold: dict[str, Judgement] = {}
        self._served: str | None = None  # the version that Redis says serves; None before it was asked
        self._said = False  # that this version serves; once, for two versions may share a Redis
        self._writes = False
        self._began = time.monotonic()
        self.filling = True

    # -- giving out ----------------------------------------------------------------------------------

    def choose(self, brief: Brief, seed: int) -> tuple[BankMessage, float] | None:
        """A message for `brief` and its propensity, see `shelf.choice_chances`; None where there is none."""
        if brief.key in self.wanted:
            self._filler.asked[brief.key] += 1
        return self._serving.choose(brief.key, seed)

    def is_retired(self, message_id: str) -> bool:
        """Whether these words are never to be given out again for their brief, whoever writes them."""
        return self._judgements.is_retired(message_id)

    @property
    def needs_approval(self) -> bool:
        """Whether a person approves each message before it is given out."""
        return self._judgements.needs_approval

    @property
    def briefs_filled(self) -> int:
        """How many of the wanted briefs have a message of this version, whether it may be given out or not."""
        return self._own.briefs

    @property
    def _serving(self) -> Shelf:
        if self._predecessor is not None:
            return self._predecessor._serving
        return self._own if self._former is None else self._former

    # -- people --------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Everything that is held or was retired, by brief."""
        new = self._own if self._former is not None else None
        return list_entries(self.wanted, self._serving, new, self._judgements)

    async def counts(self, message_ids: list[str]) -> list[MessageCounts]:
        """What is counted of messages; StoreUnavailable while Redis is away."""
        return await self._store.counts(message_ids)

    async def judge(self, message_id: str, verdict: Verdict, *, by: str, reason: str) -> bool:
        """Approves or retires a message, here at once; whether every replica hears of it now, or later.

        Raises:
            BadInput: nobody is named, no reason is given, there is no such message, or it was retired before.
        """
        self._take_over()
        for field, value in (("by", by), ("reason", reason)):
            if not value.strip():
                raise BadInput(f"{field} is empty; say who decides and why, everyone who asks is told")
        brief, draft = await self._brief_and_draft(message_id, verdict)
        if (before := self._judgements.get(message_id)) and before.verdict is Verdict.RETIRED:
            if verdict is Verdict.APPROVED:
                raise BadInput(f"{message_id} was retired by {before.by} ({before.reason}), and stays so")
            return await self._tell()
        self._decide(Judgement(message_id, verdict, by, reason, self._clock(), brief, draft), why="person")
        return await self._tell()

    async def _brief_and_draft(self, message_id: str, verdict: Verdict) -> tuple[str, str]:
        for shelf in (self._own, self._serving):
            if (found := shelf.find(message_id)) is not None:
                return found[0], found[1].draft
        if (before := self._judgements.get(message_id)) is not None:
            return before.brief, before.draft
        if verdict is Verdict.RETIRED:
            try:
                counted = await self._store.counts([message_id])
            except StoreUnavailable:
                raise BadInput(f"{message_id[:40]!r} is not held, and Redis cannot be asked; try again") from None
            if counted[0].total:
                return "", ""  # nobody knows its words any more, but contacts may be booked with it
        raise BadInput(f"the bank has no message {message_id[:40]!r}; `churn-saver bank list` shows them")

    def _decide(self, judgement: Judgement, *, why: str) -> None:
        self._hear(judgement)
        self._untold[judgement.message_id] = judgement
        if judgement.verdict is Verdict.RETIRED:
            metrics.RETIRED.labels(why).inc()
        log.info(
            "bank.judged", **{name: getattr(judgement, name) for name in ("message_id", "verdict", "by", "reason")}
        )

    def _hear(self, judgement: Judgement) -> None:
        self._judgements.add(judgement)
        for shelf in {self._own, self._serving}:
            shelf.judged(judgement.message_id)
        held = self._own.held(judgement.brief)
        if len(best := self._filler.best(held)) < len(held):
            # It was approved, so that an older one can go.
            self._own.put(judgement.brief, best)
            self._unkept.add(judgement.brief)
        self._show()

    async def _tell(self) -> bool:
        """Whether Redis knows of every judgement of this replica now."""
        try:
            await self._store_judgements()
        except StoreUnavailable:
            return False
        return True

    # -- in the background ---------------------------------------------------------------------------

    async def load(self) -> None:
        """Takes what Redis keeps of this version; nothing where it is away."""
        self._take_over()
        metrics.BRIEFS_WANTED.set(len(self.wanted))
        with contextlib.suppress(StoreUnavailable):
            await self._follow()
        self._show()

    def _take_over(self) -> None:
        """This bank is on duty: what the former one gives out and has not told yet is its own now."""
        if (former := self._predecessor) is not None:
            former._take_over()  # where that one never came on duty itself
            self._former, self._untold = former._serving, dict(former._untold)
            self._predecessor = None

    async def run(self, may_write: asyncio.Event) -> None:
        """Follows the other replicas, and once it may write fills the bank in its turns; until cancelled."""
        await self._take_turns()

        async def fill() -> None:
            await may_write.wait()
            await self._fill()

        steps = ((self._follow, NEWS_S), (self._keep_up, UPKEEP_S), (fill, 0.0))
        tasks = [asyncio.create_task(_forever(step, pause_s)) for step, pause_s in steps]
        try:
            await asyncio.gather(*tasks)
        finally:
            try:
                await stop_tasks(tasks)
            finally:
                with contextlib.suppress(StoreUnavailable):
                    await self._store.give_up_lease()

    async def _follow(self) -> None:
        """Hears what other replicas have written and decided. Raises StoreUnavailable."""
        news = await self._store.news()
        for judgement in news.judgements:
            self._hear(judgement)
        self._mend(news.damaged, news.judgements)
        for key, messages in news.messages.items():
            if key in self._unkept:
                # What could not be stored yet comes beside what others have stored, unless it was to make room.
                own = self._own.held(key)
                self._own.put(key, self._filler.best((*messages, *own)) if own else ())
            elif key in self.wanted:
                self._own.put(key, messages)
        if news.served is not None:
            await self._hear_served(news)
        self._swap_if_fuller()
        self._show()

    def _mend(self, damaged: Iterable[str], heard: Iterable[Judgement]) -> None:
        """What memory has in place of what is damaged in Redis is stored again, but for approvals: people say anew.

        So is a retirement where Redis came back from a snapshot with the approval from before.
        """
        self._unkept |= {name for name in damaged if self._own.held(name)}
        approved = {each.message_id for each in heard if each.verdict is Verdict.APPROVED}
        for name in approved.union(damaged):
            if (known := self._judgements.get(name)) is not None and known.verdict is Verdict.RETIRED:
                self._untold[name] = known

    async def _hear_served(self, news: News) -> None:
        first, self._served = self._served is None, news.served
        if news.served == self.version:
            self._said = True
            self._settle()
        elif first and news.served and self._former is None and self._is_first_filling():
            # This process starts while a new model's bank is being filled: what served goes on serving.
            former = self._new_shelf()
            for key, messages in (await self._store.messages_of(news.served)).items():
                if key in self.wanted:
                    former.put(key, messages)
            self._former = former

    async def _keep_up(self) -> None:
        """Stores what Redis lacks and, where it is this replica's turn, says who serves and weighs the evidence."""
        await self._take_turns()
        for step in (self._store_judgements, self._store_messages, self._find_losses):
            await step()
        if self._served == self.version:
            self._settle()
        if not self._writes:
            return
        if not self.filling and self._former is None and not self._said:
            await self._store.serve()
            self._served, self._said = self.version, True
        await self._weigh()

    async def _take_turns(self) -> None:
        """One replica writes; while Redis cannot say which, each writes for itself."""
        try:
            self._writes = await self._store.hold_lease()
        except StoreUnavailable:
            self._writes = True

    async def _store_judgements(self) -> None:
        if told := dict(self._untold):
            await self._store.judge(told.values())
            self._untold = {key: each for key, each in self._untold.items() if told.get(key) is not each}

    async def _store_messages(self) -> None:
        if not self._store.is_read:
            return  # a replica that began while Redis was away would write over what others have stored
        if unkept := {key: self._own.held(key) for key in self._unkept}:
            await self._store.keep(unkept)
            self._unkept -= {key for key, messages in unkept.items() if self._own.held(key) == messages}

    async def _find_losses(self) -> None:
        """What Redis has lost is stored again from memory."""
        known = {judgement.message_id: judgement for judgement in self._judgements.all()}
        briefs, judged, served = await self._store.lacks([key for key, _ in self._own], list(known))
        if not served:
            self._said = False
        if briefs or judged:
            log.warning("bank.lost", briefs=len(briefs), judgements=len(judged))
            self._unkept |= set(briefs)
            self._untold |= {message_id: known[message_id] for message_id in judged}
            await self._store_judgements()
            await self._store_messages()

    async def _weigh(self) -> None:
        """Retires the messages of some briefs that draw more opt-outs than their siblings; others' turn comes next."""
        compared = [(key, messages) for key, messages in self._serving if len(messages) > 1]
        some = compared[self._weighed : self._weighed + BATCH]
        self._weighed = self._weighed + BATCH if some else 0
        counted = iter(await self._store.counts([each.message_id for _, messages in some for each in messages]))
        for key, messages in some:
            by_day = {each.message_id: _opt_outs(next(counted)) for each in messages}
            if self._serving.held(key) != messages:
                continue  # a person may have retired one while they were counted; who did and why stays written
            if (found := self._evidence.against(key, by_day)) is not None:
                draft = next(each.draft for each in messages if each.message_id == found.message_id)
                judgement = Judgement(
                    found.message_id, Verdict.RETIRED, EVIDENCE, found.reason, self._clock(), key, draft
                )
                self._decide(judgement, why=EVIDENCE)
        await self._store_judgements()

    async def _fill(self) -> None:
        """Writes what is lacking most, and waits so long that the engine keeps to its share of time."""
        lack = self._filler.next_lack(self._own) if self._writes else None
        if self._writes and not self._is_first_filling():
            self._settle()
        if lack is None:
            await asyncio.sleep(IDLE_S if self._writes else NEWS_S)
            return
        try:
            written = await self._filler.write(lack, self._own)
        except (EngineFailed, ShieldUnavailable) as error:
            log.warning("bank.not_written", brief=lack.briefs[0].key, reason=repr(error))
            await asyncio.sleep(max(RETRY_S, self._pause_s()))
            return
        for key, messages in written.items():
            self._own.put(key, messages)
        self._unkept |= written.keys()
        self._make_room(written.keys())
        self._swap_if_fuller()
        self._show()
        try:
            await self._store_messages()
        except StoreUnavailable as error:
            log.warning("bank.not_kept", briefs=len(self._unkept), reason=str(error))
        await asyncio.sleep(self._pause_s())

    def _is_first_filling(self) -> bool:
        """Whether a brief still waits for its first message."""
        lack = self._filler.next_lack(self._own)
        return lack is not None and lack.first

    def _pause_s(self) -> float:
        """So long the engine is left alone after a write; the first filling takes what it needs."""
        return 0.0 if self.filling else self._filler.wrote_s * (1.0 / self._settings.engine_share - 1.0)

    def _make_room(self, written: Container[str]) -> None:
        """Drops the messages of the prompts that are asked for least, where there are too many in all."""
        # In the order in which the filler passes briefs over, or what is dropped here would be written there again.
        for _, briefs in reversed(self._filler.by_demand()):
            for key in (brief.key for brief in briefs if self._own.held(brief.key) and brief.key not in written):
                if self._own.messages <= self._settings.max_messages:
                    return
                self._own.put(key, ())
                self._unkept.add(key)

    def _settle(self) -> None:
        """Each brief had its turn: this bank serves, unless the former one serves many more briefs."""
        if self.filling:
            self.filling = False
            metrics.FILL_SECONDS.set(time.monotonic() - self._began)
            log.info("bank.filled", briefs=self.briefs_filled, wanted=len(self.wanted), version=self.version)
        if self._former is not None and self._own.briefs_served >= ENOUGH * self._former.briefs_served:
            self._swap(self._former)
        self._show()

    def _swap_if_fuller(self) -> None:
        """A former bank that was hardly filled, or wrote for other briefs, is not waited for."""
        if self._former is not None and self._own.briefs_served > self._former.briefs_served:
            self._swap(self._former)

    def _swap(self, former: Shelf) -> None:
        log.info("bank.swapped", briefs=self._own.briefs_served, former=former.briefs_served)
        self._former = None

    def _new_shelf(self) -> Shelf:
        return Shelf(self._judgements, self._settings.exploration)

    def _show(self) -> None:
        metrics.BRIEFS.set(self._serving.briefs_served)
        metrics.MESSAGES.set(self._own.messages)
        metrics.SWAP_PENDING.set(self._former is not None)


async def _forever(step: Callable[[], Awaitable[None]], pause_s: float) -> None:
    while True:
        try:
            await step()
        except StoreUnavailable:
            await asyncio.sleep(NEWS_S)  # counted where it was met; the next round tries again
        except Exception:
            # One step must not keep the others from their work, and nobody would start this task again.
            log.exception("bank.step_failed", step=step.__name__)
            await asyncio.sleep(RETRY_S)
        await asyncio.sleep(pause_s)


def _opt_outs(counted: MessageCounts) -> dict[int, Counts]:
    return {day: Counts(counts.get(USES, 0), counts.get(OPTED_OUT, 0)) for day, counts in counted.by_day.items()}
