"""Published results as the package ships them, and the reader that takes nothing else."""

from collections.abc import Callable

import pytest

from d3tune.data.registry import KNOWN_NAMES
from d3tune.errors import D3TuneError
from d3tune.results.published import FILE, HEADER, Published, parse_published, published_beside, published_results

HEAD = ",".join(HEADER)
LINE = "f-CLSWGAN,cub,att312,res101,43.7,57.7,49.7,a table"
# U, S and H have one decimal in percent: H from them may be .1 off; where a source's own H is further off, it is kept
ROUNDING = 0.001
OWN_H = {("CADA-VAE", "cub", "att312")}


def test_every_row_is_of_a_known_dataset_with_accuracies_and_evidence() -> None:
    results = published_results()
    assert len(results) > 40
    for result in results:
        assert result.dataset in KNOWN_NAMES
        assert result.evidence
        for value in (result.U, result.S, result.H):
            assert value is None or 0 <= value <= 1
        assert result.to_dict()["selection"] == "test-selected"


def test_h_is_the_harmonic_mean_of_u_and_s_where_the_source_computed_it_so() -> None:
    off = set()
    for result in published_results():
        if result.U is None or result.S is None:
            continue
        h = 2 * result.U * result.S / (result.U + result.S)
        if abs(h - result.H) > ROUNDING + 1e-9:
            off.add((result.method, result.dataset, result.semantics))
    assert off == OWN_H


def test_rows_without_u_and_s_say_so() -> None:
    bare = [result for result in published_results() if result.U is None]
    assert bare
    assert all(result.S is None and "not found" in result.evidence for result in bare)


def test_the_file_is_read_as_it_is() -> None:
    first = FILE.read_text(encoding="utf-8").splitlines()[1].split(",")
    result = published_results()[0]
    assert [result.method, result.dataset, result.semantics, result.features] == first[:4]
    assert [f"{100 * value:.1f}" for value in (result.U, result.S, result.H) if value is not None] == first[4:7]


def test_results_beside_a_run_are_those_of_its_dataset_and_semantics() -> None:
    found = published_beside("CUB", "Sent1024")
    assert found == published_beside("cub", "sent1024")
    assert {(result.dataset, result.semantics) for result in found} == {("cub", "sent1024")}
    assert {result.method for result in found} >= {"ZLAP+WGAN", "D3GZSL"}
    assert published_beside("hanzi/0", "parts103") == []
    assert published_beside("cub", "att300") == []


def test_the_reader_takes_a_good_line() -> None:
    (result,) = parse_published(f"{HEAD}\n{LINE}\n")
    assert result == Published("f-CLSWGAN", "cub", "att312", "res101", 0.437, 0.577, 0.497, "a table")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("method", "name"), "line 1: the columns must be method,dataset"),
        (lambda text: "", "line 1: the columns must be"),
        (lambda text: text + LINE, "line 3: f-CLSWGAN, cub, att312, res101: twice"),
        (lambda text: text.replace(",a table", ""), "line 2: has 7 cells, not 8"),
        (lambda text: text.replace("a table", '"a table'), "line 2: unexpected end of data"),
        (lambda text: text.replace("a table", " "), "line 2: a name is missing"),
        (lambda text: text.replace("a table", "a \x1b[2J"), "line 2: a name is missing"),
        (lambda text: text.replace("cub", "CUB"), "line 2: a name is missing or badly written"),
        (lambda text: text.replace("att312", "312"), "line 2: a name is missing or badly written"),
        (lambda text: text.replace("43.7", ""), "line 2: U and S: both or none"),
        (lambda text: text.replace("49.7", ""), "line 2: '' is no accuracy"),
        (lambda text: text.replace("49.7", "0.4971"), "line 2: '0.4971' is no accuracy in percent"),
        (lambda text: text.replace("49.7", "100.1"), "line 2: '100.1' is no accuracy"),
        (lambda text: text.replace("49.7", "-1"), "line 2: '-1' is no accuracy"),
        (lambda text: text.replace("49.7", "nan"), "line 2: 'nan' is no accuracy"),
    ],
)
def test_the_reader_refuses(change: Callable[[str], str], words: str) -> None:
    with pytest.raises(D3TuneError) as error:
        list(parse_published(change(f"{HEAD}\n{LINE}\n")))
    assert words in str(error.value)
