//! What a catalog must do with tokens and devices.

use super::*;

pub(super) fn device(key: u8, name: &str) -> DeviceRecord {
    DeviceRecord {
        key: PublicKey([key; 32]),
        name: name.into(),
        labels: vec![("site".into(), "x".into())],
        role: Role::Device,
        state: DeviceState::Active,
        write_patterns: vec!["cam/{device}".into()],
        read_patterns: vec!["models/*".into()],
        nonces: Vec::new(),
        certificate_expires_at: UnixMs(9),
        joined_at: NOW,
        last_seen_at: None,
        status: PeerStatus::default(),
    }
}

pub(super) fn tokens_are_used_up(catalog: &dyn Catalog) {
    let token = TokenRecord {
        secret_hash: [5; 32],
        uses_left: 2,
        expires_at: UnixMs(NOW.0 + 100),
        created_at: NOW,
        labels: vec![("site".into(), "x".into())],
        names: vec!["cam-*".into()],
        role: Role::Device,
        write_patterns: vec!["cam/{device}".into()],
        read_patterns: Vec::new(),
    };
    catalog.add_token(&token).unwrap();
    assert!(catalog.add_token(&token).is_err());
    assert_eq!(catalog.token(&[5; 32]).unwrap().unwrap(), token);
    assert!(matches!(catalog.redeem_token(&[6; 32], NOW, &device(1, "a")), Err(RedeemError::Unknown)));
    let late = UnixMs(NOW.0 + 100);
    assert!(matches!(catalog.redeem_token(&[5; 32], late, &device(1, "a")), Err(RedeemError::Expired { .. })));
    catalog.redeem_token(&[5; 32], NOW, &device(1, "a")).unwrap();
    let taken = catalog.redeem_token(&[5; 32], NOW, &device(2, "a"));
    assert!(matches!(taken, Err(RedeemError::NameTaken(name)) if name == "a"));
    assert_eq!(catalog.tokens().unwrap()[0].uses_left, 1, "a refused use is none");
    catalog.redeem_token(&[5; 32], NOW, &device(2, "b")).unwrap();
    assert!(matches!(catalog.redeem_token(&[5; 32], NOW, &device(3, "c")), Err(RedeemError::UsedUp)));
    assert_eq!(catalog.device(&PublicKey([2; 32])).unwrap().unwrap(), device(2, "b"));
    assert!(catalog.remove_token(&[5; 32]).unwrap());
    assert!(!catalog.remove_token(&[5; 32]).unwrap());
}

pub(super) fn devices_keep_their_nonces(catalog: &dyn Catalog) {
    let key = PublicKey([1; 32]);
    catalog.add_device(&device(1, "a")).unwrap();
    assert!(catalog.swap_nonces(&key, &[], &[vec![1, 2]]).unwrap());
    assert!(!catalog.swap_nonces(&key, &[], &[vec![9]]).unwrap(), "someone was faster");
    let status = PeerStatus { release: "0.1.0".into(), backlog_bytes: u64::MAX, ..PeerStatus::default() };
    catalog.note_seen(&key, UnixMs(7), Some(&status)).unwrap();
    catalog.note_seen(&key, UnixMs(8), None).unwrap();
    catalog.add_device(&DeviceRecord { name: "a2".into(), ..device(1, "a") }).unwrap();
    catalog.set_certificate_expiry(&key, UnixMs(77)).unwrap();
    assert!(catalog.set_device_rights(&key, &vec![("site".into(), "y".into())], &[], &["all".into()]).unwrap());
    let found = catalog.device_named("a2").unwrap().unwrap();
    assert_eq!((found.nonces, found.last_seen_at, found.status), (vec![vec![1, 2]], Some(UnixMs(8)), status));
    assert_eq!((found.certificate_expires_at, found.labels[0].1.as_str()), (UnixMs(77), "y"));
    assert_eq!((found.write_patterns, found.read_patterns), (vec![], vec!["all".to_owned()]));

    assert!(catalog.revoke_device(&key, NOW).unwrap());
    assert!(catalog.revoke_device(&key, UnixMs(1)).unwrap(), "again changes nothing");
    assert_eq!(catalog.device(&key).unwrap().unwrap().state, DeviceState::Revoked(NOW));
    assert!(matches!(catalog.add_device(&device(1, "a3")), Err(RedeemError::Revoked)));
    catalog.add_device(&device(2, "a2")).unwrap();
    assert_eq!(catalog.device_named("a2").unwrap().unwrap().key, PublicKey([2; 32]), "the active one");
    assert_eq!(catalog.devices().unwrap().len(), 2);
    assert!(!catalog.revoke_device(&PublicKey([9; 32]), NOW).unwrap());
}
