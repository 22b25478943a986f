//! The TUN device, with `struct virtio_net_hdr` before each packet (linux/if_tun.h,
//! linux/virtio_net.h): that is how super-packets go in and out.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::check;
use super::netlink::Netlink;
use crate::coalesce::{Joined, PacketSink, Preamble};
use crate::config::TunConfig;
use crate::counters::{LiveTunCounters, TunCounters, add};
use crate::error::Error;
use crate::packet::{TCP_CHECKSUM, UDP_CHECKSUM};
use crate::split::{Segmentation, SuperPacket};

const VNET_HEADER: usize = 10;
const F_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

/// Reads that may be unusable in a row before the device counts as empty.
const MAX_BAD_READS: usize = 16;

/// A TUN device: the mesh's network interface. It vanishes with the process.
#[derive(Debug)]
pub struct Tun {
    file: AsyncFd<File>,
    name: String,
    index: u32,
    udp_offload: bool,
    tcp_offload: bool,
    counters: LiveTunCounters,
}

/// Room for one read from a TUN device.
#[derive(Debug)]
pub struct TunReader {
    buffer: Box<[u8]>,
}

impl Default for TunReader {
    fn default() -> Self {
        Self::new()
    }
}

impl TunReader {
    /// Allocates 64 KiB.
    pub fn new() -> Self {
        Self { buffer: vec![0; VNET_HEADER + 65_536].into_boxed_slice() }
    }
}

impl Tun {
    /// Creates the interface; it is still down and has neither address nor route.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::NoTunDevice`], [`Error::NoPrivilege`], [`Error::TunNameTaken`],
    /// [`Error::TunNameInvalid`], or what else the system says.
    pub fn open(config: &TunConfig) -> Result<Self, Error> {
        let wanted = config.name.as_deref();
        let mut request = interface_request(wanted.unwrap_or("warren%d"), wanted.is_some())?;
        let file = open_driver()?;
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })
            .map_err(|error| refused(error, wanted))?;
        let name = name_of(&request);
        let tcp_offload = config.offload;
        let udp_offload = config.offload && set_offload(&file)?;
        let control = Control::new(&name)?;
        let index = control.index()?;
        set_queue_len(index, config.txqueue)?;
        // SAFETY: a `File` keeps one descriptor open until it is dropped, by the `AsyncFd`.
        let file = unsafe { AsyncFd::register(file) }
            .map_err(|error| Error::os("watch the TUN device", error.into()))?;
        let counters = LiveTunCounters::default();
        Ok(Self { file, name, index, udp_offload, tcp_offload, counters })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Sets the interface's MTU, at any time.
    ///
    /// # Errors
    ///
    /// What the system says, below 68 or without privilege.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), Error> {
        Control::new(&self.name)?.set_mtu(mtu)
    }

    /// The interface's MTU.
    ///
    /// # Errors
    ///
    /// What the system says, such as that the interface was deleted.
    pub fn mtu(&self) -> Result<u16, Error> {
        Control::new(&self.name)?.mtu()
    }

    /// What went through so far.
    pub fn counters(&self) -> TunCounters {
        self.counters.read()
    }

    /// Waits until there may be something to read.
    ///
    /// # Errors
    ///
    /// Only when the runtime shuts down.
    pub async fn readable(&self) -> io::Result<()> {
        self.file.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// Reads one packet or super-packet.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when there is nothing; anything else means that
    /// the interface is gone.
    pub fn try_recv<'a>(&self, reader: &'a mut TunReader) -> io::Result<SuperPacket<'a>> {
        for _ in 0..MAX_BAD_READS {
            let len = match self
                .file
                .try_io(Interest::READABLE, |mut file| file.read(&mut reader.buffer))
            {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if parse(&reader.buffer[..len]).is_none() {
                add(&self.counters.read_errors, 1);
                continue;
            }
            let packet = parse(&reader.buffer[..len]).expect("it parsed just before");
            add(&self.counters.reads, 1);
            add(&self.counters.segments_read, packet.segments());
            return Ok(packet);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Writes one whole IP packet as it is, such as an ICMP message of the daemon's own.
    pub fn send(&self, packet: &[u8]) {
        let preamble = [0; VNET_HEADER];
        PacketSink::write(self, &[IoSlice::new(&preamble), IoSlice::new(packet)], 1);
    }
}

impl PacketSink for Tun {
    fn joins(&self, udp: bool) -> bool {
        if udp { self.udp_offload } else { self.tcp_offload }
    }

    fn preamble(&self, joined: Option<&Joined>) -> Preamble {
        let mut header = [0; VNET_HEADER];
        if let Some(joined) = joined {
            let (kind, checksum) = match (joined.udp, joined.ipv6) {
                (true, _) => (GSO_UDP_L4, UDP_CHECKSUM),
                (false, false) => (GSO_TCPV4, TCP_CHECKSUM),
                (false, true) => (GSO_TCPV6, TCP_CHECKSUM),
            };
            header[0] = F_NEEDS_CSUM;
            header[1] = if joined.cwr { kind | GSO_ECN } else { kind };
            let fields = [joined.headers, joined.size, joined.transport, checksum];
            for (place, field) in header[2..].as_chunks_mut::<2>().0.iter_mut().zip(fields) {
                *place = (field as u16).to_ne_bytes();
            }
        }
        Preamble::new(&header)
    }

    fn write(&self, buffers: &[IoSlice<'_>], segments: usize) {
        // The device takes packets at once or never: its buffer isn't limited.
        let result = loop {
            match self.file.get_ref().write_vectored(buffers) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        match result {
            Ok(_) => {
                add(&self.counters.writes, 1);
                add(&self.counters.segments_written, segments);
            }
            Err(error) => {
                add(&self.counters.write_errors, segments);
                tracing::trace!(%error, segments, "the TUN device refused a packet");
            }
        }
    }
}

fn parse(read: &[u8]) -> Option<SuperPacket<'_>> {
    let (header, packet) = read.split_at_checked(VNET_HEADER)?;
    let field = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let (size, start, offset) = (field(4), field(6), field(8));
    let segmentation = match header[1] & !GSO_ECN {
        GSO_NONE if header[0] & F_NEEDS_CSUM != 0 => Segmentation::Checksum { start, offset },
        GSO_NONE => Segmentation::Complete,
        GSO_TCPV4 | GSO_TCPV6 => Segmentation::Tcp { start, size },
        GSO_UDP_L4 => Segmentation::Udp { start, size },
        _ => return None,
    };
    if packet.is_empty() {
        return None;
    }
    SuperPacket::new(packet, segmentation)
}

fn open_driver() -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Error::NoTunDevice,
            _ => Error::os("open /dev/net/tun", error),
        })
}

