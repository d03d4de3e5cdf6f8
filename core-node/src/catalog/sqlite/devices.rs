//! Devices and tokens in SQLite.

use headwater_protocol::id::PublicKey;
use headwater_protocol::name::Labels;
use headwater_protocol::trust::Role;
use headwater_protocol::wire::PeerStatus;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{Abort, SqliteCatalog, id_column, json, json_column, odd, refuse};
use crate::catalog::{CatalogError, DeviceRecord, DeviceState, DeviceTable, RedeemError, TokenRecord, UnixMs};

const DEVICE: &str = "SELECT key, name, labels, role, revoked_at, write_patterns, read_patterns, nonces,
        certificate_expires_at, joined_at, last_seen_at, release, backlog_bytes, oldest_unsent_s, disk_free_bytes,
        last_error FROM device";
const TOKEN: &str = "SELECT secret_hash, uses_left, expires_at, created_at, labels, names, role, write_patterns,
        read_patterns FROM token";

fn time_column(row: &Row<'_>, column: usize) -> rusqlite::Result<UnixMs> {
    Ok(UnixMs(row.get::<_, i64>(column)? as u64))
}

fn role_column(row: &Row<'_>, column: usize) -> rusqlite::Result<Role> {
    row.get_ref(column)?.as_str()?.parse().map_err(|_| odd(column, "no role"))
}

fn device_of(row: &Row<'_>) -> rusqlite::Result<DeviceRecord> {
    let state = match row.get::<_, Option<i64>>(4)? {
        None => DeviceState::Active,
        Some(at) => DeviceState::Revoked(UnixMs(at as u64)),
    };
    let status = PeerStatus {
        release: row.get(11)?,
        backlog_bytes: row.get::<_, i64>(12)? as u64,
        oldest_unsent_s: row.get::<_, i64>(13)? as u64,
        disk_free_bytes: row.get::<_, i64>(14)? as u64,
        last_error: row.get(15)?,
    };
    Ok(DeviceRecord {
        key: PublicKey(id_column(row, 0)?),
        name: row.get(1)?,
        labels: json_column(row, 2)?,
        role: role_column(row, 3)?,
        state,
        write_patterns: json_column(row, 5)?,
        read_patterns: json_column(row, 6)?,
        nonces: json_column(row, 7)?,
        certificate_expires_at: time_column(row, 8)?,
        joined_at: time_column(row, 9)?,
        last_seen_at: row.get::<_, Option<i64>>(10)?.map(|at| UnixMs(at as u64)),
        status,
    })
}

fn token_of(row: &Row<'_>) -> rusqlite::Result<TokenRecord> {
    Ok(TokenRecord {
        secret_hash: id_column(row, 0)?,
        uses_left: row.get(1)?,
        expires_at: time_column(row, 2)?,
        created_at: time_column(row, 3)?,
        labels: json_column(row, 4)?,
        names: json_column(row, 5)?,
        role: role_column(row, 6)?,
        write_patterns: json_column(row, 7)?,
        read_patterns: json_column(row, 8)?,
    })
}

fn find(tx: &Transaction<'_>, key: &PublicKey) -> rusqlite::Result<Option<DeviceRecord>> {
    tx.prepare_cached(&format!("{DEVICE} WHERE key = ?1"))?.query_row([key.0], device_of).optional()
}

fn put(tx: &Transaction<'_>, device: &DeviceRecord) -> rusqlite::Result<()> {
    let revoked_at = match device.state {
        DeviceState::Active => None,
        DeviceState::Revoked(at) => Some(at.0 as i64),
    };
    tx.execute(
        "INSERT OR REPLACE INTO device (key, name, labels, role, revoked_at, write_patterns, read_patterns, nonces,
             certificate_expires_at, joined_at, last_seen_at, release, backlog_bytes, oldest_unsent_s, disk_free_bytes,
             last_error)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        params![
            device.key.0,
            device.name,
            json(&device.labels),
            device.role.as_str(),
            revoked_at,
            json(&device.write_patterns),
            json(&device.read_patterns),
            json(&device.nonces),
            device.certificate_expires_at.0 as i64,
            device.joined_at.0 as i64,
            device.last_seen_at.map(|at| at.0 as i64),
            device.status.release,
            device.status.backlog_bytes as i64,
            device.status.oldest_unsent_s as i64,
            device.status.disk_free_bytes as i64,
            device.status.last_error
        ],
    )?;
    Ok(())
}

fn join(tx: &Transaction<'_>, device: &DeviceRecord) -> Result<(), Abort<RedeemError>> {
    let mut entered = device.clone();
    if let Some(known) = find(tx, &device.key)? {
        if known.state != DeviceState::Active {
            return refuse(RedeemError::Revoked);
        }
        entered.nonces = known.nonces;
        entered.joined_at = known.joined_at;
        entered.last_seen_at = known.last_seen_at;
        entered.status = known.status;
    }
    let mut taken = tx.prepare_cached("SELECT 1 FROM device WHERE name = ?1 AND key <> ?2 AND revoked_at IS NULL")?;
    if taken.exists(params![device.name, device.key.0])? {
        return refuse(RedeemError::NameTaken(device.name.clone()));
    }
    put(tx, &entered)?;
    Ok(())
}

impl DeviceTable for SqliteCatalog {
    fn device(&self, key: &PublicKey) -> Result<Option<DeviceRecord>, CatalogError> {
        self.read("read a device", |tx| find(tx, key))
    }

