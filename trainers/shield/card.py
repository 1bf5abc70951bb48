"""The model card of the shield's classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainers.shield.corpus import Example, Part


def shield_card(
    parts: Mapping[Part, Sequence[Example]], hashes: Mapping[str, str], metrics: Mapping[str, float], seed: int
) -> str:
    """The card in Markdown."""
    data = "\n".join(f"- `{name}`, sha256 `{digest}`" for name, digest in hashes.items())
    options = " ".join(f"--data {name}" for name in hashes)
    rows = ", ".join(f"{len(examples)} {part}" for part, examples in parts.items())
    figures = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items())
    return f"""# Toxicity classifier of the shield

Scores how hateful, threatening, insulting or profane an English text is; the shield blocks a message that scores \
0.5 or more. It reads messages that this system writes and is not meant to judge people or what they say.

## Training

    churn-saver train shield {options} --seed {seed} --out DIR

{data}

and sentences written for this project (`trainers/shield/templates.py`). The checkpoint holds weights and no row of \
these sets. Licences at the sources: Davidson et al. 2017 tweets MIT; Jigsaw comments sample Apache-2.0; Banking77 \
CC BY 4.0; SMS Spam Collection CC BY 4.0 (ham only); Stanford Politeness states none. Rows: {rows}, split by the \
hash of the text, so repeats never straddle parts; whole sentences of the templates are held out.

Logistic regression on hashed character and word n-grams; Platt's scale from the validation rows; the offset puts \
the operating point, at which few benign customer texts are flagged, at 0.5. So a score is no probability that holds \
in service, where toxic texts are rare.

## Measured on the test rows

| metric | value |
| --- | --- |
{figures}

## Limits

English only. It knows words better than meaning: irony, quotation and new slang escape it, so the shield's lexicon \
and rules stand beside it. Tweets labelled offensive hold much dialect; a text in dialect may score too high.
"""
