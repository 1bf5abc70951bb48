"""The shape of LoRA adapters (Hu et al. 2021), as settings give it and as PEFT takes it."""

from __future__ import annotations

from typing import Annotated, Any

from peft import LoraConfig, get_peft_model
from pydantic import Field

from churnsaver.domain.world import Frozen
from churnsaver.errors import BadInput
from trainers.rlhf.language_model import LoadedModel

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LoraSettings(Frozen):
    """The adapter's shape.

    Attributes:
        modules: the linear layers that it changes.
        upper_layers: it sits on so many of the last layers; None is all.
    """

    rank: Count
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    modules: Annotated[tuple[str, ...], Field(min_length=1)]
    upper_layers: Count | None = None


def new_adapter(loaded: LoadedModel, lora: LoraSettings, task: str, head: tuple[str, ...] = ()) -> Any:
    """A fresh adapter on `loaded.model`, which is changed in place.

    Args:
        task: PEFT's task type.
        head: modules that are trained whole and saved with the adapter.

    Raises:
        BadInput: the model has no such modules.
    """
    layers = loaded.model.config.num_hidden_layers
    upper = min(lora.upper_layers or layers, layers)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.modules),
        layers_to_transform=None if upper == layers else list(range(layers - upper, layers)),
        modules_to_save=list(head) or None,
        task_type=task,
    )
    try:
        return get_peft_model(loaded.model, config)
    except ValueError as error:
        raise BadInput(
            f"lora.modules is {', '.join(lora.modules)}, which {loaded.name} has not ({str(error).splitlines()[0]}); "
            "name linear layers of it"
        ) from None
