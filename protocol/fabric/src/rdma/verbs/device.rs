//! Devices, their ports, and the address by which peers reach one.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ptr::NonNull;

use ibverbs_sys as ffi;

use crate::settings::RdmaSettings;

/// A GID, written as the IPv6 address that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gid(pub [u8; 16]);

impl Gid {
    /// The IPv4 address in it, if it is made of one.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        Ipv6Addr::from(self.0).to_ipv4_mapped()
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ipv4() {
            Some(address) => address.fmt(f),
            None => Ipv6Addr::from(self.0).fmt(f),
        }
    }
}

/// Why there is no RDMA on this machine.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No device, or a kernel without the modules.
    #[error("this machine has no RDMA device")]
    NoDevice,
    /// The one in the settings is not there.
    #[error("there is no RDMA device `{name}`; there are: {}", there.join(", "))]
    NoSuchDevice {
        /// What was asked for.
        name: String,
        /// What there is.
        there: Vec<String>,
    },
    /// Nothing on the other end of the cable, or the port is switched off.
    #[error("no port of RDMA device {name} that may be used is active")]
    NoActivePort {
        /// The device.
        name: String,
    },
    /// The place in the table of GIDs holds none.
    #[error("port {port} of RDMA device {name} has no GID at {index}")]
    NoGid {
        /// The device.
        name: String,
        /// The port.
        port: u8,
        /// Where it was looked for; none for anywhere.
        index: String,
    },
    /// The system refuses.
    #[error("RDMA device {name} can't be used")]
    System {
        /// The device.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A device of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name, such as `mlx5_0` or `rxe0`.
    pub name: String,
    /// The number that its maker gave it.
    pub guid: Option<String>,
}

/// The RDMA devices of this machine: none where the kernel knows nothing of RDMA.
pub fn devices() -> Vec<Device> {
    let Ok(list) = ibverbs::devices() else { return Vec::new() };
    list.iter()
        .filter_map(|device| {
            let name = device.name()?.to_string_lossy().into_owned();
            let guid = device.guid().ok().map(|guid| format!("{guid:?}"));
            Some(Device { name, guid })
        })
        .collect()
}

/// An open device with the port and GID that are used, and a protection domain: memory and queues of one domain belong together.
pub struct Domain {
    context: NonNull<ffi::ibv_context>,
    protection: NonNull<ffi::ibv_pd>,
    name: String,
    port: u8,
    gid_index: u8,
    gid: Gid,
    why: String,
    pub(super) limits: Limits,
    pub(super) mtu: ffi::ibv_mtu,
    pub(super) lid: u16,
    pub(super) is_ethernet: bool,
    settings: RdmaSettings,
}

/// What a device bears.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) message_bytes: u64,
    pub(super) requests: u32,
    pub(super) pieces: u32,
    pub(super) completions: u32,
}

// SAFETY: verbs may be called from any thread; the library locks what is shared.
unsafe impl Send for Domain {}
// SAFETY: as above; fields are only read.
unsafe impl Sync for Domain {}

