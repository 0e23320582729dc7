#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.13.0): by default packed documents see each other, whatever position_ids say.
#
# Position ids that start again within a row tell a causal model where documents end, and create_causal_mask keeps them apart by
# these. It looks only where there is no cache of keys and values; use_cache, which is True unless somebody says otherwise, makes one
# in every forward pass, in training as well. Nothing is said: loss and shapes are as usual, and each document is read after the one
# that happens to stand before it. use_cache=False keeps them apart to the last bit.
#
# Seen, two documents in a row, the first one replaced; largest change of the second one's logits, as the model is called by default
# and with use_cache=False: llama 0.0867, 0; gpt2 0.0368, 0; qwen3 0.0980, 0; gpt_neox 0.0632, 0; in training mode the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
KINDS = {
    "llama": SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0},
    "qwen3": {**SIZES, "num_key_value_heads": 2, "head_dim": 16},
    "gpt_neox": {**SIZES, "max_position_embeddings": 32},
}
POSITIONS = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])


@torch.no_grad()
def change(model, **options):
    """Of the second document's logits, where the first is another."""
    draw = torch.Generator().manual_seed(0)
    first, other, second = (torch.randint(3, 50, (1, n), generator=draw) for n in (4, 4, 5))
    said = [
        model(input_ids=torch.cat([each, second], 1), position_ids=POSITIONS, **options).logits[:, 4:]
        for each in (first, other)
    ]
    return float((said[0] - said[1]).abs().max())


for kind, sizes in KINDS.items():
    torch.manual_seed(0)
    special = {"bos_token_id": 1, "eos_token_id": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=50, **sizes, **special))
    for training in (False, True):
        model.train(training)
        usual, uncached = change(model), change(model, use_cache=False)
        print(f"{kind}, training {training}: {usual:.4f} by default, {uncached:.4f} without cache")
        assert usual > 1e-3
        assert uncached == 0
PYTHON
