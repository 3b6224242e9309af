//! What is set of a container's sockets and what CRIU does not keep: options, and multicast groups.
//!
//! The source reads it while the container is frozen and puts it beside CRIU's images; the destination sets it
//! again when the container is restored, before any packet reaches it. Only what differs from a new socket's
//! travels: for most sockets that is nothing, and even that much less work in the outage.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::groups::{self, Group, Senders};
use super::known::{Form, Known};
use super::{Kind, each, option, take};
use crate::net::kernel::netns::{EnterError, in_netns};

/// Its file, beside CRIU's images.
const NAME: &str = "live-migration-sockets.json";

/// A file larger than this is not read: it would be of some 100,000 sockets, each with options of its own.
const MOST_BYTES: u64 = 32 << 20;

/// The longest option.
const MOST_OPTION_BYTES: usize = 40;

/// More losses than this are not listed.
const MOST_LOSSES: usize = 20;

/// What is set of a container's sockets.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    sockets: Vec<OfSocket>,
}

/// A socket is known by one of the processes that have it open; both numbers are those in the container, which
/// CRIU keeps.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OfSocket {
    process: i32,
    descriptor: i32,
    kind: [i32; 3],
    options: BTreeMap<String, Value>,
    groups: Vec<Membership>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Value {
    /// As the kernel gives it.
    Bytes(Vec<u8>),
    /// The name of an interface; none: of no interface.
    Interface(Option<String>),
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Membership {
    group: IpAddr,
    interface: String,
    senders: Senders,
}

/// The settings could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The container's network namespace cannot be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// A socket cannot be reached, or a file has failed.
    #[error("the options of sockets: {0}")]
    Io(#[from] io::Error),
}

impl Settings {
    /// Reads them from the sockets of `processes`, which should be frozen; `first` is the container's first
    /// process. Changes nothing. Blocks: some 50 µs for each socket.
    ///
    /// # Errors
    /// Without `CAP_SYS_PTRACE` and `CAP_SYS_ADMIN`, or if no process lives.
    pub fn read(processes: &[i32], first: i32) -> Result<Self, SettingsError> {
        let netns = format!("/proc/{first}/ns/net");
        let read = in_netns(Path::new(&netns), || {
            let (interfaces, joined) = (Interfaces::here(), groups::joined_by_any(first));
            let mut fresh: HashMap<Kind, Vec<Raw>> = HashMap::new();
            let mut sockets = Vec::new();
            each(processes, |socket| {
                let descriptor = socket.descriptor.as_fd();
                let (Some(kind), Some(process)) = (Kind::of(descriptor), number_inside(socket.pid))
                else {
                    return Ok(());
                };
                let usual = fresh.entry(kind).or_insert_with(|| {
                    let new = new_socket(kind);
                    let all =
                        new.map(|new| Known::all().map(|known| raw(new.as_fd(), known)).collect());
                    all.unwrap_or_default()
                });
                let options = changed(descriptor, kind, usual, &interfaces);
                let groups = groups::of(descriptor, kind, &joined).into_iter();
                let groups = groups.filter_map(|(group, senders)| {
                    let interface = interfaces.name(group.interface)?;
                    Some(Membership {
                        group: group.address,
                        interface,
                        senders,
                    })
                });
                let groups: Vec<Membership> = groups.collect();
                if !options.is_empty() || !groups.is_empty() {
                    sockets.push(OfSocket {
                        process,
                        descriptor: socket.number,
                        kind: [kind.family, kind.kind, kind.protocol],
                        options,
                        groups,
                    });
                }
                Ok(())
            })?;
            io::Result::Ok(Settings { sockets })
        })?;
        Ok(read?)
    }

    /// Writes them beside CRIU's `images`, if there are any. Undone with the images.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, images: &Path) -> Result<(), SettingsError> {
        if self.sockets.is_empty() {
            return Ok(());
        }
        std::fs::create_dir_all(images)?;
        let text = serde_json::to_vec(self).map_err(io::Error::from)?;
        Ok(File::create(images.join(NAME))?.write_all(&text)?)
    }

    /// Those beside CRIU's `images`; none if there is no such file. It comes from the peer.
    ///
    /// # Errors
    /// If the file cannot be read, is too large, or is something else.
    pub fn beside(images: &Path) -> Result<Self, SettingsError> {
        let file = match File::open(images.join(NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        let mut text = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MOST_BYTES {
            return Err(io::Error::other("too many").into());
        }
        Ok(serde_json::from_slice(&text).map_err(io::Error::from)?)
    }

    /// Sets them again on the sockets of `processes`, the restored container's. Returns what is lost, in sentences.
    /// Undone with the container. Blocks.
    ///
    /// # Errors
    /// As for [`Settings::read`].
    pub fn set(&self, processes: &[i32]) -> Result<BTreeSet<String>, SettingsError> {
        if self.sockets.is_empty() {
            return Ok(BTreeSet::new());
        }
        let gone = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no process of the container is there",
            )
        };
        let first = processes.first().ok_or_else(gone)?;
        let netns = format!("/proc/{first}/ns/net");
        let set = in_netns(Path::new(&netns), || {
            let interfaces = Interfaces::here();
            let by_number = processes.iter().map(|pid| (number_inside(*pid), *pid));
            let by_number: HashMap<Option<i32>, i32> = by_number.collect();
            let mut lost = BTreeSet::new();
            for of in &self.sockets {
                let pid = by_number.get(&Some(of.process)).copied();
                let socket = pid.and_then(|pid| take(pid, of.descriptor).ok());
                let what = match &socket {
                    Some(socket) => of.set(socket.as_fd(), &interfaces),
                    None => vec!["it is not there any more".to_owned()],
                };
                let program = pid.map(program).unwrap_or_default();
                lost.extend(what.into_iter().map(|what| {
                    format!("{program}: options of a socket are not set again: {what}")
                }));
            }
            lost.into_iter().take(MOST_LOSSES).collect()
        })?;
        Ok(set)
    }
}

