//! Records are found wherever the bytes are cut, and what is no such file is said.

use proptest::prelude::*;

use super::*;

/// What a file holds: samples with their records.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    records: Vec<(u64, String, Vec<u8>)>,
    is_open: bool,
    /// Where the next byte of the open record must be.
    next: Option<u64>,
}

impl RecordSink for Found {
    fn begin(&mut self, sample: u64, name: &[u8]) {
        assert!(!self.is_open, "one record at a time");
        assert!(
            self.records.last().is_none_or(|(last, ..)| *last == sample || *last + 1 == sample),
            "samples in order"
        );
        (self.is_open, self.next) = (true, None);
        self.records.push((sample, String::from_utf8_lossy(name).into_owned(), Vec::new()));
    }

    fn bytes(&mut self, at: u64, part: &[u8]) {
        assert!(self.is_open && self.next.is_none_or(|next| next == at), "bytes of a record lie together");
        self.next = Some(at + part.len() as u64);
        self.records.last_mut().expect("a record").2.extend_from_slice(part);
    }

    fn end(&mut self) {
        assert!(self.is_open);
        self.is_open = false;
    }
}

/// Splits `file` at `path`, whose bytes come in parts of `part`.
fn split_in(rule: &str, path: &str, file: &[u8], part: usize) -> Result<Found, SplitError> {
    let rule = Rule::parse(rule).expect("a rule");
    let mut splitter = rule.splitter(path.as_bytes(), file.len() as u64)?.expect("it holds records");
    let mut found = Found::default();
    for part in file.chunks(part.max(1)) {
        splitter.push(part, &mut found)?;
    }
    splitter.finish(&mut found)?;
    assert!(!found.is_open, "every record ends");
    Ok(found)
}

/// The same for every way in which the bytes may be cut.
#[track_caller]
fn split(rule: &str, path: &str, file: &[u8]) -> Result<Vec<(u64, String, Vec<u8>)>, SplitError> {
    let whole = split_in(rule, path, file, file.len());
    for part in [1, 2, 7, 511, 512, 513, 4096] {
        assert_eq!(split_in(rule, path, file, part), whole, "parts of {part}");
    }
    whole.map(|found| found.records)
}

fn records(expected: &[(u64, &str, &[u8])]) -> Vec<(u64, String, Vec<u8>)> {
    expected.iter().map(|(sample, name, bytes)| (*sample, (*name).to_owned(), bytes.to_vec())).collect()
}

fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(header.len()).expect("a short header").to_le_bytes();
    [&b"\x93NUMPY\x01\x00"[..], &length, header.as_bytes(), data].concat()
}

fn tar_header(name: &[u8], kind: u8, size: &str) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..124 + size.len()].copy_from_slice(size.as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    sign(&mut block);
    block
}

