import ast
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import pytest

import dfgan_jax
from dfgan_jax.models.generators import (
    ARCHITECTURES,
    COMMON_MIN_SIZE,
    architecture_of,
    build_generator,
    initial_variables,
)
from dfgan_jax.models.redcnn import REDCNN, REDCNNOptions
from dfgan_jax.models.unet import UNet, UNetOptions
from dfgan_jax.porting.torch_layout import LAYOUTS
from dfgan_jax.support.errors import InputError


def test_a_generator_without_an_architecture_is_a_unet():
    assert build_generator(width=4, attention=True) == UNet(width=4, attention=True)
    assert build_generator(width=4, architecture="redcnn", dtype="bfloat16") == REDCNN(
        width=4, dtype="bfloat16")


@pytest.mark.parametrize("options", [{"architecture": "redcnn", "attention": True},
                                     {"architecture": "resnet"}])
def test_generators_that_there_are_not_are_refused(options):
    with pytest.raises(InputError, match="expected unet, or redcnn without attention"):
        build_generator(width=2, **options)


@pytest.mark.parametrize(("options", "values", "message"), [
    (UNetOptions, {"width": 0}, "width is 0; expected more than 0"),
    (UNetOptions, {"attention": "yes"}, "attention is 'yes'; expected one of False, True"),
    (UNetOptions, {"output": "residual"},
     "output is 'residual'; expected one of image, difference"),
    (UNetOptions, {"gate_window": -1}, "gate_window is -1; expected 0 or more"),
    (UNetOptions, {"normalization": "layer"},
     "normalization is 'layer'; expected one of batch, group, none"),
    (UNetOptions, {"momentum": 1.0}, "momentum is 1.0; expected 0 or more, and below 1"),
    (REDCNNOptions, {"width": -3}, "width is -3; expected more than 0"),
])
def test_options_refuse_values_that_they_do_not_take(options, values, message):
    with pytest.raises(InputError) as caught:
        options(**values)
    assert str(caught.value) == message
    name = {UNetOptions: "unet", REDCNNOptions: "redcnn"}[options]
    with pytest.raises(InputError) as caught:
        build_generator(architecture=name, **{"width": 2, **values})
    assert str(caught.value) == f"generator.{message}"


def test_a_generator_takes_options_of_others_as_published_alone():
    assert build_generator(width=4, architecture="redcnn", momentum=0.9) == REDCNN(width=4)
    with pytest.raises(InputError) as caught:
        build_generator(width=4, architecture="redcnn", momentum=0.8)
    assert str(caught.value) == ("generator.momentum is 0.8; expected 0.9, since RED-CNN has no "
                                 "such option")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_generator_states_the_same_in_every_place(name):
    architecture = ARCHITECTURES[name]
    assert architecture.name == name
    assert LAYOUTS[name].architecture is architecture
    module = architecture.build(architecture.options())
    assert module == architecture.module()  # the defaults are the published network in both
    assert architecture_of(module) is architecture
    assert architecture.unseen.keys() <= architecture.published.keys()
    for other in ARCHITECTURES.values():  # a configuration has one value of a name
        for option in architecture.published.keys() & other.published.keys() - {"width"}:
            assert architecture.published[option] == other.published[option]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_generator_takes_the_smallest_size_that_it_states(name):
    architecture = ARCHITECTURES[name]
    module = architecture.build(architecture.options(width=2))
    multiple = architecture.size_multiple
    height = -(-architecture.min_size // multiple) * multiple
    shape = (1, height, height + multiple, 1)
    denoised, _ = jax.eval_shape(lambda: module.init_with_output(
        jax.random.key(0), jnp.zeros(shape), train=False))
    assert denoised.shape == shape


def test_nothing_but_models_and_porting_names_a_network():
    """Neither by an import, nor by the name that configurations use."""
    package = pathlib.Path(dfgan_jax.__file__).parent
    files = {each.module.__module__ for each in ARCHITECTURES.values()}
    named = []
    for path in package.rglob("*.py"):
        where = path.relative_to(package).as_posix()
        if where.startswith(("models/", "porting/")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = isinstance(node, ast.ImportFrom) and (
                {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)} & files)
            # A protocol and a unit of arrays are named like one of the networks.
            written = isinstance(node, ast.Constant) and node.value in ARCHITECTURES and (
                where not in ("evaluation/protocols.py", "scans/units.py",
                              "scans/unit_names.py"))
            if imported or written:
                named.append(f"{where}:{node.lineno}")
    assert named == []


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        UNetOptions().width = 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_generator_has_the_same_collections_and_takes_the_smallest_image(architecture):
    generator = build_generator(width=2, architecture=architecture)
    shape = (1, COMMON_MIN_SIZE, COMMON_MIN_SIZE, 1)
    denoised, variables = jax.eval_shape(lambda: (
        generator.init_with_output(jax.random.key(0), jnp.zeros(shape), train=False)[0],
        initial_variables(generator, jax.random.key(0))))
    assert denoised.shape == shape
    assert variables.keys() == {"params", "batch_stats"}
    assert bool(variables["batch_stats"]) == (architecture == "unet")
