"""The local stack's vLLM server: the base model, in an environment of its own that `make engine` installs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from churnsaver.errors import BadInput
from churnsaver.models.adapters import BASE, Base
from churnsaver.settings import ServeSettings

ENGINE = Path(".engine")
MAX_LORA_RANK = 16  # twice what sft.yaml trains
# An adapter may change these. Were the output layer among them, which vLLM adds where nobody names any, version 0.32
# would end on log-probabilities of a prompt beside other texts (it counts its rows wrongly).
LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAX_TOKENS = 1024  # of a prompt and a draft together, which are a quarter of that
# Of the weights of each output channel, as vLLM quantises while it loads; an adapter stays as it is.
FP8 = "fp8_per_channel"
BLOCK_TOKENS = 32  # the fewest that attention on a CPU has
# On a CPU it gives way to the services, as the embedded engine does.
NICENESS = 10


def vllm_command(settings: ServeSettings) -> list[str]:
    """Starts a server of the base that serve.yaml names; it is fetched where it is not there yet.

    Raises:
        BadInput: `make engine` was not run, the base cannot be had, or it is to be quantised as this machine cannot.
    """
    python = ENGINE / "bin" / "python"
    if not python.exists():
        raise BadInput(f"{ENGINE}: vLLM is not installed here; run `make engine`, or `up --engine embedded`")
    fp8 = settings.generator.vllm.quantization == "fp8"
    if fp8 and _on_cpu():
        raise BadInput("generator.vllm.quantization is fp8, which vLLM has on GPUs only, and there is none; set none")
    folder, base = _base(settings)
    url = settings.generator.vllm.url
    options = {
        "--model": str(folder.resolve()),
        "--served-model-name": base.served_name,  # by which the generator knows whose adapters fit
        "--host": str(url.host),
        "--port": str(url.port),
        "--max-model-len": str(MAX_TOKENS),
        "--max-loras": "2",  # the one that serves, and the one that is tried
        "--max-lora-rank": str(MAX_LORA_RANK),
    }
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--enable-lora"]
    command += [word for option in options.items() for word in option]
    command += ["--lora-target-modules", *LORA_MODULES]
    if fp8:
        command += ["--quantization", FP8]
    if _on_cpu():
        # bfloat16 is slower where the processor has no units for it. Version 0.32 ends on a request with a seed whose
        # prompt it reads in parts, as it does where many come at once: a CPU's generator of numbers has no offset.
        command += ["--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill"]
        # What prompts begin with alike is kept in whole blocks. A CPU's 128 tokens are more than a prompt of ours has,
        # so each of a request's texts would read it anew; a GPU's 16 are few enough.
        command += ["--block-size", str(BLOCK_TOKENS)]
        return ["nice", "-n", str(NICENESS), *command]
    return command


def vllm_environment(settings: ServeSettings) -> Mapping[str, str]:
    """What the server is started with: adapters come from the folder that the generator writes them to."""
    adapters = settings.generator.vllm.adapters
    adapters.mkdir(parents=True, exist_ok=True)  # it does not start without
    found = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(adapters.resolve()),
    }
    if _on_cpu():
        found |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB: some hundred drafts at once
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the services want the same cores
            # One core is the services'. Threads that wait for one without a core are slower than fewer: on two cores,
            # beside a process that is busy, one thread writes 16 texts at once at 39 tokens/s and two at 26.
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) - 1)),
            # Else the first request waits for a C++ compiler, which not everybody has.
            "TORCHDYNAMO_DISABLE": "1",
        }
    return found


def _on_cpu() -> bool:
    """Whether `make engine` installed vLLM's build for processors."""
    return any(ENGINE.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))


def _base(settings: ServeSettings) -> tuple[Path, Base]:
    folder = settings.models / f"{settings.generator.model}-float32"
    try:
        said = Base.model_validate_json((folder / BASE).read_bytes(), extra="ignore")
    except (OSError, ValidationError):
        # It is not there yet, or a folder of a person's own.
        from trainers.rlhf.language_model import identify, prepare_base

        folder = prepare_base(settings)
        return folder, identify(folder)
    return folder, said
