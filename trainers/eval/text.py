"""`eval text`: what tuning did to the texts, on briefs of scenarios that nothing was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.message import Brief
from churnsaver.domain.world import World
from trainers.eval.text_audit import audit, is_right_offer, told
from trainers.rlhf.checks import check_apart, check_brief, read_approved
from trainers.rlhf.corpus import briefs as briefs_of
from trainers.rlhf.corpus import make_corpus, scenario_of
from trainers.rlhf.examples import WrittenMessage, numbered_jsonl
from trainers.rlhf.text_reward import Filter
from trainers.rlhf.win_rate import Scorer, agreed_bounds, win_rate
from trainers.rlhf.writers import BASE, PPO, SFT, Written
from trainers.rlhf.writing_figures import has_exact_slots

REFERENCE = "reference"
# TRL's PPO example on TL;DR with Pythia 1B, preferred to the reference texts by its judge (TARGETS.md).
TRL_AGAINST_REFERENCE = {PPO: 0.647, SFT: 0.330}
KL_TOLERANCE = 0.2
AUDITED_MESSAGES = 3000
MAX_SHOWN = 20
# Of which a writer that is worth an audit has one message at least.
MOST_DRAFTS_A_MESSAGE = 3


def held_out(data: Path | None, seed: int, world: World) -> tuple[list[Brief], list[WrittenMessage]]:
    """Briefs to write for, each once, and approved texts for all of their scenarios.

    Args:
        data: a folder of `data messages`, whose test part they are; None is the built-in corpus.

    Raises:
        BadInput: a file of the folder cannot be used, or a scenario stands in two of them.
    """
    if data is None:
        return briefs_of(world, "test"), make_corpus(seed, world).test
    approved = read_approved(data / "test.jsonl", world)
    each: dict[str, list[Brief]] = {}
    for part in ("train", "valid"):
        found = numbered_jsonl(path := data / f"{part}.jsonl", WrittenMessage)
        for number, message in found:
            check_brief(message.brief, world, f"{path}, line {number}")
        each[part] = [message.brief for _, message in found]
    each["test"] = [message.brief for message in approved]
    check_apart(each, data, world)
    return list(dict.fromkeys(each["test"])), approved


def references(briefs: Sequence[Brief], approved: Sequence[WrittenMessage], world: World) -> list[str]:
    """For each brief an approved text of its scenario, another one each time the scenario comes again."""
    by_scenario: dict[Any, list[str]] = {}
    for message in approved:
        by_scenario.setdefault(scenario_of(message.brief, world), []).append(message.text)
    used: dict[Any, int] = {}
    found = []
    for brief in briefs:
        scenario = scenario_of(brief, world)
        texts, number = by_scenario[scenario], used.get(scenario, 0)
        found.append(texts[number % len(texts)])
        used[scenario] = number + 1
    return found


def evaluate_text(
    written: Written,
    reference: Sequence[str],
    audited: tuple[Sequence[Brief], Sequence[str]],
    judge: Scorer,
    rules: Filter,
    world: World,
    kl_target: float | None,
    seed: int,
    *,
    went_on: bool,
) -> dict[str, Any]:
    """All figures, and under "missed" the targets that were missed.

    Args:
        reference: an approved text for each brief.
        audited: briefs and drafts of the tuned writer to audit, by `drafts_to_audit`.
        went_on: whether that writer went on from another, which it has to be compared with then.
    """
    briefs, texts = written.briefs, {**written.texts, REFERENCE: list(reference)}
    figures = {
        name: writer_figures(briefs, drafts, rules, world, seed) | {"ended": written.ended.get(name, 1.0)}
        for name, drafts in texts.items()
    }
    pairs = ((PPO, SFT), (PPO, REFERENCE), (SFT, REFERENCE), (SFT, BASE), (PPO, BASE))
    rates = {
        f"{ours} against {theirs}": win_rate(judge, briefs, texts[ours], texts[theirs], seed)
        for ours, theirs in pairs
        if ours in texts and theirs in texts
    }
    divergence = {} if written.kl is None else {"kl": {**interval(written.kl, briefs, seed), "target": kl_target}}
    result = {
        "briefs": len({brief.model_dump_json() for brief in briefs}),
        "drafts": len(briefs),
        "writers": figures,
        "win_rates": rates,
        "trl_against_reference": TRL_AGAINST_REFERENCE,
        **divergence,
        "audit": audit_figures(*audited, rules, world),
    }
    return {**result, "missed": missed(result, went_on=went_on)}


def writer_figures(
    briefs: Sequence[Brief], drafts: Sequence[str], rules: Filter, world: World, seed: int
) -> dict[str, Any]:
    """What can be counted in one writer's drafts; shares with their 95 % intervals, clustered by brief."""
    claims = [is_right_offer(brief, draft, world) for brief, draft in zip(briefs, drafts, strict=True)]
    shares = {
        "required_elements": [has_exact_slots(draft) for draft in drafts],
        "names_its_offer": [claim is True for claim in claims],
        "names_another_offer": [claim is False for claim in claims],
        "shield_pass": [rules.passes(brief, draft) for brief, draft in zip(briefs, drafts, strict=True)],
    }
    return {
        **{name: interval(np.array(each, dtype=np.float64), briefs, seed) for name, each in shares.items()},
        "words": float(np.mean([len(draft.split()) for draft in drafts])),
        "distinct_1": distinct(drafts, 1),
        "distinct_2": distinct(drafts, 2),
        "distinct_texts": len(set(drafts)) / len(drafts),
    }


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words among all (Li et al. 2016, "A Diversity-Promoting Objective Function")."""
    grams = [tuple(words[i : i + n]) for text in texts if (words := text.split()) for i in range(len(words) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)


def interval(
    values: NDArray[np.float64], briefs: Sequence[Brief], seed: int, resamples: int = 1000
) -> dict[str, float]:
    """A mean and its 95 % interval, by a bootstrap over briefs; of shares on which all agree, by the exact bound."""
    _, cluster = np.unique([brief.model_dump_json(exclude={"offer"}) for brief in briefs], return_inverse=True)
    n = int(cluster.max()) + 1
    sums, counts = np.bincount(cluster, weights=values, minlength=n), np.bincount(cluster, minlength=n)
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    if set(values.tolist()) in ({0.0}, {1.0}):
        low, high = agreed_bounds(values[0], n)
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def drafts_to_audit(
    write: Callable[[Sequence[Brief], int], Sequence[str]], briefs: Sequence[Brief], messages: int, rules: Filter
) -> tuple[list[Brief], list[str]]:
    """Briefs in turn and their drafts, until the shield lets so many pass.

    Args:
        write: a draft for each brief; the number of the call gives it luck of its own.
    """
    asked: list[Brief] = []
    drafts: list[str] = []
    passed = number = 0
    while passed < messages and len(drafts) < messages * MOST_DRAFTS_A_MESSAGE:
        turn = [briefs[(len(drafts) + i) % len(briefs)] for i in range(messages - passed)]
        written = write(turn, number)
        passed += sum(rules.passes(brief, draft) for brief, draft in zip(turn, written, strict=True))
        asked += turn
        drafts += written
        number += 1
    return asked, drafts


def audit_figures(briefs: Sequence[Brief], drafts: Sequence[str], rules: Filter, world: World) -> dict[str, Any]:
    """What independent checks find in the drafts that the shield lets pass: those would be sent."""
    sent = [(brief, draft) for brief, draft in zip(briefs, drafts, strict=True) if rules.passes(brief, draft)]
    found = audit([brief for brief, _ in sent], [draft for _, draft in sent], world)
    messages = [draft for _, draft in sent]
    return {
        "written": len(drafts),
        "messages": len(sent),
        "violations": len(found),
        "examples": [told(violation, messages) for violation in found[:MAX_SHOWN]],
    }


def missed(result: Mapping[str, Any], *, went_on: bool) -> list[str]:
    """A sentence for each target of TARGETS.md, row PPO-text, that is missed; `went_on` as `evaluate_text` has it."""
    checked, figures = result["audit"], result["writers"]
    demands = [
        (checked["violations"] == 0, f"{checked['violations']} violations in {checked['messages']} messages"),
        (
            checked["messages"] >= AUDITED_MESSAGES,
            f"{checked['messages']} messages were audited, {AUDITED_MESSAGES} are demanded",
        ),
        (SFT in figures or not went_on, "not compared with the writer before PPO: name it with --sft"),
    ]
    if SFT in figures and PPO in figures:
        low = result["win_rates"][f"{PPO} against {SFT}"]["length_controlled_low"]
        kl, target = result["kl"]["value"], result["kl"]["target"]
        passed = figures[PPO]["shield_pass"]["value"]
        demands += [
            (low > 0.5, f"win rate against SFT: lower bound {low:.3f}, above 0.5 is demanded"),
            (
                abs(kl / target - 1.0) <= KL_TOLERANCE,
                f"KL {kl:.2f} nats a text, within 20 % of {target:g} is demanded",
            ),
            (
                passed >= figures[SFT]["shield_pass"]["low"],
                f"the shield passes {passed:.3f} of PPO's drafts, fewer than of SFT's",
            ),
        ]
    return [said for holds, said in demands if not holds]
