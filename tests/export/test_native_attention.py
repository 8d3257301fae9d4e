"""The operators of files of the dialect native: compiled ones, and those in Python."""

import subprocess
import sys

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from lite_focus_detr import ops
from lite_focus_detr.export import native_attention, python_operators
from lite_focus_detr.export.attention_functions import (
    INPUTS,
    Call,
    make_function,
    sample_with_gather,
)
from lite_focus_detr.export.native_attention import DOMAIN, call_kernels
from lite_focus_detr.ops import reference

SHAPES = ((4, 5), (2, 3))
TOKENS, HEADS, CHANNELS, POINTS, BATCH = 26, 2, 16, 4, 2
KEY_AWARE = "KeyAwareDeformableAttention"

compiled = pytest.mark.skipif(
    native_attention.library_reason() is not None, reason=str(native_attention.library_reason())
)
in_python = pytest.mark.skipif(
    ops.backend("cpu") == "reference", reason=f"{ops.unavailable_reason('cpu')}"
)


def register_library(options):
    options.register_custom_ops_library(str(native_attention.LIBRARY))


WAYS = [
    pytest.param(register_library, marks=compiled, id="compiled"),
    pytest.param(python_operators.register_python_operators, marks=in_python, id="in_python"),
]


def make_inputs(operator, queries, *, reference_size=2, offset_levels=2):
    """Random inputs in the order of the operator, by name."""
    random = np.random.default_rng(queries)
    shapes = {
        "value": (BATCH, TOKENS, HEADS, CHANNELS),
        "key": (BATCH, TOKENS, HEADS, CHANNELS),
        "query": (BATCH, queries, HEADS, CHANNELS),
        "reference_points": (BATCH, queries, len(SHAPES), reference_size),
        "sampling_offsets": (BATCH, queries, HEADS, offset_levels, POINTS, 2),
        "attention_logits": (BATCH, queries, HEADS, len(SHAPES) * POINTS),
    }
    inputs = {}
    for name in INPUTS[operator]:
        if name == "spatial_shapes":
            inputs[name] = np.array(SHAPES, np.int64).flatten()
        elif name == "reference_points":
            inputs[name] = random.random(shapes[name], np.float32)
        else:
            inputs[name] = random.standard_normal(shapes[name], np.float32)
    return inputs


def make_model(operator, *, separate_key=True, mask_outside=False):
    """A file with one node, whose inputs may have any size."""
    kinds = {"spatial_shapes": ir.DataType.INT64}
    inputs = [
        ir.Value(name=name, type=ir.TensorType(kinds.get(name, ir.DataType.FLOAT)))
        for name in INPUTS[operator]
    ]
    attributes = []
    if operator == KEY_AWARE:
        attributes = [
            ir.AttrFloat32("scale", 0.25),
            ir.AttrInt64("mask_outside", int(mask_outside)),
            ir.AttrInt64("separate_key", int(separate_key)),
        ]
    node = ir.Node(DOMAIN, f"LiteFocus{operator}", inputs, attributes)
    (output,) = node.outputs
    output.name, output.type = "output", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        inputs, [output], nodes=[node], name="attention", opset_imports={"": 18, DOMAIN: 1}
    )
    return ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()


def start(register, model, threads=1):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    register(options)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def expected(operator, inputs, *, separate_key=True, mask_outside=False):
    """The result in double precision, of the formulas."""
    tensors = {
        name: torch.from_numpy(x).double() for name, x in inputs.items() if x.dtype == np.float32
    }
    value, offsets = tensors["value"], tensors["sampling_offsets"]
    offsets = offsets.expand(-1, -1, -1, len(SHAPES), -1, -1)
    references = tensors["reference_points"][:, :, None, :, None]
    if references.shape[-1] == 2:
        sizes = torch.tensor([(width, height) for height, width in SHAPES], dtype=torch.float64)
        locations = references + offsets / sizes[:, None]
    else:
        locations = references[..., :2] + offsets * references[..., 2:] * 0.5 / POINTS
    if operator == KEY_AWARE:
        key = tensors["key"] if separate_key else None
        return reference.key_aware_deformable_attention(
            tensors["query"], key, value, SHAPES, locations, 0.25, mask_outside=mask_outside
        )
    weights = tensors["attention_logits"].softmax(-1).unflatten(-1, (len(SHAPES), POINTS))
    return reference.multi_scale_deformable_attention(value, SHAPES, locations, weights)