fn sign(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn member(name: &str, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut all = tar_header(name.as_bytes(), kind, &format!("{:011o}", bytes.len()));
    all.extend_from_slice(bytes);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut all = members.concat();
    all.extend_from_slice(&[0; 1024]);
    all
}

#[test]
fn rules_are_read_and_shown() {
    for text in ["stems", "tar", "lines,records:784", "lines,npy,records:1,tar"] {
        assert_eq!(Rule::parse(text).expect("a rule").to_string(), text);
    }
    assert_eq!(Rule::parse("tar,lines").expect("a rule").to_string(), "lines,tar");
    for bad in [
        "",
        "files,tar",
        "records",
        "records:0",
        "records:-1",
        "records:99999999999",
        "tar,tar",
        "records:1,records:2",
        "tar ",
    ] {
        assert!(Rule::parse(bad).is_err(), "{bad}");
    }
    let rule = Rule::parse("tar,records:3").expect("a rule");
    assert!(rule.splitter(b"a/README.md", 5).expect("no error").is_none());
    assert!(rule.splitter(b"a/X.TAR", 5).expect("no error").is_some());
    assert!(Rule::default().is_files() && Rule::default().splitter(b"a.tar", 5).expect("no error").is_none());
}

#[test]
fn records_of_one_size() {
    assert_eq!(
        split("records:3", "a.bin", b"abcdef"),
        Ok(records(&[(0, "0000000000.bin", b"abc"), (1, "0000000001.bin", b"def")]))
    );
    assert_eq!(split("records:3", "a.bin", b""), Ok(Vec::new()));
    assert_eq!(split("records:3", "a.bin", b"abcd").expect_err("one is left over").at, 3);
}

#[test]
fn lines_without_their_ends() {
    let text = b"{\"a\":1}\r\n\n\r\nb\rc\nlast\r";
    let expected: [(u64, &str, &[u8]); 3] =
        [(0, "0000000000.json", b"{\"a\":1}"), (1, "0000000001.json", b"b\rc"), (2, "0000000002.json", b"last\r")];
    assert_eq!(split("lines", "a.jsonl", text), Ok(records(&expected)));
    assert_eq!(split("lines", "a.txt", b"x\n"), Ok(records(&[(0, "0000000000.txt", b"x")])));
    assert_eq!(split("lines", "a.ndjson", b""), Ok(Vec::new()));
}

#[test]
fn rows_of_arrays() {
    let header = "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3), }          \n";
    let rows = split("npy", "a.npy", &npy(header, b"abcdefghijkl"));
    assert_eq!(rows, Ok(records(&[(0, "0000000000.npy", b"abcdef"), (1, "0000000001.npy", b"ghijkl")])));
    let vector = split("npy", "a.npy", &npy("{\"descr\": \"|b1\", 'fortran_order': True, 'shape': (3,)}", b"abc"));
    assert_eq!(vector.expect("rows of one byte").len(), 3);
    assert_eq!(split("npy", "a.npy", &npy("{'descr':'<U2','fortran_order':False,'shape':(0,)}", b"")), Ok(Vec::new()));
}

#[test]
fn arrays_that_lie_are_refused() {
    let with = |descr: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
    let f4 = "'<f4'";
    for (file, said) in [
        (npy(&with(f4, "(3,)"), &[0; 8]), "3 rows of 4 bytes, and 8 bytes follow"),
        (npy(&with(f4, "(1,)"), &[0; 8]), "1 rows of 4 bytes, and 8 bytes follow"),
        (npy(&with(f4, "(18446744073709551615, 18446744073709551615)"), &[0; 8]), "too large"),
        (npy(&with(f4, "(18446744073709551615,)"), &[0; 8]), "18446744073709551615 rows"),
        (npy(&with(f4, "(99999999999999999999,)"), &[0; 8]), "is no size"),
        (npy(&with(f4, "(-1,)"), &[0; 8]), "is no size"),
        (npy(&with(f4, "(2, 0)"), &[]), "no bytes"),
        (npy(&with(f4, "()"), &[0; 4]), "a single value"),
        (npy(&with(f4, "7"), &[0; 4]), "shape"),
        (npy(&with(f4, "(1, 9999999999)"), &[0; 4]), "1 rows of"),
        (npy(&with("'|O'", "(1,)"), &[0; 4]), "Python objects"),
        (npy(&with("[('a', '<f4')]", "(1,)"), &[0; 4]), "several fields"),
        (npy(&with("'<f'", "(1,)"), &[0; 4]), "no type"),
        (npy(&with("'ü'", "(1,)"), &[0; 4]), "no type"),
        (npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1)}", &[0; 8]), "Fortran"),
        (npy("{}", &[]), "no `descr`"),
        (b"\x93NUMPY\x01\x00\xff\xff{".to_vec(), "within its header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec(), "a header of"),
        (b"\x93NUMPY\x09\x00\x00".to_vec(), "version 9"),
        (b"PK\x03\x04".to_vec(), "does not begin"),
        (Vec::new(), "within its header"),
    ] {
        let error = split("npy", "a.npy", &file).expect_err(said).to_string();
        assert!(error.contains(said), "{error}, and not {said}");
    }
}

#[test]
fn members_of_archives() {
    let long = format!("{}/0003.txt", "d".repeat(120));
    let pax = "17 path=p/0004.x\n".to_owned();
    let all = archive(&[
        member("./", b'5', b""),
        member("./0001.png", b'0', b"image"),
        member("./0001.json", 0, b"{}"),
        member("0002.png", b'0', &[7; 1300]),
        member("link", b'2', b""),
        member("a/0002.png", b'7', b""),
        member("././@LongLink", b'L', format!("{long}\0").as_bytes()),
        member("cut", b'0', b"long"),
        member("PaxHeaders/1", b'x', pax.as_bytes()),
        member("cut", b'0', b"pax"),
        member("global", b'g', b"17 comment=nothing\n"),
        member("0005.bin", b'0', &[1; 512]),
    ]);
    let expected: [(u64, &str, &[u8]); 7] = [
        (0, "0000000000/0001.png", b"image"),
        (0, "0000000000/0001.json", b"{}"),
        (1, "0000000001/0002.png", &[7; 1300]),
        (2, "0000000002/a/0002.png", b""),
        (3, &format!("0000000003/{long}"), b"long"),
        (4, "0000000004/p/0004.x", b"pax"),
        (5, "0000000005/0005.bin", &[1; 512]),
    ];
    assert_eq!(split("tar", "a.tar", &all), Ok(records(&expected)));
    assert_eq!(split("tar", "a.tar", &[&all[..], b"whatever follows"].concat()), Ok(records(&expected)));
    let mut binary = tar_header(b"0001.bin", b'0', "");
    binary[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    sign(&mut binary);
    let binary = archive(&[binary, [&b"abc"[..], &[0; 509]].concat()]);
    assert_eq!(split("tar", "a.tar", &binary), Ok(records(&[(0, "0000000000/0001.bin", b"abc")])));
}

#[test]
fn archives_that_are_damaged_or_cut_short_are_refused() {
    let whole = archive(&[member("0001.png", b'0', &[5; 700]), member("0001.txt", b'0', b"label")]);
    for length in (0..2560).step_by(64).chain([1, 513, 1537]) {
        let error = split("tar", "a.tar", &whole[..length]).expect_err("cut short").to_string();
        assert!(error.contains("cut short"), "{length}: {error}");
    }
    let many: Vec<_> = (0..=SAMPLE_FIELDS_MAX).map(|field| member(&format!("1.{field}"), b'0', b"")).collect();
    let mut damaged = whole.clone();
    damaged[1540] ^= 1;
    let huge = archive(&[tar_header(b"a", b'0', "77777777777")]);
    let mut binary = tar_header(b"a", b'0', "");
    binary[124..136].copy_from_slice(&[0xff; 12]);
    sign(&mut binary);
    for (file, said) in [
        (damaged, "check sum"),
        (huge, "publish it as a file"),
        (archive(&[binary]), "the size in a header"),
        (archive(&[tar_header(b"a", b'0', "99")]), "the size in a header"),
        (archive(&[tar_header(b"a", b'L', "77777777777")]), "are said of one member"),
        (archive(&[member("a", b'S', b"")]), "sparse"),
        (archive(&[member("../a", b'0', b"")]), "a"),
        (archive(&[member("/etc/passwd", b'0', b"")]), "passwd"),
        (archive(&[member("a", b'0', b""), member("a", b'0', b"")]), "twice"),
        (archive(&[member("x", b'x', b"99999 path=a\n"), member("a", b'0', b"")]), "can't be read"),
        (archive(&[member("x", b'x', b"0 =\n"), member("a", b'0', b"")]), "can't be read"),
        (archive(&many), "more than"),
        (vec![b'x'; 4096], "check sum"),
    ] {
        let error = split("tar", "a.tar", &file).expect_err(said).to_string();
        assert!(error.contains(said), "{error}, and not {said}");
    }
}

proptest! {
    #[test]
    fn whatever_comes_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..3000), part in 1_usize..700) {
        for (rule, path) in [("tar", "a.tar"), ("lines", "a.jsonl"), ("npy", "a.npy"), ("records:7", "a.bin")] {
            let _ = split_in(rule, path, &bytes, part);
            let _ = split_in(rule, path, &[b"\x93NUMPY\x01\x00", &bytes[..]].concat(), part);
        }
    }

    #[test]
    fn a_changed_archive_gives_records_or_an_error(at in any::<prop::sample::Index>(), to in any::<u8>(), part in 1_usize..700) {
        let mut file = archive(&[
            member("x", b'x', b"17 path=p/0004.x\n"),
            member("0001.png", b'0', &[5; 700]),
            member("0001.txt", b'0', b"label"),
        ]);
        let at = at.index(file.len());
        file[at] = to;
        if let Ok(found) = split_in("tar", "a.tar", &file, part) {
            prop_assert!(found.records.iter().all(|(_, _, bytes)| bytes.len() <= file.len()));
        }
    }

    #[test]
    fn lines_are_what_a_text_consists_of(lines in proptest::collection::vec("[a-z\r]{0,9}", 0..40), part in 1_usize..50) {
        let text = lines.join("\n");
        let found = split_in("lines", "a.txt", text.as_bytes(), part).expect("any text has lines");
        let expected: Vec<_> = text
            .split('\n')
            .enumerate()
            .map(|(index, line)| if index + 1 < text.split('\n').count() { line.strip_suffix('\r').unwrap_or(line) } else { line })
            .filter(|line| !line.is_empty())
            .map(|line| line.as_bytes().to_vec())
            .collect();
        prop_assert_eq!(found.records.into_iter().map(|(_, _, bytes)| bytes).collect::<Vec<_>>(), expected);
    }
}
