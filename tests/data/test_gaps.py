"""Data with gaps: the mask, what stands for a gap in a source, and statistics of what was observed."""

import numpy as np
import pytest
import torch

from pyro_vae import VAE, fit
from pyro_vae.data import Dataset, as_dataset, conditioned_on_elements, load_data, semi_supervised
from pyro_vae.data.dataset import evenly_spread, observed_chunks
from pyro_vae.errors import DataError, UsageError
from pyro_vae.likelihoods import Normal
from pyro_vae.statistics.running import Running


def incomplete(rows=40, columns=3, seed=0, dtype=np.float32):
    generator = np.random.default_rng(seed)
    x = (generator.normal(size=(rows, columns)) * [1, 10, 0.1] + [0, 100, -3]).astype(dtype)
    return np.where(generator.random(x.shape) < 0.6, x, np.nan).astype(dtype)


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


class TestSources:
    """Each way to say that an element was not observed gives the same data set."""

    def same(self, data, x=None):
        x = torch.as_tensor(incomplete() if x is None else x)
        assert torch.equal(data.split("train").isnan(), x.isnan())
        assert torch.equal(data.split("train").nan_to_num(), x.nan_to_num())
        assert torch.equal(data.observed("train"), ~x.isnan()) and data.observed("train").dtype == torch.bool

    def test_nan_in_arrays_and_tensors(self):
        x = incomplete()
        self.same(as_dataset(x, missing="nan"))
        self.same(as_dataset(torch.from_numpy(x), missing=float("nan")))
        assert as_dataset(torch.from_numpy(x).double(), missing="nan").split("train").dtype == torch.float64

    def test_a_number_in_arrays_and_tensors(self):
        """-99.9 has another value in single than in double precision."""
        x = incomplete()
        coded = np.where(np.isnan(x), np.float32(-99.9), x)
        self.same(as_dataset(coded, missing=-99.9))
        self.same(as_dataset(torch.from_numpy(coded), missing=-99.9))

    def test_a_mask_in_place_of_it(self):
        x = incomplete()
        whole = np.where(np.isnan(x), np.float32(7), x)
        self.same(as_dataset(whole, mask=~np.isnan(x)))
        self.same(as_dataset(torch.from_numpy(whole), mask=torch.from_numpy(~np.isnan(x))))

    def test_files(self, tmp_path):
        x = incomplete()
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "coded.npy", np.where(np.isnan(x), -1, x))
        self.same(load_data(tmp_path / "x.npy", missing="nan"))
        self.same(load_data(tmp_path / "coded.npy", missing=-1))
        data = saved(tmp_path / "x.npz", train=np.nan_to_num(x), train_mask=~np.isnan(x))
        self.same(load_data(data, missing="mask"))
        self.same(load_data(data, mask=~np.isnan(x)))
        bytes_ = saved(tmp_path / "y.npz", train=np.nan_to_num(x), train_mask=(~np.isnan(x)).astype(np.uint8))
        self.same(load_data(bytes_, missing="mask"))

    @pytest.mark.parametrize("empty", ["", "NA", "nan", "?"])
    def test_fields_of_a_table(self, tmp_path, empty):
        x = incomplete(dtype=np.float64)
        rows = [",".join(empty if np.isnan(v) else repr(float(v)) for v in row) for row in x]
        (tmp_path / "x.csv").write_text("a,b,c\n" + "\n".join(rows) + "\n")
        self.same(load_data(tmp_path / "x.csv", missing="nan"), x.astype(np.float32))

    def test_bytes_stay_bytes(self):
        x = np.array([[0, 9, 255], [3, 9, 0], [9, 1, 5]], np.uint8)
        data = as_dataset(x, missing=9)
        assert data.train.dtype == torch.uint8 and data.divisor == 255
        self.same(data, np.where(x == 9, np.nan, x / np.float32(255)).astype(np.float32))

    def test_a_number_outside_the_scale_does_not_decide_it(self):
        """-1 in place of binary values: the others are 0 and 1."""
        x = np.array([[0, 1], [1, -1], [0, 1]])
        assert as_dataset(x, missing=-1).preparation == "0/1 values as given"

    def test_held_out_rows_keep_their_mask(self, tmp_path):
        x = incomplete()
        data = load_data(saved(tmp_path / "x.npz", train=x), missing="nan", valid_size=10, test_size=5)
        parts = torch.cat([data.observed(split) for split in ("train", "valid", "test")])
        assert torch.equal(parts, torch.from_numpy(~np.isnan(x))) and data.size("valid") == 10

    def test_origin_loads_the_same_again(self, tmp_path):
        x = incomplete()
        data = load_data(saved(tmp_path / "x.npz", train=x), missing="nan")
        assert data.origin["missing"] == "nan"
        assert "missing" not in load_data("digits").origin
        assert load_data(tmp_path / "x.npz", mask=~np.isnan(x)).origin == {}  # no option says it

    def test_nothing_is_missing(self, caplog):
        x = np.ones((3, 2), np.float32)
        assert as_dataset(x, missing="nan").observed("train").all()
        assert as_dataset(x, missing=-5).observed("train").all()
        assert "no value of the data is -5" in caplog.text


