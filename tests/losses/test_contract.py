"""What every loss promises, tested on every loss."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import preceptor.losses
from losses.oracles import FEW, LOSSES, ORACLES, PER_EXAMPLE, batches, random_batch, value_and_grad
from preceptor.losses import kd

every_loss = pytest.mark.parametrize("name", LOSSES)
per_example = pytest.mark.parametrize("name", PER_EXAMPLE)
HALF_AND_SINGLE = [torch.float16, torch.bfloat16, torch.float32]


def test_this_file_tests_every_public_loss():
    """But those that are modules, such as CTKD."""
    public = {name: getattr(preceptor.losses, name) for name in preceptor.losses.__all__}
    assert sorted(LOSSES) == sorted(name for name, loss in public.items() if not isinstance(loss, type))


# --- values and gradients -------------------------------------------------------------------------


@every_loss
def test_value_against_the_oracle_in_single_precision(name):
    student, teacher, labels = random_batch(16, 10, dtype=torch.float32)
    expected = ORACLES[name](student.double().numpy(), teacher.double().numpy(), labels.numpy())
    actual = LOSSES[name](student, teacher, labels)
    torch.testing.assert_close(actual.double(), torch.as_tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "wsld"])  # whose weight lets no gradient through
def test_gradcheck(name):
    student, teacher, labels = random_batch(4, 5)
    if name != "reverse_kl":  # infinite there
        teacher[0, 0] = -torch.inf
    mask = torch.tensor([True, True, False, True])
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, teacher, labels, mask), student)


@every_loss
def test_teacher_equal_to_student(name):
    student, _, labels = random_batch(5, 6)
    value, grad = value_and_grad(LOSSES[name], student, student, labels)
    # These move the teacher before the student meets it, or keep the teacher's entropy.
    if name in ("ttm", "wttm", "ptloss", "nkd", "wsld", "mft"):
        expected = ORACLES[name](student.numpy(), student.numpy(), labels.numpy())
        torch.testing.assert_close(value, torch.as_tensor(expected))
        assert (value > 0).all()
    else:
        torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-9)
        torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-9)


# --- invariances ----------------------------------------------------------------------------------


@every_loss
@FEW
@given(batch=batches(), shift=st.integers(-100, 100))
def test_shift_of_either_logits_changes_nothing(name, batch, shift):
    student, teacher, labels = batch
    expected = LOSSES[name](student, teacher, labels)
    actual = LOSSES[name](student + shift, teacher - 2 * shift, labels)
    # Rounding in the shifted probabilities is amplified by correlations of nearly constant columns.
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@every_loss
def test_logits_and_log_probabilities_are_the_same_teacher(name):
    student, teacher, labels = random_batch(5, 6)
    expected = LOSSES[name](student, teacher, labels)
    torch.testing.assert_close(LOSSES[name](student, teacher.log_softmax(-1), labels), expected)


@every_loss
@FEW
@given(batch=batches(), seed=st.integers(0, 1000))
def test_order_of_classes_does_not_matter(name, batch, seed):
    student, teacher, labels = batch
    order = torch.randperm(student.shape[-1], generator=torch.Generator().manual_seed(seed))
    expected = LOSSES[name](student, teacher, labels)
    actual = LOSSES[name](student[:, order], teacher[:, order], order.argsort()[labels])
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@per_example
@FEW
@given(data=st.data())
def test_mask_is_removal_even_of_nan(name, data):
    student, teacher, labels = data.draw(batches())
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels))))
    dirt = data.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf, 1e30]))
    expected, expected_grad = value_and_grad(LOSSES[name], student[mask], teacher[mask], labels[mask])
    student, teacher = student.where(mask[:, None], dirt), teacher.where(mask[:, None], dirt)
    value, grad = value_and_grad(LOSSES[name], student, teacher, labels, mask=mask)
    torch.testing.assert_close(value[mask], expected)
    torch.testing.assert_close(grad[mask], expected_grad)
    assert (value[~mask] == 0).all()
    assert (grad[~mask] == 0).all()


@every_loss
def test_all_masked_gives_zero_and_no_gradient(name):
    _, teacher, labels = random_batch(3, 4)
    student = torch.full((3, 4), torch.nan, dtype=torch.float64)
    value, grad = value_and_grad(LOSSES[name], student, teacher, labels, mask=torch.zeros(3, dtype=torch.bool))
    assert (value == 0).all()
    assert (grad == 0).all()


@per_example
def test_any_leading_shape(name):
    student, teacher, labels = random_batch(6, 5)
    mask = torch.tensor([True, False, True, True, True, False])
    expected = LOSSES[name](student, teacher, labels, mask)
    for shape in [(2, 3), (6, 1), (1, 2, 3)]:
        parts = student.view(*shape, 5), teacher.view(*shape, 5), labels.view(shape), mask.view(shape)
        torch.testing.assert_close(LOSSES[name](*parts), expected.view(shape))
    single = LOSSES[name](student[0], teacher[0], labels[0])
    torch.testing.assert_close(single, expected[0])
    assert LOSSES[name](student[:0], teacher[:0], labels[:0]).shape == (0,)


# --- extremes -------------------------------------------------------------------------------------


@every_loss
@FEW
@given(data=st.data())
def test_huge_logits_stay_finite(name, data):
    rows, classes = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 5))
    huge = st.sampled_from([-1e4, 0.0, 1.0, 1e4])
    flat = data.draw(st.lists(huge, min_size=2 * rows * classes, max_size=2 * rows * classes))
    for dtype in HALF_AND_SINGLE:
        student, teacher = torch.tensor(flat, dtype=dtype).view(2, rows, classes)
        value, grad = value_and_grad(LOSSES[name], student, teacher, torch.arange(rows) % classes)
        assert value.isfinite().all(), dtype
        assert grad.isfinite().all(), dtype


@every_loss
@pytest.mark.parametrize("dtype", [*HALF_AND_SINGLE, torch.float64])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_one_hot_teacher(name, dtype, classes, scale):
    student, _, labels = random_batch(6, classes)
    student = (scale * student.tanh()).to(dtype)
    for hot in (labels, (labels + 1) % classes):
        teacher = torch.full_like(student, -torch.inf).scatter(1, hot[:, None], 0.0)
        value, grad = value_and_grad(LOSSES[name], student, teacher, labels)
        if name == "reverse_kl":  # infinite, and without gradient, unless the student is as sure
            assert (value.isposinf() | (value == 0)).all()
            assert (grad == 0).all()
        assert value.isfinite().all() or name == "reverse_kl"
        assert grad.isfinite().all()


@pytest.mark.parametrize("name", ["kd", "ttm", "wttm"])
def test_one_hot_teacher_gives_cross_entropy(name):
    student, _, labels = random_batch(6, 5)
    teacher = torch.full_like(student, -torch.inf).scatter(1, labels[:, None], 0.0)
    softened = student / 3.0 if name == "kd" else student
    expected = torch.nn.functional.cross_entropy(softened, labels, reduction="none")
    expected = 9.0 * expected if name == "kd" else expected
    torch.testing.assert_close(LOSSES[name](student, teacher, labels), expected)


# --- dtypes and the teacher's gradient ------------------------------------------------------------


@every_loss
@pytest.mark.parametrize(
    ("student_dtype", "teacher_dtype", "expected"),
    [
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float64, torch.float64, torch.float64),
        (torch.float16, torch.float64, torch.float64),
    ],
)
def test_at_least_single_precision_and_double_stays(name, student_dtype, teacher_dtype, expected):
    student, teacher, labels = random_batch(4, 5)
    student, teacher = student.to(student_dtype), teacher.to(teacher_dtype)
    value, grad = value_and_grad(LOSSES[name], student, teacher, labels)
    assert value.dtype == expected
    assert grad.dtype == student_dtype
    reference = LOSSES[name](student.double(), teacher.double(), labels)
    torch.testing.assert_close(value.double(), reference, rtol=1e-4, atol=1e-5)


@every_loss
def test_no_gradient_to_the_teacher(name):
    student, teacher, labels = random_batch(4, 5)
    student.requires_grad_()
    teacher.requires_grad_()
    loss = LOSSES[name](student, teacher, labels).sum()
    student_grad, teacher_grad = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    assert student_grad.abs().max() > 0
    assert teacher_grad is None
    grad = torch.func.grad(lambda t: LOSSES[name](student.detach(), t, labels).sum())(teacher.detach())
    assert (grad == 0).all()


# --- function transforms --------------------------------------------------------------------------


@every_loss
def test_func_grad_is_autograd(name):
    student, teacher, labels = random_batch(4, 5)
    mask = torch.tensor([True, False, True, True])
    _, expected = value_and_grad(LOSSES[name], student, teacher, labels, mask)
    actual = torch.func.grad(lambda s: LOSSES[name](s, teacher, labels, mask).sum())(student)
    torch.testing.assert_close(actual, expected)


@every_loss
def test_vmap_over_a_stack_is_a_loop(name):
    student, teacher, labels = random_batch(3, 4, 5)
    mask = torch.tensor([[True, True, False, True]] * 2 + [[False] * 4])

    def gradient(*args):
        return torch.func.grad(lambda s, *rest: LOSSES[name](s, *rest).sum())(*args)

    for function in (LOSSES[name], gradient):
        looped = torch.stack([function(*args) for args in zip(student, teacher, labels, mask, strict=True)])
        torch.testing.assert_close(torch.func.vmap(function)(student, teacher, labels, mask), looped)


@pytest.mark.filterwarnings("ignore")  # The compiler's own warnings are not ours to fix.
def test_compiles_to_one_graph():
    student, teacher, labels = random_batch(4, 5, dtype=torch.float32)
    mask = torch.tensor([True, False, True, True])

    def total(student, teacher, labels, mask):
        return sum(loss(student, teacher, labels, mask).sum() for loss in LOSSES.values())

    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)
    value, grad = value_and_grad(compiled, student, teacher, labels, mask)
    expected, expected_grad = value_and_grad(total, student, teacher, labels, mask)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, expected_grad)

    softened = torch.compile(kd, backend="aot_eager", fullgraph=True)
    for temperature in (1.0, 2.5, 4.0):
        expected = kd(student, teacher, temperature=temperature)
        torch.testing.assert_close(softened(student, teacher, temperature=temperature), expected)
    torch.compiler.reset()


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("ptloss", "mlkd", "CTKD")])
@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan"), float("inf")])
def test_temperature_must_be_positive_and_finite(name, temperature):
    student, teacher, labels = random_batch(2, 3)
    args = (student, teacher, labels) if name in ("dkd", "nkd", "wsld", "mft") else (student, teacher)
    with pytest.raises(ValueError, match=f"^temperature is {temperature}; give a positive finite number"):
        getattr(preceptor.losses, name)(*args, temperature=temperature)


@every_loss
@pytest.mark.parametrize(
    ("student", "teacher", "mask", "message"),
    [
        (
            torch.ones(2, 3),
            torch.ones(2, 4),
            None,
            r"student_logits have shape \(2, 3\) but teacher_logits \(2, 4\)",
        ),
        (
            torch.ones(2, 3),
            torch.ones(3),
            None,
            r"student_logits have shape \(2, 3\) but teacher_logits \(3,\)",
        ),
        (torch.ones(2, 1), torch.ones(2, 1), None, r"shape \(2, 1\); .* at least 2 classes"),
        (torch.tensor(1.0), torch.tensor(1.0), None, r"shape \(\); .* at least 2 classes"),
        (
            torch.ones(2, 3).long(),
            torch.ones(2, 3),
            None,
            "student_logits are torch.int64; give floating-point",
        ),
        (
            torch.ones(2, 3),
            torch.ones(2, 3).bool(),
            None,
            "teacher_logits are torch.bool; give floating-point",
        ),
        (torch.ones(2, 3), torch.ones(2, 3), torch.ones(2), "mask is torch.float32; give a boolean one"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.ones(3).bool(), r"mask has shape \(3,\); .* \(2,\)"),
    ],
)
def test_bad_tensors_get_one_clear_sentence(name, student, teacher, mask, message):
    labels = torch.zeros(student.shape[:-1], dtype=torch.long)
    with pytest.raises(ValueError, match=message) as caught:
        LOSSES[name](student, teacher, labels, mask)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


# --- the package ----------------------------------------------------------------------------------


@every_loss
def test_docstring_says_what_a_reader_must_know(name):
    doc = getattr(preceptor.losses, name).__doc__
    summary = doc.split("\n")[0]
    symmetric = ("dist", "ptloss", "jsd", "tvd")
    assert ("student to teacher" if name == "reverse_kl" else "teacher to student") in summary or name in symmetric
    assert "one value per example" in summary or "one scalar" in summary
    assert "arXiv" in doc or "CVPR" in doc
    for section in ("Args:", "Returns:", "Raises:", "Example:", "mask:"):
        assert section in doc


def test_importing_the_losses_loads_torch_and_nothing_heavy():
    code = (
        "import json, sys, torch; torch_loads = list(sys.modules); import preceptor.losses; "
        "print(json.dumps([torch_loads, list(sys.modules)]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    torch_loads, all_modules = (set(modules) for modules in json.loads(run.stdout))
    known = {module.split(".")[0] for module in torch_loads} | set(sys.stdlib_module_names)
    extra = {module.split(".")[0] for module in all_modules} - known
    assert extra <= {"preceptor", "jaxtyping", "wadler_lindig"}
    ours = {module for module in all_modules if module.split(".")[0] == "preceptor"}
    assert all(module == "preceptor" or module.startswith("preceptor.losses") for module in ours)


def test_nothing_warns():
    student, teacher, labels = random_batch(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loss in LOSSES.values():
            value_and_grad(loss, student, teacher, labels)