def assert_close(found, wanted):
    assert found.dtype == np.float32
    assert found.shape == tuple(wanted.shape)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("register", WAYS)
@pytest.mark.parametrize("offset_levels", [1, 2])
@pytest.mark.parametrize("reference_size", [2, 4])
@pytest.mark.parametrize("queries", [3, 130])  # on 26 tokens: a map is copied for the second
def test_results_are_those_of_the_formulas(register, queries, reference_size, offset_levels):
    session = start(register, make_model("DeformableAttention"))
    inputs = make_inputs(
        "DeformableAttention",
        queries,
        reference_size=reference_size,
        offset_levels=offset_levels,
    )
    (found,) = session.run(None, inputs)
    assert_close(found, expected("DeformableAttention", inputs))


@pytest.mark.parametrize("register", WAYS)
@pytest.mark.parametrize("mask_outside", [False, True])
@pytest.mark.parametrize("separate_key", [False, True])
@pytest.mark.parametrize("queries", [3, 130])
def test_key_aware_results_are_those_of_the_formulas(register, queries, separate_key, mask_outside):
    options = {"separate_key": separate_key, "mask_outside": mask_outside}
    session = start(register, make_model(KEY_AWARE, **options))
    inputs = make_inputs(KEY_AWARE, queries)
    (found,) = session.run(None, inputs)
    assert_close(found, expected(KEY_AWARE, inputs, **options))


@pytest.mark.parametrize("register", WAYS)
@pytest.mark.parametrize("operator", INPUTS)
def test_no_queries_have_an_empty_result(register, operator):
    (found,) = start(register, make_model(operator)).run(None, make_inputs(operator, 0))
    assert found.shape == (BATCH, 0, HEADS * CHANNELS)


@compiled
@pytest.mark.parametrize("operator", INPUTS)
@pytest.mark.parametrize("queries", [20, 400])
def test_the_number_of_threads_does_not_change_a_bit(operator, queries):
    inputs = make_inputs(operator, queries)
    first, second = (
        start(register_library, make_model(operator), threads).run(None, inputs)[0]
        for threads in (1, 4)
    )
    assert first.tobytes() == second.tobytes()


@compiled
@pytest.mark.parametrize(
    ("operator", "name", "shape", "message"),
    [
        ("DeformableAttention", "value", (2, 26, 32), r"value must be \(B, S, M, D\), got \(2, 26"),
        ("DeformableAttention", "value", (2, 27, 2, 16), r"value has 27 tokens.* have 26 pixels"),
        ("DeformableAttention", "spatial_shapes", (3,), "spatial_shapes must list .* 3 numbers"),
        ("DeformableAttention", "spatial_shapes", (), r"spatial_shapes must be one list.*, got \("),
        ("DeformableAttention", "spatial_shapes", (34,), "of 1 to 16 levels, got 34 numbers"),
        (
            "DeformableAttention",
            "attention_logits",
            (2, 5, 2, 7),
            r"attention_logits must have the shape \(2, 5, 2, 8\) to go .*, got \(2, 5, 2, 7\)",
        ),
        ("DeformableAttention", "reference_points", (2, 5, 2, 3), r"must be \(B, Q, L, 2\) or"),
        ("DeformableAttention", "reference_points", (2, 4, 2, 2), r"reference_points must have"),
        ("DeformableAttention", "sampling_offsets", (2, 5, 2, 2, 8), "sampling_offsets must be"),
        ("DeformableAttention", "sampling_offsets", (2, 5, 3, 2, 4, 2), "offsets must have the"),
        ("DeformableAttention", "sampling_offsets", (2, 5, 2, 2, 0, 2), "at least one sampling"),
        (KEY_AWARE, "query", (1, 5, 2, 16), "query must have the shape"),
        (KEY_AWARE, "key", (2, 26, 2, 8), "key must have the shape"),
    ],
)
def test_a_wrong_shape_is_named(operator, name, shape, message):
    inputs = make_inputs(operator, 5)
    inputs[name] = np.ones(shape, inputs[name].dtype)
    session = start(register_library, make_model(operator))
    with pytest.raises(Exception, match=f"LiteFocus{operator}: .*{message}"):
        session.run(None, inputs)
    # The session goes on.
    session.run(None, make_inputs(operator, 5))


@compiled
def test_sizes_that_are_not_positive_are_refused():
    inputs = make_inputs("DeformableAttention", 5)
    inputs["spatial_shapes"] = np.array([-4, -5, 2, 3])
    session = start(register_library, make_model("DeformableAttention"))
    with pytest.raises(Exception, match=r"spatial_shapes must be positive .*, got \(-4, -5, 2, 3"):
        session.run(None, inputs)


