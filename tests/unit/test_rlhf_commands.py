"""`data messages`, `data preferences`, `label`: files that training reads, and a person's verdicts that survive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from churnsaver.domain.message import Brief
from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.settings import load_world
from cli.main import app
from trainers.rlhf.checks import read_approved, read_preferences
from trainers.rlhf.corpus import PARTS, briefs
from trainers.rlhf.examples import Preference, WrittenMessage, read_jsonl, write_jsonl
from trainers.rlhf.labelling import ties_beside

TEXT = "Hi {first_name}, you can have {offer} until {expiry}. {opt_out}"
EMAIL = {"segment": "new", "offer": "check_in", "tone": "warm", "channel": "email", "language": "en", "reason": "price"}


def run(*arguments: object, stdin: str = "") -> dict[str, Any]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], input=stdin)
    if result.exception is not None:
        raise result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_messages_are_written_by_part(tmp_path: Path) -> None:
    found = run("data", "messages", "--out", tmp_path, "--seed", 7)
    assert found["max_similarity"] <= 0.5
    for part in PARTS:
        assert len(read_jsonl(tmp_path / f"{part}.jsonl", WrittenMessage)) == found[part]
    card = (tmp_path / "DATA_CARD.md").read_text()
    assert "--seed 7" in card
    assert "| channels, sms | 1890 |" in card
    world = load_world()
    assert read_approved(tmp_path / "test.jsonl", world)  # what is made would be accepted of a team


@pytest.mark.stack
def test_preferences_without_public_data_say_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "preferences", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0
    assert "no folder of public data was named: no pairs from upworthy_headlines.csv.gz" in result.stderr
    found = json.loads(result.stdout)
    assert found["kinds"]["wrong_offer"] > 1000
    assert "headline_noise_ceiling" not in found
    assert read_preferences(tmp_path / "test.jsonl", load_world())
    assert "| longer_preferred, pushy | 0.4" in (tmp_path / "DATA_CARD.md").read_text()


def test_the_card_of_preferences_says_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --public, without which another file would be made."""
    brief = briefs(load_world(), "test")[0]
    made = [Preference(brief=brief, chosen=TEXT, rejected=f"{TEXT} !", kind="pushy")]
    monkeypatch.setattr("trainers.rlhf.preferences.make_preferences", lambda seed: dict.fromkeys(PARTS, made))
    words = ["data", "preferences", "--public", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/churn-saver", *words])
    run(*words)
    assert f"Made with seed 42: `churn-saver {' '.join(words)}`." in (tmp_path / "out" / "DATA_CARD.md").read_text()


def sms_briefs(world: World, part: str) -> list[Brief]:
    return [brief for brief in briefs(world, part) if brief.channel == "sms"]


def approved(tmp_path: Path, *changes: dict[str, object]) -> Path:
    world = load_world()
    lines = [
        WrittenMessage(brief=brief, text=TEXT).model_dump() for part in PARTS for brief in sms_briefs(world, part)[:3]
    ]
    lines += [lines[0] | change for change in changes]
    file = tmp_path / "ours.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_teams_own_messages_are_split(tmp_path: Path) -> None:
    found = run("data", "messages", "--out", tmp_path / "out", "--approved", approved(tmp_path))
    assert [found[part] for part in PARTS] == [3, 3, 3]
    assert "ours.jsonl" in (tmp_path / "out" / "DATA_CARD.md").read_text()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "line 10: text: is the same as in line 1"),
        ({"text": "Hi! {offer} {expiry} {opt_out} {price}"}, "line 10: text: has the unknown slot {price}"),
        ({"text": "Hi! You get {offer} until {expiry}."}, "rule required_element: {opt_out} must stand exactly once"),
        ({"text": f"Act now! {TEXT}"}, "rule phrase: forbidden wording: urgency ('act now')"),
        ({"text": " "}, "line 10: text: is empty"),
        ({"text": f"Subject: For you\n\n{TEXT}"}, "is no sms that is ever sent; expected a text without 'Subject: '"),
        (
            {"brief": EMAIL, "text": TEXT},
            "is no email that is ever sent; expected a text that begins with one 'Subject: …' and a blank line",
        ),
        ({"brief": EMAIL | {"language": "xx"}}, "brief.language: is 'xx', for which the shield has no phrases"),
        ({"brief": {"segment": "new"}}, "line 10: brief.offer: Field required"),
        ({"channel": "sms"}, "line 10: channel: Extra inputs are not permitted"),
    ],
)
def test_unusable_messages_are_refused(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    with pytest.raises(BadInput, match=r"ours\.jsonl, line 10") as refused:
        run("data", "messages", "--out", tmp_path / "out", "--approved", approved(tmp_path, change))
    assert expected in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_brief_of_another_world_is_refused(tmp_path: Path) -> None:
    file = approved(tmp_path)
    file.write_text(file.read_text().replace('"channel": "sms"', '"channel": "fax"', 1))
    with pytest.raises(BadInput, match=r"brief\.channel: is 'fax'; expected one of email, sms, push"):
        read_approved(file, load_world())


def test_a_part_without_messages_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    write_jsonl(file, [WrittenMessage(brief=sms_briefs(load_world(), "train")[0], text=TEXT)])
    with pytest.raises(BadInput, match="leaves the part 'valid' empty"):
        run("data", "messages", "--out", tmp_path / "out", "--approved", file)


def pairs_file(tmp_path: Path, n: int = 12) -> Path:
    file = tmp_path / "pairs.jsonl"
    found = [
        Preference(brief=brief, chosen=f"Good {i}: {TEXT}", rejected=f"Bad {i}: {TEXT}")
        for i, brief in enumerate(briefs(load_world(), "test")[:n])
    ]
    write_jsonl(file, found)
    return file


def test_labelling_is_resumed_and_read_by_training(tmp_path: Path) -> None:
    """One, a slip, two, a tie, a skip, quit; then the rest, the skipped one among them; then nothing is left."""
    file, out = pairs_file(tmp_path), tmp_path / "labels" / "ours.jsonl"
    command = ("label", "--pairs", file, "--out", out)
    first = run(*command, stdin="1\nwhat?\n2\nT\ns\nq\n1\n")
    assert {k: first[k] for k in ("labelled", "ties", "skipped", "left")} == {
        "labelled": 2, "ties": 1, "skipped": 1, "left": 9,
    }  # fmt: skip
    written = out.read_text()
    second = run(*command, stdin="1\n" * 100)
    assert (second["labelled"], second["left"]) == (9, 0)
    assert out.read_text().startswith(written)
    assert run(*command)["labelled"] == 0
    labelled = read_preferences(out, load_world())
    assert len(labelled) == 11
    assert {pair.kind for pair in labelled} == {"reviewers"}
    assert len(read_preferences(ties_beside(out), load_world(), ties=True)) == 1


def test_the_order_shown_gives_nothing_away(tmp_path: Path) -> None:
    """Whoever always answers 1 picks the file's chosen text about half the time, and another seed shows otherwise."""
    file = pairs_file(tmp_path, 40)
    picked = []
    for seed in (1, 2):
        out = tmp_path / f"{seed}.jsonl"
        run("label", "--pairs", file, "--out", out, "--seed", seed, stdin="1\n" * 40)
        picked.append({pair.chosen for pair in read_preferences(out, load_world())})
        assert 8 < sum(text.startswith("Good") for text in picked[-1]) < 32
    assert picked[0] != picked[1]


def test_the_end_of_input_is_quitting(tmp_path: Path) -> None:
    found = run("label", "--pairs", pairs_file(tmp_path), "--out", tmp_path / "o.jsonl", stdin="1\n")
    assert (found["labelled"], found["left"]) == (1, 11)


def test_messages_of_one_brief_are_compared(tmp_path: Path) -> None:
    first, second = briefs(load_world(), "test")[:2]
    file = tmp_path / "texts.jsonl"
    write_jsonl(
        file,
        [WrittenMessage(brief=first, text=f"{TEXT} {i}") for i in "ab"] + [WrittenMessage(brief=second, text=TEXT)],
    )
    result = CliRunner().invoke(
        app, ["label", "--messages", str(file), "--out", str(tmp_path / "o.jsonl")], input="2\n"
    )
    assert result.exit_code == 0
    assert "[1 of 1]" in result.stderr
    assert f"channel: {first.channel}" in result.stderr
    label = load_world().offer(first.offer).label["en"]
    assert f"Hi Ana, you can have {label} until 24 Dec 2026." in result.stderr
    write_jsonl(file, [WrittenMessage(brief=first, text=TEXT)])
    with pytest.raises(BadInput, match="no two different texts for one brief"):
        run("label", "--messages", file, "--out", tmp_path / "o.jsonl")


def test_messages_of_the_generator_are_compared(tmp_path: Path) -> None:
    """What `generate --out` writes; where neither name of the text is there, the line says so."""
    brief = briefs(load_world(), "test")[0].model_dump()
    lines = [
        {
            "brief": brief | {"language": "fr"},
            "language": "en",
            "draft": f"{TEXT} {i}",
            "source": "model",
            "message_id": i,
        }
        for i in "ab"
    ]
    file, out = tmp_path / "messages.jsonl", tmp_path / "o.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("label", "--messages", file, "--out", out, stdin="1\n")["labelled"] == 1
    (pair,) = read_preferences(out, load_world())
    assert {pair.chosen, pair.rejected} == {line["draft"] for line in lines}
    assert pair.brief == Brief(**brief)  # what was written for a French brief is English
    file.write_text(json.dumps({"brief": brief}) + "\n")
    with pytest.raises(BadInput, match="line 1: text: Field required"):
        run("label", "--messages", file, "--out", out)


def test_a_word_is_no_answer_by_its_first_letter(tmp_path: Path) -> None:
    """ "two", "12" and "same" are asked again; "tie", "SKIP" and "quit" are said in full."""
    file, out = pairs_file(tmp_path), tmp_path / "o.jsonl"
    found = run("label", "--pairs", file, "--out", out, stdin="two\n12\nsame\n2\ntie\nSKIP\nquit\n1\n")
    assert {k: found[k] for k in ("labelled", "ties", "skipped", "left")} == {
        "labelled": 1, "ties": 1, "skipped": 1, "left": 10,
    }  # fmt: skip


@pytest.mark.parametrize(("cut", "kept"), [(1, 2), (20, 1)], ids=["without its newline", "cut off"])
def test_a_last_line_that_does_not_end_swallows_no_answer(tmp_path: Path, cut: int, kept: int) -> None:
    """It gets its newline where it is whole; where it was cut off, it is asked again."""
    file, out = pairs_file(tmp_path, 4), tmp_path / "o.jsonl"
    run("label", "--pairs", file, "--out", out, stdin="1\n1\n")
    whole = out.read_text()
    out.write_text(whole[:-cut])
    found = run("label", "--pairs", file, "--out", out, stdin="1\n" * 4)
    assert (found["labelled"], found["left"]) == (4 - kept, 0)
    assert len(read_preferences(out, load_world())) == 4
    assert out.read_text().startswith(whole)


def test_an_answer_that_was_cut_off_at_once_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    out.write_text('{"brief": {"seg')
    assert run("label", "--pairs", pairs_file(tmp_path), "--out", out, stdin="1\n")["labelled"] == 1
    assert len(read_preferences(out, load_world())) == 1


@pytest.mark.parametrize("last", ["{ take care", '{"brief": "of today"'])
def test_nothing_of_another_file_is_lost(tmp_path: Path, last: str) -> None:
    out = tmp_path / "o.jsonl"
    out.write_text(f"Dear diary,\n{last}")
    with pytest.raises(BadInput, match=r"o\.jsonl, line 1: "):
        run("label", "--pairs", pairs_file(tmp_path), "--out", out, stdin="1\n")
    assert out.read_text() == f"Dear diary,\n{last}"


def test_texts_that_differ_by_whitespace_alone_are_not_compared(tmp_path: Path) -> None:
    """Such a pair could be read by nothing; two pairs that differ so are one, in one file and in two."""
    brief, file, out = briefs(load_world(), "test")[0], tmp_path / "texts.jsonl", tmp_path / "o.jsonl"
    write_jsonl(file, [WrittenMessage(brief=brief, text=text) for text in (TEXT, TEXT.replace(" ", "  "))])
    with pytest.raises(BadInput, match="no two different texts for one brief"):
        run("label", "--messages", file, "--out", out)
    pairs = [Preference(brief=brief, chosen=chosen, rejected="Act now!") for chosen in (TEXT, f"{TEXT}\n")]
    write_jsonl(file, pairs)
    with pytest.raises(BadInput, match=r"line 2: compares the same two texts as .*line 1"):
        run("label", "--pairs", file, "--out", out)
    write_jsonl(file, pairs[:1])
    assert run("label", "--pairs", file, "--out", out, stdin="1\n")["labelled"] == 1
    write_jsonl(file, pairs[1:])
    assert run("label", "--pairs", file, "--out", out, stdin="1\n")["labelled"] == 0
    assert len(read_preferences(out, load_world())) == 1


def test_a_terminal_is_shown_nothing_to_obey(tmp_path: Path) -> None:
    first = briefs(load_world(), "test")[0]
    file = tmp_path / "texts.jsonl"
    texts = (f"\x1b]0;owned\x07{TEXT}\n\rsecond line", f"\u202e{TEXT}")
    write_jsonl(file, [WrittenMessage(brief=first, text=text) for text in texts])
    words = ["label", "--messages", str(file), "--out", str(tmp_path / "o.jsonl")]
    shown = CliRunner().invoke(app, words, input="1\n").stderr
    assert "\\x1b]0;owned\\x07Hi Ana" in shown
    assert "\n\\rsecond line" in shown
    assert "\\u202eHi Ana" in shown
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)
    chosen = read_preferences(tmp_path / "o.jsonl", load_world())[0].chosen
    assert chosen in texts  # shown otherwise, kept as it is


def test_a_text_may_hold_a_line_separator(tmp_path: Path) -> None:
    """U+2028 ends no line of JSONL, so what is written of such messages can be read."""
    odd = f"Good news!\u2028{TEXT}"
    run("data", "messages", "--out", tmp_path / "out", "--approved", approved(tmp_path, {"text": odd}))
    written = [read_jsonl(tmp_path / "out" / f"{part}.jsonl", WrittenMessage) for part in PARTS]
    assert odd in [message.text for part in written for message in part]


def test_one_source_is_expected(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected either --pairs or --messages"):
        run("label", "--out", tmp_path / "o.jsonl")