fn refused(error: io::Error, wanted: Option<&str>) -> Error {
    match (error.raw_os_error(), wanted) {
        // EINVAL: the name belongs to an interface that isn't a TUN.
        (Some(libc::EBUSY | libc::EEXIST | libc::EINVAL), Some(name)) => {
            Error::TunNameTaken { name: name.to_owned() }
        }
        (Some(libc::EPERM), _) => Error::NoPrivilege { action: "create a network interface" },
        _ => Error::os("create the TUN interface", error),
    }
}

/// Asks for TSO and, where the kernel (6.2 and later) has it, USO; tells whether it has.
fn set_offload(file: &File) -> Result<bool, Error> {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    let set = |flags: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes its flags by value.
        check(unsafe {
            libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags))
        })
    };
    if set(tcp | TUN_F_USO4 | TUN_F_USO6).is_ok() {
        return Ok(true);
    }
    set(tcp).map_err(|error| Error::os("switch on the TUN device's offloads", error))?;
    Ok(false)
}

/// By netlink: the ioctl wants privilege over the whole system, not over the namespace alone.
fn set_queue_len(index: u32, packets: u32) -> Result<(), Error> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::TxQueueLen(packets));
    Netlink::new()
        .and_then(|mut netlink| netlink.change(RouteNetlinkMessage::SetLink(link)))
        .map_err(|error| Error::os("set the TUN device's queue", error))
}

fn interface_request(name: &str, fixed: bool) -> Result<libc::ifreq, Error> {
    let valid = (1..libc::IFNAMSIZ).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && !(fixed && b == b'%'))
        && !matches!(name, "." | "..");
    if !valid {
        return Err(Error::TunNameInvalid { name: name.to_owned() });
    }
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    Ok(request)
}

fn name_of(request: &libc::ifreq) -> String {
    request.ifr_name.iter().take_while(|&&c| c != 0).map(|&c| char::from(c as u8)).collect()
}

/// A socket for the interface's ioctls (netdevice(7)).
struct Control {
    socket: OwnedFd,
    request: libc::ifreq,
}

impl Control {
    fn new(name: &str) -> Result<Self, Error> {
        let request = interface_request(name, true)?;
        // SAFETY: no pointers; the descriptor is ours alone.
        let fd =
            check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })
                .map_err(|error| Error::os("open a control socket", error))?;
        // SAFETY: `fd` was just opened and belongs to nobody else.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(fd) }, request })
    }

    fn call(
        &self,
        call: libc::c_ulong,
        action: &'static str,
        prepare: impl FnOnce(&mut libc::ifreq),
    ) -> Result<libc::ifreq, Error> {
        let mut request = self.request;
        prepare(&mut request);
        // SAFETY: all calls made here take one `ifreq`, read or written.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), call as _, &mut request) })
            .map_err(|error| Error::os(action, error))?;
        Ok(request)
    }

    fn index(&self) -> Result<u32, Error> {
        let request = self.call(libc::SIOCGIFINDEX, "find the TUN interface", |_| {})?;
        // SAFETY: SIOCGIFINDEX filled in this member.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex } as u32)
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), Error> {
        self.call(libc::SIOCSIFMTU, "set the TUN interface's MTU", |request| {
            request.ifr_ifru.ifru_mtu = i32::from(mtu);
        })
        .map(drop)
    }

    fn mtu(&self) -> Result<u16, Error> {
        let request = self.call(libc::SIOCGIFMTU, "read the TUN interface's MTU", |_| {})?;
        // SAFETY: SIOCGIFMTU filled in this member.
        Ok(u16::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(u16::MAX))
    }
}
