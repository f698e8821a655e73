"""Numbers as people read them."""
# ruff: noqa: RUF001  true minus signs

from precocial.report.words import count, duration, few_of, listed, number, percent, plural


def test_numbers_as_people_read_them():
    assert [number(v) for v in (-41.23, 151.4, 6.657, 0.5, -0.0001, float("nan"))] == [
        "−41.2", "151", "6.66", "0.500", "0.000", "–",
    ]  # fmt: skip
    assert number(37.2, sign=True) == "+37.2" and number(-12345.0) == "−12\u202f345"
    assert [count(v) for v in (950, 80_000, 1.6e7)] == ["950", "80 k", "16 M"]
    assert [duration(v) for v in (4.25, 48, 252, 12_000)] == [
        "4.2 s",
        "48 s",
        "4 min 12 s",
        "3 h 20 min",
    ]
    assert (
        listed(["a", "b", "a", "c"]) == "a, b and c"
        and plural(20_000, "task") == "20\u202f000 tasks"
    )


def test_few_of_many():
    assert few_of(4, 4) == [0, 1, 2, 3] and few_of(1, 3) == [0]
    assert few_of(10, 3) == [0, 1, 9]
    assert few_of(100, 5) == [0, 1, 6, 26, 99]
    for num in range(1, 60):
        chosen = few_of(num, 6)
        assert len(chosen) <= 6 and {0, num - 1} <= set(chosen) <= set(range(num))
    assert [percent(x) for x in (0.5, 0.973, 1.0, 1.25)] == ["50 %", "97.3 %", "100.0 %", "125 %"]
