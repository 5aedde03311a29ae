import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from model_delivery_engine.archive import extract_archive, pack_archive
from model_delivery_engine.errors import ArchiveError


def write_tar(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, linkname: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = linkname
    return info


def assert_untouched(tmp_path: Path, archive: Path) -> None:
    """Nothing but the archive is there: no target, no temporary folder."""
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_a_packed_folder_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(os.urandom(3_000_000))
    (folder / "deep" / "ünï.txt").write_text("hello")
    pack_archive(folder, tmp_path / "a.tar.gz")
    extract_archive(tmp_path / "a.tar.gz", tmp_path / "out")
    for name in ("model.onnx", "deep/ünï.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


def test_packing_is_deterministic(tmp_path: Path) -> None:
    for name, stamp in (("one", 1_000_000), ("two", 2_000_000)):
        (tmp_path / name).mkdir()
        for file in ("b", "a") if name == "one" else ("a", "b"):
            (tmp_path / name / file).write_text(file)
            os.utime(tmp_path / name / file, (stamp, stamp))
        pack_archive(tmp_path / name, tmp_path / f"{name}.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_packing_refuses_a_link_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match="link"):
        pack_archive(tmp_path / "folder", tmp_path / "out" / "a.tar.gz")
    assert not (tmp_path / "out").exists()


def test_packing_refuses_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArchiveError, match="no files"):
        pack_archive(tmp_path / "folder", tmp_path / "a.tar.gz")


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (("/etc/cron.d/x", b"x"), "'/etc/cron.d/x' has an absolute path"),
        (("../x", b"x"), r"'\.\./x' has '\.\.'"),
        (("a/../../x", b"x"), r"has '\.\.'"),
        (("a\\x", b"x"), "portable name"),
        (special("link", tarfile.SYMTYPE, "/etc"), "'link' is a link to '/etc'"),
        (special("hard", tarfile.LNKTYPE, "ok"), "'hard' is a link to 'ok'"),
        (special("dev", tarfile.CHRTYPE), "'dev' is a device"),
        (special("pipe", tarfile.FIFOTYPE), "'pipe' is a device"),
        (("a\nb", b"x"), "portable name"),
        (("a\udcff", b"x"), "portable name"),
        (("a/" * 1500 + "x", b"x"), "is more than 32 folders deep"),
        (("é" * 600, b"x"), "'é{100}…' is more than .* 1024 bytes long"),
        (("é" * 200, b"x"), "cannot extract 'é{100}…': File name too long"),
        (("ok", b"again"), "'ok' is there twice"),
        (("./ok", b"again"), "'./ok' is there twice"),
    ],
)
def test_an_unsafe_member_is_refused_by_name(
    tmp_path: Path, member: tarfile.TarInfo | tuple[str, bytes], why: str
) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", ("ok", b"fine"), member)
    with pytest.raises(ArchiveError, match=why):
        extract_archive(archive, tmp_path / "out")
    assert_untouched(tmp_path, archive)


def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", ("a", b"x"), ("a/b", b"x"))
    with pytest.raises(ArchiveError, match="cannot extract 'a/b'"):
        extract_archive(archive, tmp_path / "out")
    assert_untouched(tmp_path, archive)


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"gone\.tar\.gz: no such archive"):
        extract_archive(tmp_path / "gone.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_gzip_is_refused(tmp_path: Path, share: float) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", ("one", os.urandom(9000)), ("two", b"x" * 9000))
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ArchiveError, match="corrupt or truncated at"):
        extract_archive(archive, tmp_path / "out")
    assert_untouched(tmp_path, archive)