impl Domain {
    /// Opens the device that the settings name, or the first with an active port.
    pub fn open(settings: &RdmaSettings) -> Result<Self, DeviceError> {
        let list = DeviceList::get().ok_or(DeviceError::NoDevice)?;
        let names = list.names();
        let wanted: Vec<usize> = match &settings.device {
            None => (0..names.len()).collect(),
            Some(name) => names.iter().position(|there| there == name).into_iter().collect(),
        };
        let mut failure = match &settings.device {
            Some(name) if wanted.is_empty() => {
                return Err(DeviceError::NoSuchDevice { name: name.clone(), there: names });
            }
            _ => DeviceError::NoDevice,
        };
        for index in wanted {
            match Self::open_device(list.0[index], &names[index], settings) {
                Ok(domain) => return Ok(domain),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn open_device(device: *mut ffi::ibv_device, name: &str, settings: &RdmaSettings) -> Result<Self, DeviceError> {
        let failed = |source| DeviceError::System { name: name.to_owned(), source };
        // SAFETY: the device is one of a list that is not freed yet.
        let context = NonNull::new(unsafe { ffi::ibv_open_device(device) });
        let context = Context(context.ok_or_else(|| failed(io::Error::last_os_error()))?);
        let attributes = context.attributes().map_err(failed)?;
        let (port, port_attributes) = context
            .active_port(attributes.phys_port_cnt, settings.port)
            .ok_or_else(|| DeviceError::NoActivePort { name: name.to_owned() })?;
        let table = context.gids(port, port_attributes.gid_tbl_len);
        let (entry, why) = choose_gid(&table, settings.gid_index).ok_or_else(|| DeviceError::NoGid {
            name: name.to_owned(),
            port,
            index: settings.gid_index.map_or_else(|| "any place".to_owned(), |index| format!("place {index}")),
        })?;
        // SAFETY: the context is open.
        let protection = NonNull::new(unsafe { ffi::ibv_alloc_pd(context.0.as_ptr()) });
        let protection = protection.ok_or_else(|| failed(io::Error::last_os_error()))?;
        let positive = |value: i32| u32::try_from(value).unwrap_or(0);
        Ok(Self {
            protection,
            name: name.to_owned(),
            port,
            gid_index: entry.index,
            gid: entry.gid,
            why,
            limits: Limits {
                message_bytes: port_attributes.max_msg_sz.into(),
                requests: positive(attributes.max_qp_wr),
                pieces: positive(attributes.max_sge),
                completions: positive(attributes.max_cqe),
            },
            mtu: port_attributes.active_mtu,
            lid: port_attributes.lid,
            is_ethernet: u32::from(port_attributes.link_layer) == ffi::IBV_LINK_LAYER_ETHERNET,
            settings: settings.clone(),
            // Last, so that nothing above can fail with the context taken.
            context: context.keep(),
        })
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which port is used.
    pub const fn port(&self) -> u8 {
        self.port
    }

    /// By which address peers reach it, its place in the port's table, and why this one.
    pub fn gid(&self) -> (Gid, u8, &str) {
        (self.gid, self.gid_index, &self.why)
    }

    /// The settings with which it was opened.
    pub const fn settings(&self) -> &RdmaSettings {
        &self.settings
    }

    /// The most bytes that one request may move.
    pub const fn message_bytes_max(&self) -> u64 {
        self.limits.message_bytes
    }

    /// Whether its port is up.
    pub fn is_active(&self) -> bool {
        port_attributes(self.context, self.port).is_some_and(|port| port.state == ffi::ibv_port_state::IBV_PORT_ACTIVE)
    }

    pub(super) fn context(&self) -> *mut ffi::ibv_context {
        self.context.as_ptr()
    }

    pub(super) fn protection(&self) -> *mut ffi::ibv_pd {
        self.protection.as_ptr()
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({} port {} gid {} = {})", self.name, self.port, self.gid_index, self.gid)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: memory and queues keep their domain, so none is left; both were made by `open` and go in the reverse order.
        unsafe {
            ffi::ibv_dealloc_pd(self.protection.as_ptr());
            ffi::ibv_close_device(self.context.as_ptr());
        }
    }
}

/// A list of devices, freed when it goes.
struct DeviceList(Vec<*mut ffi::ibv_device>, *mut *mut ffi::ibv_device);

impl DeviceList {
    /// The list, or none where there is no device.
    fn get() -> Option<Self> {
        let mut count = 0;
        // A job may fork while a device knows its memory. Without this, a kernel before 5.12 lets the parent's next write move a page
        // away from where the device writes. A refusal changes nothing for who does not fork.
        // SAFETY: it is called before any memory is registered, and may be called again.
        let _ = unsafe { ffi::ibv_fork_init() };
        // SAFETY: the list is freed by `drop` alone; it ends after `count` pointers.
        unsafe {
            let list = ffi::ibv_get_device_list(&raw mut count);
            if list.is_null() {
                return None;
            }
            let count = usize::try_from(count).unwrap_or(0);
            let devices = std::slice::from_raw_parts(list, count).to_vec();
            let list = Self(devices, list);
            (count > 0).then_some(list)
        }
    }

    fn names(&self) -> Vec<String> {
        // SAFETY: the devices live as long as the list, and so do their names, which end with a zero byte.
        let name = |device: &*mut ffi::ibv_device| unsafe { CStr::from_ptr(ffi::ibv_get_device_name(*device)) };
        self.0.iter().map(|device| name(device).to_string_lossy().into_owned()).collect()
    }
}

impl Drop for DeviceList {
    fn drop(&mut self) {
        // SAFETY: it came from `ibv_get_device_list`; devices that are open stay.
        unsafe { ffi::ibv_free_device_list(self.1) };
    }
}

/// An open device that is closed unless somebody keeps it.
struct Context(NonNull<ffi::ibv_context>);

impl Context {
    fn keep(self) -> NonNull<ffi::ibv_context> {
        let context = self.0;
        std::mem::forget(self);
        context
    }

    fn attributes(&self) -> io::Result<ffi::ibv_device_attr> {
        let mut attributes = ffi::ibv_device_attr::default();
        // SAFETY: the context is open and the attributes are ours.
        match unsafe { ffi::ibv_query_device(self.0.as_ptr(), &raw mut attributes) } {
            0 => Ok(attributes),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    fn active_port(&self, ports: u8, wanted: Option<u8>) -> Option<(u8, ffi::ibv_port_attr)> {
        (1..=ports).filter(|port| wanted.is_none_or(|wanted| wanted == *port)).find_map(|port| {
            let attributes = port_attributes(self.0, port)?;
            (attributes.state == ffi::ibv_port_state::IBV_PORT_ACTIVE).then_some((port, attributes))
        })
    }

    fn gids(&self, port: u8, places: i32) -> Vec<GidEntry> {
        (0..u8::try_from(places).unwrap_or(u8::MAX))
            .filter_map(|index| {
                let mut entry = ffi::ibv_gid_entry::default();
                let entry_bytes = size_of::<ffi::ibv_gid_entry>();
                // SAFETY: the context is open, the entry is ours and as long as is said.
                let found = unsafe {
                    ffi::_ibv_query_gid_ex(self.0.as_ptr(), port.into(), index.into(), &raw mut entry, 0, entry_bytes)
                };
                // SAFETY: a GID is 16 bytes, whichever way one looks at them.
                let gid = Gid(unsafe { entry.gid.raw });
                (found == 0 && gid.0 != [0; 16]).then_some(GidEntry { index, gid, kind: entry.gid_type })
            })
            .collect()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it is open, and nothing was made from it.
        unsafe { ffi::ibv_close_device(self.0.as_ptr()) };
    }
}

fn port_attributes(context: NonNull<ffi::ibv_context>, port: u8) -> Option<ffi::ibv_port_attr> {
    let mut attributes = ffi::ibv_port_attr::default();
    // SAFETY: the context is open. The function fills no more than the attributes of the oldest version, a prefix of ours, and the
    // rest of ours is zero.
    let failed = unsafe { ffi::ibv_query_port(context.as_ptr(), port, (&raw mut attributes).cast()) };
    (failed == 0).then_some(attributes)
}

/// One place of a port's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GidEntry {
    index: u8,
    gid: Gid,
    kind: ffi::ibv_gid_type,
}

/// The GID to use, and why.
fn choose_gid(table: &[GidEntry], wanted: Option<u8>) -> Option<(GidEntry, String)> {
    if let Some(index) = wanted {
        return table.iter().find(|entry| entry.index == index).map(|entry| (*entry, "as configured".to_owned()));
    }
    let is_v2 = |entry: &&GidEntry| entry.kind == ffi::IBV_GID_TYPE_ROCE_V2;
    let preferred = table.iter().find(|entry| is_v2(entry) && entry.gid.ipv4().is_some());
    if let Some(entry) = preferred {
        return Some((*entry, "the first of RoCE v2 with an IPv4 address".to_owned()));
    }
    if let Some(entry) = table.iter().find(is_v2) {
        return Some((*entry, "the first of RoCE v2; none has an IPv4 address".to_owned()));
    }
    table.first().map(|entry| (*entry, "the first of the port; none is of RoCE v2".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u8, address: &str, kind: ffi::ibv_gid_type) -> GidEntry {
        let address: Ipv6Addr = address.parse().expect("an address");
        GidEntry { index, gid: Gid(address.octets()), kind }
    }

    #[test]
    fn the_gid_is_one_that_is_routed() {
        let v2 = ffi::IBV_GID_TYPE_ROCE_V2;
        let table = [
            entry(0, "fe80::1", 1),
            entry(1, "fe80::1", v2),
            entry(2, "::ffff:10.9.0.1", 1),
            entry(3, "::ffff:10.9.0.1", v2),
        ];
        let index = |table: &[GidEntry], wanted| choose_gid(table, wanted).map(|(entry, _)| entry.index);
        assert_eq!(index(&table, None), Some(3));
        assert_eq!(index(&table[..3], None), Some(1));
        assert_eq!(index(&table[..1], None), Some(0));
        assert_eq!(index(&table, Some(2)), Some(2));
        assert_eq!((index(&table, Some(9)), index(&[], None)), (None, None));
        assert_eq!(table[3].gid.to_string(), "10.9.0.1");
    }
}
