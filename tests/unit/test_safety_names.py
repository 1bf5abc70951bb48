"""The rule on first names: names of many languages pass, what nobody is called does not."""

from __future__ import annotations

import pytest

from churnsaver.checkpoints import open_checkpoint
from churnsaver.domain.message import neutralise
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as pb
from churnsaver.safety.bundled import BUNDLED_CHECKPOINT
from churnsaver.safety.toxicity import KIND
from churnsaver.settings import load_serve_settings
from services.shield.bootstrap import build_reviewer
from services.shield.review import Reviewer

ORDINARY = (
    """
Ana, Liam, Zoë, Chloë, Noël, José, María, Íñigo, Núria, João, Conceição, Inês, François, Éloïse, Maëlys, Jürgen,
Björn, Jörg, Åsa, Søren, Ægir, Þór, Guðrún, Ásgeir, Łukasz, Małgorzata, Žofia, Řehoř, Zdeněk, Ľubica, György, Ágnes,
Ștefan, Đorđe, Šime, Čedomir, Ömer, Çiğdem, İpek, Şebnem, Müjde, Siobhán, Seán, Caoimhe, Mohammed, Fatima, Yusuf,
Hassan, Assad, Jihad, Osama, Ngozi, Chukwuemeka, Kwame, Sipho, Gift, Precious, Queen, Prince, Angel, Jesus, Virginia,
Nguyễn, Phương, Phuc, Dũng, Bich, Win, Fat, Dong, Ho, Wei, Xin, Harshit, Dikshit, Semen, Titus, Fanny, Randy, Gay, Dick,
Jean-Pierre, Anne-Marie, Ta-Nehisi, Eun-ji, Abd al-Rahman, O'Brien, D'Angelo, N'Golo, Ka'imi, Mary Jane, Juan Carlos,
Jean Luc, Harshit Kumar, Thu Hà, María José, Bobby Joe, J.R., Мария, Дмитрий, Γιώργος, Ελένη, محمد, דוד, 小明, さくら,
지민, Ayşe Nur, Mary Ann Lou, Ana María del Carmen
""".replace("\n", " ")
    .strip()
    .split(", ")
)

NO_NAMES = [
    "You stupid idiot",
    "stupid",
    "Stup1d",
    "s t u p i d",
    "Idiot",
    "stupiiiid",
    "Dumb fat pig",
    "fuck you",
    "F.u.c.k",
    "You dick",
    "Dick fucker",
    "You are a thief",
    "hate you",
    "kill yourself",
    "Visit evil.com now",
    "Click here",
    "Act now",
    "Pay now",
    "Your account is closed",
    "win money now",
    "You smell awful and nobody likes you",
]


@pytest.fixture(scope="module")
def reviewer() -> Reviewer:
    return build_reviewer(load_serve_settings(), open_checkpoint(BUNDLED_CHECKPOINT, KIND))


def findings(reviewer: Reviewer, name: str) -> list[str]:
    """The rules that an approved text with `name` in it breaks."""
    slots = {
        "first_name": neutralise(name),
        "offer": "10% off for 3 months",
        "expiry": "12 Jan 2026",
        "opt_out": "Reply STOP to opt out.",
    }
    text = "Hi {first_name}! We are glad that you joined us. Yours until {expiry}: {offer}. {opt_out}".format(**slots)
    noon = pb.Delivery(send_at_unix_s=1767355200, timezone="Europe/London")
    review = reviewer.review(
        pb.ReviewRequest(text=text, stage=pb.STAGE_FILLED, channel="sms", language="en", slots=slots, delivery=noon)
    )
    return [finding.rule for finding in review.findings]


def test_ordinary_names_pass(reviewer: Reviewer) -> None:
    """A hundred names with diacritics, hyphens, apostrophes and several words; also such as look like insults."""
    assert len(ORDINARY) >= 100
    assert {name: found for name in ORDINARY if (found := findings(reviewer, name))} == {}


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_is_blocked(reviewer: Reviewer, name: str) -> None:
    """Insults, threats, pressure and words to the reader, in tricks of spelling too."""
    assert set(findings(reviewer, name)) & {"name", "toxicity", "link"}
