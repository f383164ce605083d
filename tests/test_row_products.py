import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.row_products import row_products


@given(st.integers(0, 40), st.integers(1, 600), st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("numpy_2", [True, False])
def test_products_are_those_of_float64(numpy_2, num_rows, dimension, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((num_rows, dimension)).astype(np.float32)
    vector = rng.standard_normal(dimension).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        if not numpy_2:
            patch.delattr(np, "vecdot", raising=False)
        products = row_products(rows, vector)
    assert products.dtype == np.float32 and products.shape == (num_rows,)
    limit = (dimension + 8) * 2.0**-24 * np.linalg.norm(rows, axis=1) * np.linalg.norm(vector)
    assert np.all(np.abs(products - rows.astype(np.float64) @ vector) <= limit)