class TestAccess:
    """The parts of a split, and what goes to the programs."""

    def test_parts_are_those_of_the_whole(self):
        data = as_dataset(incomplete(), missing="nan")
        whole, rows = data.split("train"), evenly_spread(40, 7)
        parts = list(observed_chunks(data, "train"))
        assert torch.equal(torch.cat([x for x, _ in parts]).nan_to_num(nan=9), whole.nan_to_num(nan=9))
        assert torch.equal(torch.cat([mask for _, mask in parts]), data.observed("train"))
        assert torch.equal(data.select("train", rows).nan_to_num(nan=9), whole[rows].nan_to_num(nan=9))
        assert torch.equal(data.observed("train", rows), data.observed("train")[rows])
        assert torch.equal(torch.cat(list(data.chunks("train", 3))).isnan(), whole.isnan())

    def test_batches_have_no_nan_and_the_mask_stays_bool(self):
        data = as_dataset(incomplete(), missing="nan")
        index = torch.tensor([3, 1])
        assert data.visit(index, 0).isfinite().all()
        given = data.widen_inputs(data.given("train", index))
        assert given["mask"].dtype == torch.bool and torch.equal(given["mask"], data.observed("train")[index])

    @pytest.mark.parametrize("options", [{"binarization": "dynamic"}, {"binarization": "static"}, {"dequantize": True}])
    def test_gaps_of_data_that_are_drawn(self, options):
        x = torch.arange(12, dtype=torch.uint8).reshape(4, 3)
        mask = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]]).bool()
        data = Dataset("x", x, inputs={"mask": {"train": mask}}, divisor=11, **options)
        assert torch.equal(data.split("train").isnan(), ~mask)
        assert torch.equal(data.select("train", torch.tensor([2, 0])).isnan(), ~mask[[2, 0]])
        full = Dataset("x", x, divisor=11, **options)
        assert torch.equal(data.split("train")[mask], full.split("train")[mask])  # the same draws

    def test_rows_to_start_from_have_the_mean_in_gaps(self):
        data = as_dataset(torch.tensor([[1.0, torch.nan], [3.0, 5.0]]), missing="nan")
        assert sorted(data.some(2, 0).tolist()) == [[1.0, 5.0], [3.0, 5.0]]

    def test_protocol_and_fingerprint(self):
        x = torch.tensor([[1.0, torch.nan], [3.0, 5.0]])
        data = as_dataset(x, missing="nan")
        assert data.protocol == "array: values as given; not binarised; train 2; shape 2, 25.0% of train missing"
        other = as_dataset(x.nan_to_num(), mask=torch.tensor([[False, True], [True, True]]))
        assert data.fingerprint() == as_dataset(x.nan_to_num(), mask=~x.isnan()).fingerprint() != other.fingerprint()

    def test_labels_and_repeats_keep_the_mask(self):
        x = incomplete(6)
        x[0] = 1.0
        data = Dataset(
            "x", torch.from_numpy(x).nan_to_num(), labels={"train": torch.tensor([0, 1, 0, 1, 0, 1])},
            inputs={"mask": {"train": torch.from_numpy(~np.isnan(x))}},
        )  # fmt: skip
        few = semi_supervised(data, 2, repeats=3)
        assert len(few.observed("train")) == len(few.train) == 10