impl OfSocket {
    /// Sets what is not set yet, and returns what could not be.
    fn set(&self, socket: BorrowedFd<'_>, interfaces: &Interfaces) -> Vec<String> {
        let kind = Kind::of(socket);
        if kind.map(|kind| [kind.family, kind.kind, kind.protocol]) != Some(self.kind) {
            return vec!["it is another one".to_owned()];
        }
        let mut lost = Vec::new();
        // In the order of the table: some options change others.
        let known = Known::all().filter(|known| self.options.contains_key(known.name));
        for known in known.clone() {
            if let Err(error) = set_option(socket, known, &self.options[known.name], interfaces) {
                lost.push(format!("{}: {error}", known.name));
            }
        }
        let has = |name: &&String| Known::named(name).is_none();
        lost.extend(
            self.options
                .keys()
                .filter(has)
                .map(|name| format!("{name}: not known here")),
        );
        for membership in &self.groups {
            if let Err(error) = membership.join(socket, interfaces) {
                lost.push(format!("group {}: {error}", membership.group));
            }
        }
        lost
    }
}

impl Membership {
    fn join(&self, socket: BorrowedFd<'_>, interfaces: &Interfaces) -> io::Result<()> {
        let interface = interfaces.number(&self.interface)?;
        let group = Group {
            address: self.group,
            interface,
        };
        groups::join(socket, &group, &self.senders)
    }
}

/// An option as the kernel gives it; none if it does not.
type Raw = Option<Vec<u8>>;

fn raw(socket: BorrowedFd<'_>, known: &Known) -> Raw {
    let mut buffer = [0; MOST_OPTION_BYTES];
    Some(read_into(&mut buffer, socket, known)?.to_vec())
}

fn read_into<'b>(
    buffer: &'b mut [u8; MOST_OPTION_BYTES],
    socket: BorrowedFd<'_>,
    known: &Known,
) -> Option<&'b [u8]> {
    let room = &mut buffer[..known.most_bytes()];
    let length = option::read(socket, known.level, known.number, room).ok()?;
    Some(&room[..length])
}

/// Those options of a socket that are not as `usual`, which has those of a new one in the order of the table. There may be
/// thousands of sockets: nothing is allocated for what is as usual.
fn changed(
    socket: BorrowedFd<'_>,
    kind: Kind,
    usual: &[Raw],
    interfaces: &Interfaces,
) -> BTreeMap<String, Value> {
    let (listens, mut buffer) = (listens(socket), [0; MOST_OPTION_BYTES]);
    let changed = Known::all().enumerate().filter_map(|(place, known)| {
        if !known.is_of(kind, listens) {
            return None;
        }
        let bytes = read_into(&mut buffer, socket, known)?;
        let usual = usual.get(place).and_then(Option::as_deref);
        if usual == Some(bytes) {
            return None;
        }
        Some((known.name.to_owned(), in_words(known, bytes, interfaces)?))
    });
    changed.collect()
}