RUN = """
import sys
import numpy as np
import onnxruntime

library, model, inputs, output = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(library)
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
np.save(output, session.run(None, dict(np.load(inputs)))[0])
assert "torch" not in sys.modules
assert "libtorch" not in open("/proc/self/maps").read()
"""


@compiled
def test_a_program_without_pytorch_runs_the_library(tmp_path):
    names = ("model.onnx", "inputs.npz", "output.npy")
    model, inputs, output = (tmp_path / name for name in names)
    model.write_bytes(make_model(KEY_AWARE))
    tensors = make_inputs(KEY_AWARE, 7)
    np.savez(inputs, **tensors)
    command = [sys.executable, "-c", RUN, native_attention.LIBRARY, model, inputs, output]
    subprocess.run([str(x) for x in command], cwd=tmp_path, check=True, timeout=60)
    assert_close(np.load(output), expected(KEY_AWARE, tensors))


@compiled
def test_the_library_has_one_symbol_for_others_and_needs_no_pytorch():
    def symbols(*options):
        command = ["nm", "-D", *options, str(native_attention.LIBRARY)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert symbols("--defined-only", "--format=just-symbols") == ["RegisterCustomOps"]
    needed = " ".join(symbols("--undefined-only", "--format=just-symbols"))
    assert "Py" not in needed
    assert "torch" not in needed


@pytest.fixture
def no_library(monkeypatch, tmp_path):
    monkeypatch.setattr(native_attention, "LIBRARY", tmp_path / "_onnxruntime.so")


def without_extensions(monkeypatch):
    monkeypatch.setattr(native_attention.importlib.util, "find_spec", lambda _: None)


@compiled
def test_the_compiled_operators_need_nothing_else(monkeypatch):
    without_extensions(monkeypatch)
    monkeypatch.setenv("LITE_FOCUS_DETR_OPS", "reference")
    assert native_attention.unavailable_reason() is None
    session = start(native_attention.register_native_attention, make_model("DeformableAttention"))
    session.run(None, make_inputs("DeformableAttention", 5))


@in_python
@pytest.mark.usefixtures("no_library")
def test_operators_in_python_take_the_place_of_the_compiled_ones():
    session = start(native_attention.register_native_attention, make_model("DeformableAttention"))
    inputs = make_inputs("DeformableAttention", 5)
    assert_close(session.run(None, inputs)[0], expected("DeformableAttention", inputs))


@pytest.mark.usefixtures("no_library")
def test_without_both_the_error_names_what_is_missing(monkeypatch):
    without_extensions(monkeypatch)
    message = (
        r"_onnxruntime\.so has not been built, and onnxruntime-extensions is not installed; "
        r"pip install 'lite-focus-detr\[export\]'"
    )
    with pytest.raises(ValueError, match=message):
        native_attention.register_native_attention(onnxruntime.SessionOptions())


@compiled
def test_a_truncated_library_is_not_loaded(monkeypatch, tmp_path):
    content = native_attention.LIBRARY.read_bytes()
    path = tmp_path / "_onnxruntime.so"
    path.write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(native_attention, "LIBRARY", path)
    assert native_attention.library_reason().startswith("_onnxruntime.so is truncated")


@pytest.mark.parametrize("separate_key", [False, True])
def test_a_shared_key_is_the_value_for_an_operator_in_python(separate_key):
    shapes = {"value": (2, 9, 3, 4), "sampling_offsets": (2, 5, 3, 1, 2, 2)}
    shapes["reference_points"] = (2, 5, 3, 4)
    inputs = [
        ir.Value(name=name, shape=ir.Shape(shapes[name])) if name in shapes else ir.Value(name=name)
        for name in INPUTS[KEY_AWARE]
    ]
    if not separate_key:
        inputs[1] = None
    options = [ir.AttrFloat32("scale", 0.5), ir.AttrInt64("mask_outside", 0)]
    node = ir.Node("lite_focus_detr", KEY_AWARE, inputs, options)
    function = call_kernels(node, make_function(Call.of(node), sample_with_gather))
    assert (function.domain, function.name) == (DOMAIN, node.op_type)
    assert set(function.attributes) == set(node.attributes)
    assert node.domain == DOMAIN
    assert node.inputs[1] is (inputs[1] if separate_key else inputs[2])
    assert node.attributes["separate_key"].as_int() == separate_key