def test_a_lost_checksum_is_noticed(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", ("one", b"data"))
    archive.write_bytes(archive.read_bytes()[:-8])
    with pytest.raises(ArchiveError, match="truncated at its end"):
        extract_archive(archive, tmp_path / "out")


def cut_tar(whole: bytes) -> bytes:
    return whole[: 512 + 700]


def broken_header(whole: bytes) -> bytes:
    return whole[:1024] + b"garbage" * 80 + whole[1584:]


@pytest.mark.parametrize("damage", [cut_tar, broken_header])
def test_a_damaged_tar_in_sound_gzip_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", ("one", b"1" * 512), ("two", b"2" * 5000))
    archive.write_bytes(gzip.compress(damage(gzip.decompress(archive.read_bytes()))))
    with pytest.raises(ArchiveError):
        extract_archive(archive, tmp_path / "out")
    assert_untouched(tmp_path, archive)


@pytest.mark.parametrize(
    "data",
    [b"", b"not gzip at all", gzip.compress(b"not a tar" * 200)],
    ids=["empty", "no gzip", "gzip of no tar"],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"a\.tar\.gz: corrupt"):
        extract_archive(archive, tmp_path / "out")
    assert_untouched(tmp_path, archive)


def test_expansion_past_the_limit_is_refused(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", ("zeros", b"\0" * 3_000_000))
    with pytest.raises(ArchiveError, match="expands past the limit of 1000000 bytes"):
        extract_archive(archive, tmp_path / "out", max_bytes=1_000_000)
    assert_untouched(tmp_path, archive)


def write_extended_header(archive: Path, size: int, form: int = tarfile.DEFAULT_FORMAT) -> Path:
    """Write an archive of one extended header that claims to be of a size."""
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    header.size = size
    archive.write_bytes(gzip.compress(header.tobuf(form) + b"\0" * 4096))
    return archive


def test_a_header_that_claims_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    archive = write_extended_header(tmp_path / "a.tar.gz", 1_500_000_000)
    with pytest.raises(ArchiveError, match="extended header claims"):
        extract_archive(archive, tmp_path / "out")


def claiming(**headers: str) -> tarfile.TarInfo:
    """Return a member with an extended header, and nothing behind it."""
    member = tarfile.TarInfo("model.onnx")
    member.pax_headers = {f"GNU.sparse.{name}": value for name, value in headers.items()}
    return member


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"map": "1048064,512", "size": "1048576"}, "'model.onnx' is a sparse file"),
        ({"size": "1048576"}, "'model.onnx' is a sparse file"),
        ({"major": "1", "minor": "0", "realsize": "1048576"}, "corrupt or truncated"),
        ({"realsize": "1048576"}, "expands past the limit of 100000 bytes"),
        ({"realsize": "many"}, "corrupt or truncated"),
        ({"map": "1,x"}, "corrupt or truncated"),
    ],
)
def test_a_member_that_claims_more_than_it_has_is_refused(
    tmp_path: Path, headers: dict[str, str], why: str
) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", claiming(**headers))
    with pytest.raises(ArchiveError, match=why):
        extract_archive(archive, tmp_path / "out", max_bytes=100_000)
    assert_untouched(tmp_path, archive)


def test_members_that_claim_the_same_bytes_count_each(tmp_path: Path) -> None:
    members = [tarfile.TarInfo(f"{number}") for number in range(20)]
    for member in members:
        member.pax_headers = {"GNU.sparse.realsize": "10000"}
    archive = write_tar(tmp_path / "a.tar.gz", *members, ("last", b"x" * 20_000))
    with pytest.raises(ArchiveError, match="expands past the limit of 100000 bytes"):
        extract_archive(archive, tmp_path / "out", max_bytes=100_000)
    assert_untouched(tmp_path, archive)


def test_an_extended_header_of_less_than_nothing_is_refused(tmp_path: Path) -> None:
    archive = write_extended_header(tmp_path / "a.tar.gz", -512, tarfile.GNU_FORMAT)
    with pytest.raises(ArchiveError, match="extended header claims -512 bytes"):
        extract_archive(archive, tmp_path / "out")


def test_headers_of_headers_end_somewhere(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    header.size = 512
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress((header.tobuf() + b"6 a=b\n".ljust(512, b"\0")) * 2000))
    with pytest.raises(ArchiveError, match="corrupt or truncated"):
        extract_archive(archive, tmp_path / "out")


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", *((f"f{n}", b"") for n in range(11)))
    with pytest.raises(ArchiveError, match="more than 10 members"):
        extract_archive(archive, tmp_path / "out", max_members=10)
    extract_archive(archive, tmp_path / "out", max_members=11)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", ("one", b"new"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "one").write_text("old")
    with pytest.raises(ArchiveError, match="not an empty folder"):
        extract_archive(archive, tmp_path / "out")
    assert (tmp_path / "out" / "one").read_text() == "old"
