import math

import pytest
import torch
from torch.nn.functional import normalize

from gcl_toolkit.data.fields import Fields, fuse, is_missing
from gcl_toolkit.errors import DataError, UserError


def test_fields_print_as_typed_parse_and_hash():
    fields = Fields(image=0.9, title=0.1)
    assert repr(fields) == "Fields(image=0.9, title=0.1)"
    assert Fields.parse("image=0.9, title=0.1") == fields
    assert {fields: 1}[Fields(image=0.9, title=0.1)] == 1


@pytest.mark.parametrize("weights", [{}, {"image": 0}, {"image": -1}, {"image": math.nan}, {"image": math.inf}])
def test_a_side_needs_fields_with_positive_weights(weights):
    with pytest.raises(UserError, match="at least one field with a weight > 0"):
        Fields(**weights)


@pytest.mark.parametrize("text", ["image", "image=x", "image=.5;title=.5", "image=0"])
def test_a_bad_field_text_is_an_error(text):
    with pytest.raises(UserError, match="image"):
        Fields.parse(text)


def test_a_field_named_twice_is_an_error():
    with pytest.raises(UserError, match="'title' appears twice"):
        Fields.parse("title=1, image=1,title=2")


@pytest.mark.parametrize(
    "value", [None, math.nan, "", " \t\n", {"bytes": None, "path": ""}, {"bytes": b"", "path": None}]
)
def test_missing(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", ["0", "nan", 0, {"bytes": b"x", "path": None}, {"bytes": None, "path": "a.png"}])
def test_not_missing(value):
    assert not is_missing(value)


def test_fusion_is_the_normalised_weighted_sum_of_normalised_vectors():
    image, title = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    here = torch.tensor([True])
    fused = fuse({"image": image, "title": title}, {"image": here, "title": here}, Fields(image=0.9, title=0.1))
    assert fused == pytest.approx(normalize(torch.tensor([[0.9, 0.1]]), dim=-1))


def test_a_missing_field_is_dropped_whichever_it_is_and_has_no_gradient():
    image, title = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    present = {"image": torch.tensor([False, True]), "title": torch.tensor([True, False])}
    fused = fuse({"image": image, "title": title}, present, Fields(image=0.9, title=0.1))
    assert fused.detach() == pytest.approx(normalize(torch.stack([title[0], image[1]]), dim=-1).detach(), abs=1e-6)
    fused.sum().backward()
    assert image.grad[0].abs().sum() == title.grad[1].abs().sum() == 0


def test_a_row_without_any_field_is_named():
    nowhere = torch.tensor([True, False])
    with pytest.raises(DataError, match="row 1 has none of the fields image, title"):
        fuse(
            {"image": torch.ones(2, 2), "title": torch.ones(2, 2)},
            {"image": nowhere, "title": nowhere},
            Fields(image=1, title=1),
        )