    fn device_named(&self, name: &str) -> Result<Option<DeviceRecord>, CatalogError> {
        self.read("read a device", |tx| {
            tx.prepare_cached(&format!(
                "{DEVICE} WHERE name = ?1 ORDER BY revoked_at IS NULL DESC, revoked_at DESC LIMIT 1"
            ))?
            .query_row([name], device_of)
            .optional()
        })
    }

    fn devices(&self) -> Result<Vec<DeviceRecord>, CatalogError> {
        self.read("list devices", |tx| {
            let mut statement = tx.prepare_cached(&format!("{DEVICE} ORDER BY name, key"))?;
            let rows = statement.query_map([], device_of)?;
            rows.collect()
        })
    }

    fn add_device(&self, device: &DeviceRecord) -> Result<(), RedeemError> {
        self.write("add a device", |tx| join(tx, device))
    }

    fn redeem_token(&self, secret_hash: &[u8; 32], now: UnixMs, device: &DeviceRecord) -> Result<(), RedeemError> {
        self.write("let a device join", |tx| {
            let found = tx
                .query_row("SELECT uses_left, expires_at FROM token WHERE secret_hash = ?1", [secret_hash], |row| {
                    Ok((row.get::<_, u32>(0)?, time_column(row, 1)?))
                })
                .optional()?;
            match found {
                None => refuse(RedeemError::Unknown),
                Some((_, at)) if at <= now => refuse(RedeemError::Expired { at }),
                Some((0, _)) => refuse(RedeemError::UsedUp),
                Some(_) => {
                    tx.execute("UPDATE token SET uses_left = uses_left - 1 WHERE secret_hash = ?1", [secret_hash])?;
                    join(tx, device)
                }
            }
        })
    }

    fn set_device_rights(
        &self,
        key: &PublicKey,
        labels: &Labels,
        write_patterns: &[String],
        read_patterns: &[String],
    ) -> Result<bool, CatalogError> {
        self.write("change a device's rights", |tx| {
            let changed = tx.execute(
                "UPDATE device SET labels = ?2, write_patterns = ?3, read_patterns = ?4 WHERE key = ?1",
                params![key.0, json(labels), json(&write_patterns), json(&read_patterns)],
            )?;
            Ok(changed == 1)
        })
    }

    fn revoke_device(&self, key: &PublicKey, at: UnixMs) -> Result<bool, CatalogError> {
        self.write("revoke a device", |tx| {
            let changed = tx.execute(
                "UPDATE device SET revoked_at = coalesce(revoked_at, ?2) WHERE key = ?1",
                params![key.0, at.0 as i64],
            )?;
            Ok(changed == 1)
        })
    }

    fn swap_nonces(&self, key: &PublicKey, expected: &[Vec<u8>], new: &[Vec<u8>]) -> Result<bool, CatalogError> {
        self.write("note a device's nonce", |tx| {
            let changed = tx.execute(
                "UPDATE device SET nonces = ?3 WHERE key = ?1 AND nonces = ?2",
                params![key.0, json(&expected), json(&new)],
            )?;
            Ok(changed == 1)
        })
    }

    fn set_certificate_expiry(&self, key: &PublicKey, expires_at: UnixMs) -> Result<(), CatalogError> {
        self.write("note a renewed certificate", |tx| {
            tx.execute(
                "UPDATE device SET certificate_expires_at = ?2 WHERE key = ?1",
                params![key.0, expires_at.0 as i64],
            )?;
            Ok(())
        })
    }

    fn note_seen(&self, key: &PublicKey, at: UnixMs, status: Option<&PeerStatus>) -> Result<(), CatalogError> {
        self.write("note that a device was heard of", |tx| {
            tx.execute("UPDATE device SET last_seen_at = ?2 WHERE key = ?1", params![key.0, at.0 as i64])?;
            if let Some(status) = status {
                tx.execute(
                    "UPDATE device SET release = ?2, backlog_bytes = ?3, oldest_unsent_s = ?4, disk_free_bytes = ?5,
                         last_error = ?6 WHERE key = ?1",
                    params![
                        key.0,
                        status.release,
                        status.backlog_bytes as i64,
                        status.oldest_unsent_s as i64,
                        status.disk_free_bytes as i64,
                        status.last_error
                    ],
                )?;
            }
            Ok(())
        })
    }

    fn add_token(&self, token: &TokenRecord) -> Result<(), CatalogError> {
        self.write("add a token", |tx| {
            tx.execute(
                "INSERT INTO token (secret_hash, uses_left, expires_at, created_at, labels, names, role, write_patterns,
                     read_patterns) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    token.secret_hash,
                    token.uses_left,
                    token.expires_at.0 as i64,
                    token.created_at.0 as i64,
                    json(&token.labels),
                    json(&token.names),
                    token.role.as_str(),
                    json(&token.write_patterns),
                    json(&token.read_patterns)
                ],
            )?;
            Ok(())
        })
    }

    fn token(&self, secret_hash: &[u8; 32]) -> Result<Option<TokenRecord>, CatalogError> {
        self.read("read a token", |tx| {
            tx.prepare_cached(&format!("{TOKEN} WHERE secret_hash = ?1"))?.query_row([secret_hash], token_of).optional()
        })
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>, CatalogError> {
        self.read("list tokens", |tx| {
            let mut statement = tx.prepare_cached(&format!("{TOKEN} ORDER BY created_at DESC, secret_hash"))?;
            let rows = statement.query_map([], token_of)?;
            rows.collect()
        })
    }

    fn remove_token(&self, secret_hash: &[u8; 32]) -> Result<bool, CatalogError> {
        self.write("remove a token", |tx| {
            Ok(tx.execute("DELETE FROM token WHERE secret_hash = ?1", [secret_hash])? == 1)
        })
    }
}