class TestStatistics:
    """Means and deviations are numpy's nanmean and nanstd."""

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_of_floats(self, dtype):
        x = incomplete(dtype=dtype)
        data = as_dataset(torch.from_numpy(x), missing="nan")
        exact = 1e-6 if dtype == np.float32 else 1e-13
        assert np.allclose(data.mean().numpy(), np.nanmean(x.astype(np.float64), 0), rtol=exact)
        assert np.allclose(data.std().numpy(), np.nanstd(x.astype(np.float64), 0), rtol=exact)

    def test_of_bytes(self):
        x = np.array([[0, 9, 255], [3, 8, 9], [9, 1, 5]], np.uint8)
        data, values = as_dataset(x, missing=9), np.where(x == 9, np.nan, x / 255)
        assert np.allclose(data.mean(), np.nanmean(values, 0)) and np.allclose(data.std(), np.nanstd(values, 0))

    def test_part_by_part(self):
        """The parts are very different; the second has no value of the first column."""
        x = incomplete(30, dtype=np.float64)
        x[10:20, 0], x[20:] = np.nan, x[20:] + 1e4
        total = Running()
        for part in np.split(x, [10, 20]):
            total.add(torch.from_numpy(part), ~torch.from_numpy(part).isnan())
        mean, std, count = total.moments()
        assert np.allclose(mean, np.nanmean(x, 0), rtol=1e-13) and np.allclose(std, np.nanstd(x, 0), rtol=1e-11)
        assert count.tolist() == (~np.isnan(x)).sum(0).tolist()

    def test_all_observed_is_to_the_bit_what_it_is_without_a_mask(self):
        x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        full, masked = as_dataset(x), as_dataset(x, missing="nan")
        assert torch.equal(full.mean(), masked.mean()) and torch.equal(full.std(), masked.std())


class TestRefused:
    """What can't be data with gaps."""

    def test_nan_that_nothing_explains(self):
        with pytest.raises(DataError, match=r"NaN or infinite values.*if NaN means not observed, pass missing='nan'"):
            as_dataset(incomplete())

    def test_nan_beside_a_number(self):
        with pytest.raises(DataError, match="1 NaN or infinite values, the first at"):
            as_dataset(torch.tensor([[1.0, -1.0], [torch.nan, 2.0]]), missing=-1)

    @pytest.mark.parametrize("missing", ["none", True, float("inf"), [1], "NaN"])
    def test_other_values(self, missing):
        with pytest.raises(UsageError, match="missing: expected 'nan', 'mask', or the number"):
            as_dataset(np.ones((3, 2)), missing=missing)

    def test_nothing_is_learned_of_a_column_that_was_never_observed(self):
        x = torch.tensor([[1.0, torch.nan], [2.0, torch.nan]])
        data, images = as_dataset(x, missing="nan"), as_dataset(torch.stack([x, x]), missing="nan")
        for learn in (data.mean, data.std, lambda: fit(VAE((2,), likelihood=Normal), data, progress=False)):
            with pytest.raises(DataError, match="column 2 is observed in no datum of train"):
                learn()
        with pytest.raises(DataError, match=r"element \(0, 1\) \(and 1 more\) is observed in no datum"):
            images.mean()
        assert data.split("train").isnan().tolist() == [[False, True], [False, True]]  # a trained model may use them

    def test_masks_that_do_not_fit(self):
        x = torch.ones(3, 2)
        with pytest.raises(DataError, match=r"mask of train has shape \[2, 2\], expected that of x, \[3, 2\]"):
            as_dataset(x, mask=torch.ones(2, 2, dtype=torch.bool))
        with pytest.raises(DataError, match=r"is torch\.float32, expected bool"):
            as_dataset(x, mask=torch.full((3, 2), 0.5))
        with pytest.raises(DataError, match="mask is given for train, expected train, valid"):
            Dataset("x", x, x, inputs={"mask": {"train": torch.ones(3, 2, dtype=torch.bool)}})
        with pytest.raises(UsageError, match="one of missing=nan and mask"):
            as_dataset(x, missing="nan", mask=torch.ones(3, 2, dtype=torch.bool))

    def test_files_without_masks(self, tmp_path):
        with pytest.raises(DataError, match="a mask is given for no split, expected train"):
            load_data(saved(tmp_path / "x.npz", train=np.ones((3, 2))), missing="mask")

    def test_what_needs_complete_data(self, tmp_path):
        data = as_dataset(incomplete(), missing="nan")
        with pytest.raises(UsageError, match="must all be observed"):
            conditioned_on_elements(data, torch.tensor([True, False, False]))
        with pytest.raises(UsageError, match="linear_gaussian has no missing values"):
            load_data("linear_gaussian", missing="nan")
        np.save(tmp_path / "x.npy", np.ones((3, 2)))
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        observed = torch.ones(3, 2, dtype=torch.bool)
        assert Dataset("x", mapped, inputs={"mask": {"train": observed}}).train is mapped
        observed[2, 1] = False
        with pytest.raises(UsageError, match="a mapped file, in which nothing can be filled in"):
            Dataset("x", mapped, inputs={"mask": {"train": observed}})
