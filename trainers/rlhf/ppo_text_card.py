"""The model card of a writer that PPO tuned, as a template."""

CARD = """# Adapter of the language model, tuned by reinforcement learning

A LoRA adapter for `{base}` (sha256 `{sha256}`) that writes the whole slotted draft of a message from a brief without
personal data (law 3). It went on from the fine-tuned adapter `{sft}` by PPO with the reward model `{reward}`, on
{briefs} briefs, {iterations:.0f} iterations of {drafts} drafts, seed {seed}: `{command}`.

What it was paid: the ensemble's mean less its standard deviation, a floor for what the shield's rules stop, less words
outside its channel's band, less the price of each nat of divergence from the fine-tuned adapter. An ensemble of
encoders that learned from made-up preferences and public ones is no person: what it cannot tell apart, this adapter
does not know either. {stopped_said} The judge had that veto on validation briefs and chose nothing else.

The judge learned from other data than the reward model (texts of validation scenarios there, of training scenarios
here, of which few are the same), with other features (a dozen figures that a person can count there, a learned encoder
here), and from other faults (shuffled, cut off, garbled, repeated, words dropped, another register, slogans, a text for
another reader there; another offer, vague, pushy, not compliant, padded here). It is no stranger: validation scenarios
also fitted the reward's centre and temperature, which changes no order; repeating is near to padding, and slots and the
purpose of an offer, which it counts, are what some faults here are made of. Both know good writing from one grammar, in
English, and neither is a person. It scores each text alone, so that no order in which two are shown can sway it.

| on held-out briefs | fine-tuned | PPO |
| --- | --- | --- |
| reward | {held_out_reward_before:.3f} | {held_out_reward:.3f} |
| independent judge's score | {held_out_judge_before:.3f} | {held_out_judge:.3f} |

Divergence {kl:.2f} nats a text (target {target:g}), {tokens:.0f} tokens a draft, {passed:.1%} of the drafts in training
passed the shield's rules; {hours:.2f} hours, {peak_memory_gb:.1f} GB. Demands at the end of training: {missed}.

Win rates, required elements and an audit of messages: `churn-saver eval text`.
"""
