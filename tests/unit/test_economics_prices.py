import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempering.economics.prices import InvalidPriceBook, gpu_hours, load_price_book, usd
from tempering.errors import TemperingError, UnknownName


def write(tmp_path, text):
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_book_names_a_source_and_a_day_for_every_number():
    book = load_price_book()
    assert {"H100-SXM", "A100-80GB", "L4", "RTX-4090", "B200"} <= set(book.accelerators)
    for accelerator in book.accelerators.values():
        for figure in (accelerator.peak_flops, accelerator.utilisation, accelerator.usd_per_hour):
            assert len(figure.source) > 20
            assert figure.date <= book.date
        assert 1e13 < accelerator.peak_flops.value < 1e16
        assert 0 < accelerator.usd_per_hour.value < 50


def test_dense_peak_and_not_the_one_with_sparsity():
    assert load_price_book().accelerator("H100-SXM").peak_flops.value == pytest.approx(989.4e12)
    assert load_price_book().accelerator("A100-80GB").peak_flops.value == pytest.approx(312e12)


def test_an_hour_at_full_assumed_rate_costs_its_hourly_price():
    for accelerator in load_price_book().accelerators.values():
        flops = accelerator.peak_flops.value * accelerator.utilisation.value * 3600
        assert gpu_hours(flops, accelerator) == pytest.approx(1)
        assert usd(flops, accelerator) == pytest.approx(accelerator.usd_per_hour.value)


@given(st.floats(0, 1e26), st.floats(0, 1e26))
def test_cost_is_additive_in_flops(one, other):
    h100 = load_price_book().accelerator("H100-SXM")
    assert usd(one + other, h100) == pytest.approx(usd(one, h100) + usd(other, h100), rel=1e-9)


def test_columns_are_priced_as_numbers_are():
    l4 = load_price_book().accelerator("L4")
    column = pd.Series([0.0, 1e15, np.nan])
    assert usd(column, l4).tolist() == pytest.approx([0, usd(1e15, l4), np.nan], nan_ok=True)


def test_unknown_accelerator_suggests_the_nearest():
    with pytest.raises(UnknownName, match="no accelerator named 'H100'; did you mean 'H100-SXM'"):
        load_price_book().accelerator("H100")


def test_names_ignore_case():
    book = load_price_book()
    assert book.accelerator("h100-sxm") == book.accelerators["H100-SXM"]


def test_own_price_is_laid_over_the_shipped_book(tmp_path):
    shipped = load_price_book()
    book = load_price_book(write(tmp_path, "date: 2026-03-01\naccelerators:\n  H100-SXM:\n    usd_per_hour: 1.5\n"))
    h100 = book.accelerators["H100-SXM"]
    assert h100.usd_per_hour.value == 1.5
    assert h100.usd_per_hour.source == "price book prices.yaml"
    assert str(h100.usd_per_hour.date) == "2026-03-01"
    assert h100.peak_flops == shipped.accelerators["H100-SXM"].peak_flops
    assert book.accelerators["A100-80GB"] == shipped.accelerators["A100-80GB"]


def test_changed_value_does_not_keep_the_old_source(tmp_path):
    book = load_price_book(write(tmp_path, "accelerators:\n  L4:\n    usd_per_hour: {value: 9.0}\n"))
    assert book.accelerators["L4"].usd_per_hour.source == "price book prices.yaml"


def test_own_accelerator(tmp_path):
    text = "accelerators:\n  TPU-v5e:\n    peak_flops: 197e12\n    utilisation: 0.4\n    usd_per_hour: 0\n"
    tpu = load_price_book(write(tmp_path, text)).accelerator("TPU-v5e")
    assert tpu.peak_flops.value == 197e12
    assert usd(1e15, tpu) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "accelerators:\n  L4:\n    usd_per_hour: -1\n",
            r"prices.yaml:3: accelerators.L4.usd_per_hour: .*greater than or equal to 0, not -1",
        ),
        (
            "accelerators:\n\n  L4:\n    utilisation: 1.2\n",
            r"prices.yaml:4: accelerators.L4.utilisation: .*less than or equal to 1, not 1.2",
        ),
        ("accelerators:\n  L4:\n    peak_flops: {value: 0}\n", r":3: accelerators.L4.peak_flops: .*greater than 0"),
        ("accelerators:\n  L4:\n    peak_flops: .inf\n", r":3: accelerators.L4.peak_flops: .*finite"),
        ("accelerators:\n  L4:\n    peak_flops: much\n", r":3: accelerators.L4.peak_flops: .*number.*'much'"),
        ("accelerators:\n  X1:\n    utilisation: 0.5\n", r":2: accelerators.X1.peak_flops: is missing"),
        ("accelerators:\n  L4:\n    price: 1\n", r":3: accelerators.L4.price: is no key"),
        ("prices:\n  L4: 1\n", r":1: prices: is no key"),
        ("accelerators:\n  L4: [1]\n", r":2: accelerators.L4: "),
        ("accelerators: [L4]\n", r":1: accelerators holds no mapping"),
        ("date: soon\n", r":1: date: "),
        ("- L4\n", r"holds no mapping"),
        ("", r"holds no mapping"),
        ("accelerators:\n  L4: {usd_per_hour: 1\n", r"prices.yaml:3 is not YAML"),
    ],
)
def test_bad_books_get_one_line_with_its_place(tmp_path, text, message):
    with pytest.raises(InvalidPriceBook, match=message) as caught:
        load_price_book(write(tmp_path, text))
    assert isinstance(caught.value, TemperingError)
    assert "\n" not in str(caught.value)


def test_no_such_book(tmp_path):
    with pytest.raises(InvalidPriceBook, match=r"cannot read the price book .*absent.yaml: No such file"):
        load_price_book(tmp_path / "absent.yaml")
