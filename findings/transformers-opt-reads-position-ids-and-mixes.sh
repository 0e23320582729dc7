#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.13.0): OPT, BioGPT and XGLM take position_ids and let packed documents see each other all the same.
#
# That a model's forward names position_ids does not say that it keeps documents apart by them, though most do (with
# use_cache=False): these three use them for the embedding of places alone, and their causal mask is of the whole row. BLOOM, MPT
# and Mamba take none. So a packed row has to be tried on a model, by another first document in front of the same second one.
#
# Seen, largest change of the second document's logits, use_cache=False: opt 0.0627, biogpt 0.0195, xglm 0.0008; gptj, falcon 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import inspect

import torch
from transformers import AutoConfig, AutoModelForCausalLM

ONE = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32}
MIX = {
    "opt": {**ONE, "ffn_dim": 32, "word_embed_proj_dim": 32, "max_position_embeddings": 32},
    "biogpt": {**ONE, "intermediate_size": 32, "max_position_embeddings": 32},
    "xglm": {"d_model": 32, "ffn_dim": 32, "num_layers": 1, "attention_heads": 2, "max_position_embeddings": 32},
}
KEEP = {
    "gptj": {"n_embd": 32, "n_layer": 1, "n_head": 2, "rotary_dim": 8, "n_positions": 32},
    "falcon": {**ONE, "alibi": False},
}
POSITIONS = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])


@torch.no_grad()
def change(kind, sizes):
    """Of the second document's logits, where the first is another."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=50, **sizes)).eval()
    assert "position_ids" in inspect.signature(model.forward).parameters
    first, other, second = (torch.randint(3, 50, (1, n)) for n in (4, 4, 5))
    said = [
        model(input_ids=torch.cat([each, second], 1), position_ids=POSITIONS, use_cache=False).logits[:, 4:]
        for each in (first, other)
    ]
    return float((said[0] - said[1]).abs().max())


for kind, sizes in {**MIX, **KEEP}.items():
    found = change(kind, sizes)
    print(f"{kind}: {found:.4f}")
    assert (found > 1e-4) == (kind in MIX), kind
PYTHON
