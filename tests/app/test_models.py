from __future__ import annotations

import pytest
import torch

from hre_torch.app.models import MODELS, build_model
from hre_torch.errors import RecipeError, UnknownPluginError

GREY_8, GREY_28, COLOUR_32 = (1, 8, 8), (1, 28, 28), (3, 32, 32)
SHIPPED = [
    ("digits_mlp", GREY_8, 2_410),
    ("mnist_mlp", GREY_28, 109_386),
    ("mnist_cnn", GREY_28, 28_938),
    ("cifar_cnn", COLOUR_32, 122_570),
    ("resnet20", COLOUR_32, 269_722),
    ("resnet18", COLOUR_32, 11_173_962),
]


def weights(model):
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize(("name", "shape", "parameters"), SHIPPED)
def test_a_model_has_the_documented_number_of_parameters(name, shape, parameters):
    assert weights(build_model(name, seed=0)).numel() == parameters


@pytest.mark.parametrize(("name", "shape", "parameters"), SHIPPED)
def test_a_model_gives_ten_logits_per_image(name, shape, parameters):
    assert build_model(name, seed=0)(torch.randn(3, *shape)).shape == (3, 10)


@pytest.mark.parametrize(("name", "shape", "parameters"), SHIPPED)
def test_every_parameter_gets_a_gradient(name, shape, parameters):
    model = build_model(name, seed=0)
    model(torch.randn(8, *shape)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", [name for name, _, _ in SHIPPED])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name):
    one, two, other = (weights(build_model(name, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_building_a_model_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    build_model("digits_mlp", seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_network_has_buffers_unless_batch_normalisation_is_asked_for():
    assert not any(list(build_model(n, 0).buffers()) for n, _, _ in SHIPPED)


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
def test_both_normalisations_have_the_same_parameters_and_batch_has_averages(name):
    group, batch = (build_model(name, 0, norm=norm) for norm in ("group", "batch"))
    shapes = [[p.shape for p in m.parameters()] for m in (group, batch)]
    assert shapes[0] == shapes[1]
    assert list(batch.buffers())


def test_resnet18_sees_small_images_at_full_size_at_first():
    model = build_model("resnet18", seed=0)
    seen = []
    model.layer1.register_forward_hook(lambda m, x, y: seen.append(y.shape))
    model(torch.zeros(1, *COLOUR_32))
    assert seen == [(1, 64, 32, 32)]


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(RecipeError, match=r"model\.options\.norm is 'layer'"):
        build_model("resnet20", seed=0, norm="layer")


def test_options_change_the_network():
    model = build_model("mnist_mlp", seed=0, hidden=[10], classes=3)
    assert weights(model).numel() == 784 * 10 + 10 + 10 * 3 + 3


def test_an_unknown_option_is_named_with_its_nearest_spelling():
    with pytest.raises(RecipeError, match=r"model\.options\.widht: .*'width'"):
        build_model("mnist_cnn", seed=0, widht=8)


def test_an_unknown_model_is_refused_with_its_nearest_spelling():
    with pytest.raises(UnknownPluginError, match="did you mean 'mnist_mlp'"):
        build_model("mnist_mpl", seed=0)


def test_a_third_party_can_register_a_model():
    @MODELS.register("tests_linear")
    def linear(inputs=4):
        return torch.nn.Linear(inputs, 10)

    assert build_model("tests_linear", seed=0, inputs=5).in_features == 5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits_mlp", {"hidden": 3}),
        ("mnist_mlp", {"hidden": ["a"]}),
        ("mnist_cnn", {"width": -1}),
        ("cifar_cnn", {"classes": "ten"}),
        ("resnet20", {"classes": 2.5}),
    ],
)
def test_an_option_of_the_wrong_kind_is_told_with_the_defaults(name, options):
    with pytest.raises(RecipeError, match=r"cannot be built so .*classes=10"):
        build_model(name, 0, **options)
