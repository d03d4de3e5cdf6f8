import fsspec
import pandas
import pytest


def test_pandas_reads_a_table_of_a_version():
    # No import of headwater: fsspec finds it by its entry point.
    table = pandas.read_csv("headwater://lab/table@latest/2026/november.csv")
    assert len(table) == 500 and table["celsius"].iloc[3] == 3.5


def test_folders_are_listed():
    filesystem = fsspec.filesystem("headwater")
    assert filesystem.ls("", detail=False) == ["lab/events@1", "lab/images@1", "lab/labelled@1", "lab/mixed@1", "lab/table@1"]
    base = "lab/table@latest"
    assert filesystem.ls(base, detail=False) == [f"{base}/2026", f"{base}/deep", f"{base}/note.txt"]
    assert filesystem.info(f"{base}/2026")["type"] == "directory"
    assert filesystem.info(f"{base}/note.txt")["size"] == 18
    assert filesystem.find(f"headwater://{base}") == [f"{base}/2026/november.csv", f"{base}/deep/er/none.txt", f"{base}/note.txt"]
    assert filesystem.glob(f"{base}/*/*.csv") == [f"{base}/2026/november.csv"]
    assert filesystem.exists(f"{base}/note.txt") and not filesystem.exists(f"{base}/not.txt")
    assert filesystem.cat(f"{base}/note.txt") == b"of the north field"
    assert filesystem.cat_file(f"{base}/note.txt", start=-5) == b"field"
    assert filesystem.cat(f"{base}/deep/er/none.txt") == b""


def test_large_files_are_read_in_ranges():
    with fsspec.open("headwater://lab/mixed@latest/00149.bin", block_size=1 << 16) as file:
        file.seek(650_000)
        tail = file.read()
        assert len(tail) == 700_149 - 650_000
        assert tail[0] == (149 * 31 + 650_000 * 7) % 251


def test_what_is_not_there_and_writing_are_errors():
    filesystem = fsspec.filesystem("headwater")
    for path in ("lab/table@latest/none.csv", "lab/tabel@latest/note.txt", "lab/table@9/note.txt"):
        with pytest.raises(FileNotFoundError):
            filesystem.cat(path)
    with pytest.raises(FileNotFoundError, match="does not say which version"):
        filesystem.info("lab/table/note.txt")
    with pytest.raises(OSError, match="read-only"):
        filesystem.open("lab/table@latest/new.txt", "wb")
