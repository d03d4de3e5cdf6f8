//! What a catalog must do for the sweeping of packs: what is reachable stays.

use super::*;

pub(super) fn packs_are_swept_whole(catalog: &dyn Catalog) {
    store(catalog, 1, 0..3);
    store(catalog, 2, 3..6);
    let sequence = catalog.roots(0).unwrap().sequence;
    let epoch = catalog.begin_collection(NOW).unwrap();
    let pinned = catalog.sweep_pack(PackNumber(1), epoch, sequence, &|_| false, true).unwrap();
    assert_eq!((pinned.live_chunks, pinned.dropped), (3, false), "proofs pin");

    let later = catalog.begin_collection(UnixMs(NOW.0 + 10)).unwrap();
    let mut pins = 0;
    catalog.each_pinned(&mut |_| pins += 1).unwrap();
    assert_eq!(pins, 0, "the proofs have ended");
    let live = |chunk: &ChunkId| *chunk == id(4);
    let partly = catalog.sweep_pack(PackNumber(2), later, sequence, &live, true).unwrap();
    assert_eq!(partly, PackSweep { live_chunks: 1, live_bytes: 10, dead_chunks: 2, dead_bytes: 20, dropped: false });
    assert!(catalog.locate(&[id(3)]).unwrap()[0].is_some(), "what is dead beside the living stays known");
    assert!(!catalog.sweep_pack(PackNumber(1), later, sequence, &live, false).unwrap().dropped, "only a look");
    assert!(catalog.sweep_pack(PackNumber(1), later, sequence, &live, true).unwrap().dropped);
    assert_eq!(catalog.locate(&[id(0)]).unwrap(), [None]);
    assert_eq!(catalog.packs().unwrap()[0].state, PackState::Dropped);
    catalog.forget_pack(PackNumber(1)).unwrap();
    assert_eq!(catalog.packs().unwrap().len(), 1);
    let sealed = PackRecord { number: PackNumber(2), state: PackState::Sealed([3; 32]), end_bytes: 5 };
    catalog.put_pack(&sealed).unwrap();
    assert_eq!(catalog.packs().unwrap(), [sealed]);
}

pub(super) fn sweeps_stop_at_new_roots(catalog: &dyn Catalog) {
    store(catalog, 1, 0..3);
    let cam = dataset(catalog, "cam", DEVICE);
    let late = UnixMs(NOW.0 + 10);
    let epoch = catalog.begin_collection(late).unwrap();
    let before = catalog.roots(0).unwrap();
    assert_eq!(before.roots, []);
    catalog.commit_version(&version(cam, 1, DEVICE, 0..3)).unwrap();
    let refused = catalog.sweep_pack(PackNumber(1), epoch, before.sequence, &|_| false, true);
    assert!(matches!(refused, Err(SweepError::RootsChanged)));
    let refused = catalog.trim_members(cam, before.sequence, &|_| false);
    assert!(matches!(refused, Err(SweepError::RootsChanged)));
    let after = catalog.roots(before.sequence).unwrap();
    assert_eq!(after.roots, [Root { version: Some((cam, 1)), page: id(0) }]);
    assert_eq!(catalog.roots(after.sequence).unwrap().roots, []);

    // What is stored or pinned during a gc is alive to it.
    store(catalog, 2, 5..6);
    catalog.begin_collection(late).unwrap();
    let touched = catalog.sweep_pack(PackNumber(2), epoch, after.sequence, &|_| false, true).unwrap();
    assert!(!touched.dropped);
}

pub(super) fn members_are_trimmed(catalog: &dyn Catalog) {
    store(catalog, 1, 0..4);
    let cam = dataset(catalog, "cam", DEVICE);
    catalog.commit_version(&version(cam, 1, DEVICE, 0..2)).unwrap();
    catalog.commit_version(&version(cam, 2, DEVICE, 2..4)).unwrap();
    catalog.drop_versions(cam, &[1], true).unwrap();
    let sequence = catalog.roots(0).unwrap().sequence;
    assert_eq!(catalog.trim_members(cam, sequence, &|chunk| *chunk == id(2) || *chunk == id(3)).unwrap(), 2);
    assert!(!seen(catalog, &scope(&[cam], None), 0, NOW));
    assert!(seen(catalog, &scope(&[cam], None), 3, NOW));
    assert_eq!(catalog.datasets_to_trim().unwrap(), []);
    let builds_on_it = NewVersion { complete_pages: vec![id(0)], ..version(cam, 3, DEVICE, 2..4) };
    assert!(matches!(catalog.commit_version(&builds_on_it), Err(CommitVersionError::Incomplete(_))));
}

pub(super) fn leases_are_roots(catalog: &dyn Catalog) {
    let lease = |expires_in: u64| Lease {
        id: "job-1".into(),
        version: VersionId([4; 32]),
        root: Some(id(7)),
        expires_at: NOW.plus(Duration::from_millis(expires_in)),
    };
    catalog.put_lease(&lease(5)).unwrap();
    catalog.put_lease(&lease(50)).unwrap();
    assert_eq!(catalog.leases().unwrap(), [lease(50)]);
    assert_eq!(catalog.roots(0).unwrap().roots, [Root { version: None, page: id(7) }]);
    catalog.begin_collection(UnixMs(NOW.0 + 10)).unwrap();
    assert_eq!(catalog.leases().unwrap().len(), 1);
    catalog.begin_collection(UnixMs(NOW.0 + 50)).unwrap();
    assert_eq!(catalog.leases().unwrap(), []);
    catalog.put_lease(&Lease { root: None, ..lease(90) }).unwrap();
    assert_eq!(catalog.leases().unwrap()[0].root, None);
    assert!(catalog.end_lease("job-1").unwrap());
    assert!(!catalog.end_lease("job-1").unwrap());
}
