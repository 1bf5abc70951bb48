"""The policy that PPO trains: one base model in memory, two adapters that it wears in turn, and a value head.

The adapter `default` is the policy, `reference` a frozen copy of what it began as. Log-probabilities are computed here
alone, for rollout and update alike: those of another engine differ, and a ratio must compare the same two policies.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

POLICY, REFERENCE = "default", "reference"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Prompts, padded on the left, and drafts, padded on the right, so that every draft begins in one column.

    Attributes:
        prompts, prompt_mask: (n, p) token ids, and whether they are some.
        drafts, draft_mask: (n, d) likewise; a draft's last token is the end of the turn, where it came to one.
        below: (n, p + d, h) states below the first layer that training changes, which all passes over these tokens
            have in common; None is not known yet.
    """

    prompts: Tensor
    prompt_mask: Tensor
    drafts: Tensor
    draft_mask: Tensor
    below: Tensor | None = None

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]], pad_id: int, device: Any) -> Self:
        width, length = max(map(len, prompts)), max(map(len, drafts))
        left = [[pad_id] * (width - len(row)) + list(row) for row in prompts]
        right = [list(row) + [pad_id] * (length - len(row)) for row in drafts]
        begins = torch.tensor([width - len(row) for row in prompts], device=device)
        ends = torch.tensor([len(row) for row in drafts], device=device)
        return cls(
            prompts=torch.tensor(left, device=device, dtype=torch.long),
            prompt_mask=torch.arange(width, device=device) >= begins[:, None],
            drafts=torch.tensor(right, device=device, dtype=torch.long),
            draft_mask=torch.arange(length, device=device) < ends[:, None],
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Tensor) -> Tokens:
        """Some rows, without the columns that only others need."""
        prompt_mask, draft_mask = self.prompt_mask[rows], self.draft_mask[rows]
        width, length = int(prompt_mask.sum(1).max()), int(draft_mask.sum(1).max())
        left = self.prompts.shape[1] - width
        return Tokens(
            self.prompts[rows, left:],
            prompt_mask[:, left:],
            self.drafts[rows, :length],
            draft_mask[:, :length],
            None if self.below is None else self.below[rows, left : left + width + length],
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """What a policy says of drafts, (n, d) each; what stands at padding means nothing.

    Attributes:
        log_probs: of the tokens that were written.
        entropy: in nats, of what could have been written in their place; nothing is learned from it.
        values: expected return from before the token on.
    """

    log_probs: Tensor
    entropy: Tensor
    values: Tensor


class TextPolicy(nn.Module):
    """Policy, reference and value head over one base.

    Args:
        model: the base with the adapter to begin with, trainable; one that `comes_apart`.
        pad_id, end_id: tokens to pad with and to end a draft with; two different ones.
    """

    def __init__(self, model: PeftModel, pad_id: int, end_id: int) -> None:
        super().__init__()
        if pad_id == end_id:
            raise ValueError("a policy that pads with its end of text would be told that every text goes on")
        self.model, self.pad_id, self.end_id = model, pad_id, end_id
        model.add_adapter(REFERENCE, copy.copy(model.peft_config[POLICY]))
        set_peft_model_state_dict(model, get_peft_model_state_dict(model, adapter_name=POLICY), REFERENCE)
        model.set_adapter(POLICY)
        base = model.get_base_model()
        self.trunk, self.head = base.get_decoder(), base.get_output_embeddings()
        self._lower, self._upper = _parts(model)
        # Zero at first: no value is better than a random one (TRL does likewise).
        self.value_head = nn.Linear(base.config.hidden_size, 1, device=self.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.eval()  # no dropout, or the ratio is not 1 before the first update (Huang et al. 2024)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.head.weight.device
        return device

    @torch.no_grad()
    def below(self, tokens: Tokens) -> Tensor:
        """(n, p + d, h): states below the first layer that has an adapter; the same for policy and reference."""
        ids = torch.cat([tokens.prompts, tokens.drafts], dim=1)
        return self._states(self._lower, tokens, input_ids=ids)

    def forward(self, tokens: Tokens) -> Scores:
        """The adapter's scores; (n, d) each."""
        below = self.below(tokens) if tokens.below is None else tokens.below
        hidden = self._states(self._upper, tokens, inputs_embeds=below)
        # The state before a token foretells it; the vocabulary is a fifth of the work, and prompts need none of it.
        before = hidden[:, tokens.prompts.shape[1] - 1 : -1]
        logits = self.head(before).float()
        normaliser = logits.logsumexp(dim=-1)
        log_probs = logits.gather(2, tokens.drafts[:, :, None]).squeeze(2) - normaliser
        with torch.no_grad():
            entropy = normaliser - ((logits - normaliser[..., None]).exp() * logits).sum(dim=-1)
        return Scores(log_probs, entropy, self.value_head(before.float()).squeeze(2))

    def _states(self, part: nn.Module, tokens: Tokens, **inputs: Tensor) -> Tensor:
        mask = torch.cat([tokens.prompt_mask, tokens.draft_mask], dim=1)
        # Positions are of tokens in their texts, whatever stands left of them.
        out = part(**inputs, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False)
        states: Tensor = out.last_hidden_state
        return states

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """Within it, the model wears the reference's adapter."""
        self.model.base_model.set_adapter(REFERENCE, inference_mode=True)
        try:
            yield
        finally:
            self.model.base_model.set_adapter(POLICY)

    def trainable(self) -> list[nn.Parameter]:
        """The policy's adapter and the value head."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def adapter(self) -> dict[str, Tensor]:
        """A copy of the policy's adapter weights, as PEFT names them."""
        state = get_peft_model_state_dict(self.model, adapter_name=POLICY)
        return {name: tensor.detach().clone().contiguous() for name, tensor in sorted(state.items())}

    def put_adapter(self, weights: dict[str, Tensor]) -> None:
        set_peft_model_state_dict(self.model, weights, POLICY)


def part_of(trunk: nn.Module, first: int, last: int) -> Any:
    """Layers `first` to `last` of a decoder as one of their own, which shares its weights; states are normed at its end
    only where the decoder ends.

    The lower part takes token ids, and the upper one what the lower gave, as `inputs_embeds`.
    """
    part: Any = copy.copy(trunk)
    layers = cast("nn.ModuleList", trunk.layers)
    part._modules = dict(trunk._modules)
    part.layers = nn.ModuleList(layers[first:last])
    if last < len(layers):
        part.norm = nn.Identity()
    return part


@torch.no_grad()
def comes_apart(model: PeftModel) -> bool:
    """Whether the layers below the adapter and those from it on say, one after the other, what the model does.

    Not every architecture's do: some name them otherwise, or change what comes in as `inputs_embeds` before the first.
    """
    trunk = model.get_base_model().get_decoder()
    if not hasattr(trunk, "layers"):
        return False
    ids = torch.arange(32, device=model.device)[None]
    whole = trunk(input_ids=ids, use_cache=False).last_hidden_state
    lower, upper = _parts(model)
    below = lower(input_ids=ids, use_cache=False).last_hidden_state
    found = upper(inputs_embeds=below, use_cache=False).last_hidden_state
    return torch.allclose(found, whole, rtol=0.0, atol=1e-3 * float(whole.abs().max()))


def _parts(model: PeftModel) -> tuple[Any, Any]:
    """The decoder's layers below the policy's adapter, which no training changes, and those from it on."""
    trunk = model.get_base_model().get_decoder()
    first = min(model.peft_config[POLICY].layers_to_transform or [0])
    return part_of(trunk, 0, first), part_of(trunk, first, len(trunk.layers))


def positions(mask: Tensor) -> Tensor:
    """(n, t) places of tokens in their texts: padding on the left counts for nothing."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


@torch.no_grad()
def sample(
    policy: TextPolicy, prompts: Sequence[Sequence[int]], limits: Sequence[int], generator: torch.Generator
) -> list[list[int]]:
    """One draft for each prompt at temperature 1, with its end of turn where it comes to one in `limits` tokens.

    Rows that have ended are dropped from the batch, which is what makes it faster than transformers' `generate`: that
    carries all rows to the end of the longest.
    """
    drafts: list[list[int]] = [[] for _ in prompts]
    tokens = Tokens.of(prompts, [[]] * len(prompts), policy.pad_id, policy.device)
    mask, next_input, cache = tokens.prompt_mask, tokens.prompts, None
    position = positions(mask)
    rows = list(range(len(prompts)))  # which are still being written
    while rows:
        out = policy.trunk(
            input_ids=next_input,
            attention_mask=mask.long(),
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        probabilities = policy.head(out.last_hidden_state[:, -1]).float().softmax(dim=-1)
        drawn = torch.multinomial(probabilities, 1, generator=generator)
        for row, token in zip(rows, drawn[:, 0].tolist(), strict=True):
            drafts[row].append(token)
        going = [i for i, row in enumerate(rows) if drafts[row][-1] != policy.end_id and len(drafts[row]) < limits[row]]
        if len(going) < len(rows):
            kept = torch.tensor(going, device=policy.device, dtype=torch.long)
            rows = [rows[i] for i in going]
            mask, drawn, position = mask[kept], drawn[kept], position[kept]
            cache.batch_select_indices(kept)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        next_input, position = drawn, position[:, -1:] + 1
    return drafts
