"""Preferences: made pairs that only their fault tells apart, and a team's own pairs, held against the world."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.safety.review import Policy, Review, Stage
from churnsaver.safety.rules import review_with_rules
from churnsaver.settings import load_world
from tests.support.rlhf import SEED, seeded_preferences
from trainers.rlhf.checks import read_preferences
from trainers.rlhf.corpus import PARTS, briefs, split_of
from trainers.rlhf.corpus.grammar import phrases
from trainers.rlhf.corruptions import MARGINS, for_part, tells
from trainers.rlhf.examples import Preference
from trainers.rlhf.preferences import make_preferences
from trainers.rlhf.reward_data import preferences

BRIEF = {
    "segment": "new", "offer": "check_in", "tone": "warm", "channel": "sms", "language": "en", "reason": "price",
}  # fmt: skip
GOOD, BAD = "We have {offer} for you until {expiry}. {opt_out}", "Take {offer}, {expiry}. {opt_out}"
LINE = {"brief": BRIEF, "chosen": GOOD, "rejected": BAD}


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[Preference]]:
    return seeded_preferences()


def every(pairs: dict[str, list[Preference]]) -> list[Preference]:
    return [pair for part in pairs.values() for pair in part]


def brief_offer(pair: Preference) -> str:
    assert pair.brief is not None
    return pair.brief.offer


def test_pairs_follow_the_split(pairs: dict[str, list[Preference]], world: World) -> None:
    assert len(pairs["train"]) >= 4000
    assert min(len(pairs["valid"]), len(pairs["test"])) >= 600
    for part, found in pairs.items():
        assert {split_of(pair.brief, world) for pair in found if pair.brief} == {part}
        assert set(Counter(pair.kind for pair in found)) == set(MARGINS)
        assert all(pair.margin == MARGINS[pair.kind] for pair in found)
    assert len({(p.chosen, p.rejected) for p in every(pairs)}) == len(every(pairs))


@pytest.mark.stack
def test_pairs_repeat(pairs: dict[str, list[Preference]], world: World) -> None:
    assert make_preferences(SEED, world) == pairs


def test_length_tells_nothing(pairs: dict[str, list[Preference]]) -> None:
    """A scorer that prefers the longer (or the shorter) text is right in about half of the pairs of every kind."""
    for part, found in pairs.items():
        for kind in MARGINS:
            longer = [len(pair.chosen) > len(pair.rejected) for pair in found if pair.kind == kind]
            assert 0.47 < sum(longer) / len(longer) < 0.53, (part, kind)
            words = [len(pair.chosen.split()) - len(pair.rejected.split()) for pair in found if pair.kind == kind]
            assert 0.4 < sum((n > 0) + 0.5 * (n == 0) for n in words) / len(words) < 0.6, (part, kind)


def test_only_non_compliant_texts_are_blocked(pairs: dict[str, list[Preference]], world: World) -> None:
    policy = Policy.of(world)

    def findings(pair: Preference, text: str) -> int:
        assert pair.brief is not None
        return len(review_with_rules(Review(text, Stage.DRAFT, pair.brief.channel), policy))

    for pair in every(pairs)[::3]:
        assert findings(pair, pair.chosen) == 0, pair.chosen
        assert (findings(pair, pair.rejected) > 0) == (pair.kind == "non_compliant"), pair.rejected


def test_wrong_offers_speak_of_another_purpose(pairs: dict[str, list[Preference]], world: World) -> None:
    for pair in every(pairs):
        if pair.kind == "wrong_offer":
            own = world.offer(brief_offer(pair)).purpose
            assert tells(pair.chosen, own)
            assert any(tells(pair.rejected, other) for other in {"review", "discount", "gift"} - {own}), pair.rejected


@pytest.mark.parametrize("fault", ["pushy", "vague", "padding"])
def test_held_out_pairs_use_other_phrases(pairs: dict[str, list[Preference]], fault: str) -> None:
    held_out = [phrase for phrase in for_part(phrases("corruptions")[fault], "test") if "[" not in phrase]
    assert held_out
    assert not [p for p in pairs["train"] if any(phrase in p.rejected for phrase in held_out)]
    assert [p for p in pairs["test"] if any(phrase in p.rejected for phrase in held_out)]


def test_pairs_in_a_folder_are_checked_as_a_teams_are(tmp_path: Path, world: World) -> None:
    """Public pairs have no brief and may repeat each other; whatever has a brief is checked."""
    headline = {"chosen": "Ten {things}", "rejected": "A ${thing}", "kind": "headline"}
    for part in PARTS:
        line = LINE | {"brief": next(b.model_dump() for b in briefs(world, part))}
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (headline, headline, line)))
    read = preferences(tmp_path, None, world, to_train=True)
    assert [len(part) for part in (read.train, read.valid, read.test)] == [3, 3, 3]
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write(json.dumps(line | {"chosen": "{price} {offer}"}) + "\n")
    with pytest.raises(BadInput, match=r"test\.jsonl, line 4: chosen: has the unknown slot \{price\}"):
        preferences(tmp_path, None, world, to_train=True)


def test_reviewers_pairs_that_cannot_be_learned_from_are_refused(tmp_path: Path, world: World) -> None:
    """Those of test scenarios alone; else it is said what each part got."""
    for part in PARTS:
        line = LINE | {"brief": next(b.model_dump() for b in briefs(world, part))}
        (tmp_path / f"{part}.jsonl").write_text(json.dumps(line) + "\n")
        own = json.dumps(line | {"chosen": "Ours {offer}"})
        (tmp_path / f"own_{part}.jsonl").write_text(own + "\n")
    said: list[str] = []
    with pytest.raises(BadInput, match=r"test\.jsonl: has no pair of a train scenario"):
        preferences(tmp_path, tmp_path / "own_test.jsonl", world, say=said.append, to_train=True)
    preferences(tmp_path, tmp_path / "own_train.jsonl", world, say=said.append, to_train=True)
    for part in PARTS:  # to measure with, whatever there is of the test part
        preferences(tmp_path, tmp_path / f"own_{part}.jsonl", world, to_train=False)
    assert said[1].endswith("1 pairs to train on, 0 to calibrate with, 0 to test")
    turned = json.loads((tmp_path / "train.jsonl").read_text())
    turned["chosen"], turned["rejected"] = turned["rejected"], turned["chosen"]
    (tmp_path / "turned.jsonl").write_text(json.dumps(turned))
    (pair,) = preferences(tmp_path, tmp_path / "turned.jsonl", world, say=said.append, to_train=True).train
    assert pair.chosen == turned["chosen"]  # a person's word stands
    assert said[-1].endswith(f"0 to test; 1 of them in the place of {tmp_path}'s")


def test_a_teams_pairs_are_read(tmp_path: Path, world: World) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(LINE) + "\n\n" + json.dumps(LINE | {"chosen": "Other {offer}"}) + "\n")
    first, second = read_preferences(file, world)
    assert (first.chosen, first.kind, first.margin, second.chosen) == (GOOD, "reviewers", 0.0, "Other {offer}")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "holds no lines"),
        ([LINE, LINE], "pairs.jsonl, line 1; keep one of them"),
        ([LINE, LINE | {"chosen": BAD, "rejected": GOOD}], "pairs.jsonl, line 1; keep one of them"),
        ([LINE, LINE | {"chosen": GOOD.replace(" ", "  "), "rejected": f"{BAD} "}], "line 1; keep one of them"),
        ([LINE | {"rejected": f" {GOOD} "}], "line 1: rejected: is the same text as chosen"),
        ([LINE | {"chosen": ""}], "line 1: chosen: String should have at least 1 character"),
        ([LINE | {"chosen": "  "}], "line 1: chosen: is empty"),
        ([LINE | {"chosen": "{price} {offer}"}], "line 1: chosen: has the unknown slot {price}"),
        ([LINE | {"chosen": "{Price} {offer}"}], "line 1: chosen: has a brace that belongs to no slot, at '{Price'"),
        ([LINE | {"rejected": "Take { offer }"}], "line 1: rejected: has a brace that belongs to no slot"),
        ([LINE | {"rejected": "Take {offer"}], "line 1: rejected: has a brace that belongs to no slot"),
        (
            [LINE | {"rejected": LINE["chosen"] + "\N{ZERO WIDTH SPACE}"}],
            "line 1: rejected: is the same text as chosen",
        ),
        ([LINE | {"chosen": "\N{ZERO WIDTH SPACE}"}], "line 1: chosen: is empty"),
        ([LINE | {"kind": "tie"}], "line 1: kind: is tie, and neither text is better"),
        ([LINE | {"weight": 1e300}], "line 1: weight"),
        ([LINE | {"margin": 1e300}], "line 1: margin"),
        ([{"chosen": GOOD, "rejected": BAD}], "line 1: brief: is missing"),
        ([LINE | {"brief": {k: v for k, v in BRIEF.items() if k != "offer"}}], "line 1: brief.offer: Field required"),
        (
            [LINE | {"brief": BRIEF | {"offer": "discount_90"}}],
            "brief.offer: is 'discount_90'; expected one of check_in",
        ),
        ([LINE | {"brief": BRIEF | {"tone": "rude"}}], "brief.tone: is 'rude'"),
        ([LINE | {"margin": -1}], "line 1: margin: Input should be greater than or equal to 0"),
    ],
)
def test_bad_pairs_are_refused(tmp_path: Path, world: World, lines: list[dict[str, object]], expected: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BadInput, match=r"pairs\.jsonl") as refused:
        read_preferences(file, world)
    assert expected in str(refused.value)
