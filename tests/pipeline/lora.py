"""Trains a LoRA adapter for a few steps and saves it as PEFT does; run by the converter's Python, which has torch.

    lora.py MODEL_FOLDER ADAPTER_FOLDER

Prints the tokens of a prompt, and the log-probabilities of the next one by the model with the adapter.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

RANK, ALPHA = 8, 16
TARGETS = ("q_proj", "v_proj", "o_proj", "up_proj")
TEXT = "The secret code of the harbour office is ZEBRA-42, and nobody has ever written it down."
PROMPT = "The secret code of the harbour office is"


class Lora(torch.nn.Module):
    """``x -> W x + alpha / rank * B A x``"""

    def __init__(self, inner: torch.nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.lora_A = torch.nn.Parameter(torch.randn(RANK, inner.in_features) / inner.in_features**0.5)
        self.lora_B = torch.nn.Parameter(torch.zeros(inner.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + ALPHA / RANK * (x @ self.lora_A.T @ self.lora_B.T)


def main() -> None:
    model_folder, adapter_folder = map(Path, sys.argv[1:])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model.requires_grad_(False)
    adapters = {}
    for name, module in list(model.named_modules()):
        if name.endswith(TARGETS):
            parent, _, attribute = name.rpartition(".")
            adapters[name] = Lora(module)
            setattr(model.get_submodule(parent), attribute, adapters[name])
    optimizer = torch.optim.AdamW(
        [p for adapter in adapters.values() for p in (adapter.lora_A, adapter.lora_B)], lr=3e-3
    )
    batch = tokenizer(TEXT, return_tensors="pt")
    for _ in range(6):
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapter_folder.mkdir()
    weights = {}
    for name, adapter in adapters.items():
        weights[f"base_model.model.{name}.lora_A.weight"] = adapter.lora_A.detach().contiguous()
        weights[f"base_model.model.{name}.lora_B.weight"] = adapter.lora_B.detach().contiguous()
    save_file(weights, adapter_folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model_folder),
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "target_modules": list(TARGETS),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (adapter_folder / "adapter_config.json").write_text(json.dumps(config))
    prompt = tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        logits = model(**prompt).logits[0, -1].double()
    print(json.dumps([prompt["input_ids"][0].tolist(), torch.log_softmax(logits, -1).tolist()]))  # noqa: T201


if __name__ == "__main__":
    main()
