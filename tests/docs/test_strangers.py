"""The table of what strangers broke is what the tests' markers say."""

from tests.strangers import TABLE, write_table


def test_table_is_up_to_date():
    assert TABLE.read_text(encoding="utf-8") == write_table(), "run python -m tests.strangers"