/// None for an interface that nobody knows.
fn in_words(known: &Known, bytes: &[u8], interfaces: &Interfaces) -> Option<Value> {
    let number = || Some(i32::from_ne_bytes(bytes.try_into().ok()?));
    let interface = |number: i32| match number {
        0 => Some(Value::Interface(None)),
        number => Some(Value::Interface(Some(interfaces.name(number as u32)?))),
    };
    match known.form {
        Form::Bytes(_) => Some(Value::Bytes(bytes.to_vec())),
        Form::Interface => interface(number()?),
        Form::InterfaceInNetworkOrder => interface(i32::from_be(number()?)),
    }
}

fn listens(socket: BorrowedFd<'_>) -> bool {
    option::number(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == Some(1)
}

fn set_option(
    socket: BorrowedFd<'_>,
    known: &Known,
    wanted: &Value,
    interfaces: &Interfaces,
) -> io::Result<()> {
    let found = raw(socket, known).and_then(|bytes| in_words(known, &bytes, interfaces));
    if found.as_ref() == Some(wanted) {
        return Ok(());
    }
    let index = |name: &Option<String>| match name {
        Some(name) => interfaces.number(name),
        None => Ok(0),
    };
    let bytes = match (known.form, wanted) {
        (Form::Bytes(most), Value::Bytes(bytes)) if bytes.len() <= most => bytes.clone(),
        (Form::Interface, Value::Interface(name)) => index(name)?.to_ne_bytes().to_vec(),
        (Form::InterfaceInNetworkOrder, Value::Interface(name)) => {
            index(name)?.to_be_bytes().to_vec()
        }
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    option::set(socket, known.level, known.number, &bytes)
}

/// A socket as programs get it, in this thread's network namespace.
fn new_socket(kind: Kind) -> Option<OwnedFd> {
    // SAFETY: three numbers; touches no memory of ours.
    let made = unsafe { libc::socket(kind.family, kind.kind | libc::SOCK_CLOEXEC, kind.protocol) };
    // SAFETY: it is new, and nobody else's.
    (made >= 0).then(|| unsafe { OwnedFd::from_raw_fd(made) })
}

/// The interfaces of a network namespace: each host numbers them as it likes.
struct Interfaces(Vec<(u32, String)>);

impl Interfaces {
    /// Those of this thread's namespace.
    fn here() -> Self {
        let found = nix::net::if_::if_nameindex();
        let found = found.iter().flat_map(|found| found.iter());
        let named = found.map(|one| (one.index(), one.name().to_string_lossy().into_owned()));
        Interfaces(named.collect())
    }

    fn name(&self, number: u32) -> Option<String> {
        let mut found = self.0.iter();
        Some(found.find(|(index, _)| *index == number)?.1.clone())
    }

    fn number(&self, name: &str) -> io::Result<u32> {
        let mut found = self.0.iter();
        let found = found.find(|(_, known)| known == name);
        found.map(|(index, _)| *index).ok_or_else(|| {
            let what = format!("there is no interface {name:?}");
            io::Error::new(io::ErrorKind::NotFound, what)
        })
    }
}

/// The number of a process in its own namespace: the last one of proc_pid_status(5), `NSpid`.
fn number_inside(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_ascii_whitespace().next_back()?.parse().ok()
}

fn program(pid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;

    fn own() -> i32 {
        std::process::id() as i32
    }

    /// What was read of one of this process's sockets.
    fn of(settings: &Settings, socket: &impl AsRawFd) -> Option<BTreeMap<String, Value>> {
        let mut sockets = settings.sockets.iter();
        let found = sockets.find(|found| found.descriptor == socket.as_raw_fd())?;
        Some(found.options.clone())
    }

    #[test]
    fn only_what_was_set_is_read() {
        let ordinary = [
            TcpListener::bind("127.0.0.1:0"),
            TcpListener::bind("[::1]:0"),
        ];
        let ordinary: Vec<TcpListener> = ordinary.into_iter().flatten().collect();
        let connect = |listener: &TcpListener| {
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            [peer, listener.accept().unwrap().0]
        };
        let connections: Vec<[TcpStream; 2]> = ordinary.iter().map(connect).collect();
        let accepted = &connections[0][1];
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let Ok(before) = Settings::read(&[own()], own()) else {
            println!("skipped: needs CAP_SYS_ADMIN");
            return;
        };
        for listener in &ordinary {
            assert_eq!(of(&before, listener), None);
        }
        for connection in connections.as_flattened() {
            assert_eq!(of(&before, connection), None);
        }
        assert_eq!(of(&before, &datagrams), None);

        let set = |socket: &dyn AsFd, name: &str, value: i32| {
            let known = Known::named(name).unwrap();
            let value = value.to_ne_bytes();
            option::set(socket.as_fd(), known.level, known.number, &value).unwrap();
        };
        set(accepted, "TCP_USER_TIMEOUT", 7000);
        set(&datagrams, "IP_RECVTOS", 1);
        set(&datagrams, "IP_UNICAST_IF", 1_i32.to_be());
        let mut after = Settings::read(&[own()], own()).unwrap();
        // This process has sockets of other tests too.
        let own_sockets = [accepted.as_raw_fd(), datagrams.as_raw_fd()];
        after
            .sockets
            .retain(|socket| own_sockets.contains(&socket.descriptor));
        let timeout = Value::Bytes(7000_i32.to_ne_bytes().to_vec());
        let expected = BTreeMap::from([("TCP_USER_TIMEOUT".to_owned(), timeout)]);
        assert_eq!(of(&after, accepted), Some(expected));
        let found = of(&after, &datagrams).unwrap();
        assert_eq!(
            found["IP_UNICAST_IF"],
            Value::Interface(Some("lo".to_owned()))
        );
        assert_eq!(found.len(), 2, "{found:?}");

        // As a restore leaves them.
        set(accepted, "TCP_USER_TIMEOUT", 0);
        set(&datagrams, "IP_RECVTOS", 0);
        set(&datagrams, "IP_UNICAST_IF", 0);
        let dir = tempfile::tempdir().unwrap();
        after.write(dir.path()).unwrap();
        let arrived = Settings::beside(dir.path()).unwrap();
        let lost = arrived.set(&[own()]).unwrap();
        assert!(lost.is_empty(), "{lost:?}");
        let restored = Settings::read(&[own()], own()).unwrap();
        assert_eq!(of(&restored, accepted), of(&after, accepted));
        assert_eq!(of(&restored, &datagrams), of(&after, &datagrams));
    }

    #[test]
    fn what_cannot_be_set_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Settings::beside(dir.path()).unwrap(), Settings::default());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
        let of = OfSocket {
            process: number_inside(own()).unwrap(),
            descriptor: socket.as_raw_fd(),
            kind: [libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP],
            options: BTreeMap::from([
                ("IP_RECVTOS".to_owned(), bytes(&[1; 4])),
                ("IP_OF_TOMORROW".to_owned(), bytes(&[1])),
                ("IP_MTU_DISCOVER".to_owned(), bytes(&[99; 4])),
                ("IP_MINTTL".to_owned(), bytes(&[0; 999])),
                (
                    "IP_UNICAST_IF".to_owned(),
                    Value::Interface(Some("none7".to_owned())),
                ),
            ]),
            groups: Vec::new(),
        };
        let gone = OfSocket {
            process: -7,
            descriptor: 0,
            kind: of.kind,
            options: BTreeMap::new(),
            groups: Vec::new(),
        };
        let other = OfSocket {
            process: of.process,
            descriptor: of.descriptor,
            kind: [libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP],
            options: BTreeMap::new(),
            groups: Vec::new(),
        };
        let settings = Settings {
            sockets: vec![of, gone, other],
        };
        let Ok(lost) = settings.set(&[own()]) else {
            println!("skipped: needs CAP_SYS_ADMIN");
            return;
        };
        let lost = Vec::from_iter(lost).join("\n");
        for word in [
            "IP_OF_TOMORROW",
            "IP_MTU_DISCOVER",
            "IP_MINTTL",
            "none7",
            "not there",
            "another one",
        ] {
            assert!(lost.contains(word), "{word}: {lost}");
        }
        assert!(!lost.contains("IP_RECVTOS"), "{lost}");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", "[]", r#"{"sockets":[{"process":1}]}"#] {
            std::fs::write(dir.path().join(NAME), bad).unwrap();
            assert!(Settings::beside(dir.path()).is_err(), "{bad}");
        }
        let large = File::create(dir.path().join(NAME)).unwrap();
        large.set_len(MOST_BYTES + 1).unwrap();
        let error = Settings::beside(dir.path()).unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
    }
}
