//! `copal mount`: in the foreground, or by a process of its own that outlives the command.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::cli::args::{MountArgs, mode_option};
use crate::cli::location::Location;
use crate::cli::output::{self, parse_size};
use crate::cli::repository::{Found, Opened};
use crate::cli::secret::SecretArgs;
use crate::cli::server::{self, READY, Start};
use crate::cli::{logger, secret};
use crate::fuse::attributes::Ownership;
use crate::fuse::files::Files;
use crate::fuse::mountpoint::{holders, prepare};
use crate::fuse::overlay::{OverlayError, OverlayOptions};
use crate::fuse::session::{Access, MountOptions, Mounted, mount};
use crate::fuse::stats::{STATS_DIRECTORY, STATS_FILE, Stats};
use crate::fuse::tree::Scope;
use crate::repository::archives::Archive;
use crate::repository::reference::Reference;
use crate::storage::patient::REQUEST;

/// How long users of a mount may go on after a signal asked the server to end.
const GRACE: Duration = Duration::from_secs(10);
/// Of the time that a kernel gives a request, one read takes this share at most: all reads of a request, and its wait for a turn before, are as much
/// each as [`REQUEST`] reads, and as much as two is left over.
const KERNEL_SHARE: u32 = 2 * REQUEST + 2;
/// The longest storage timeout, in seconds.
pub(in crate::cli) const MOST_PATIENCE: u64 = 86_400;
/// Smallest cache: a span map and some of the longest chunks.
const MIN_CACHE: u64 = 16 << 20;
/// Smallest overlay: not even the smallest journal fits into less.
const MIN_OVERLAY: u64 = 1 << 20;

pub(in crate::cli) fn run(args: &MountArgs) -> anyhow::Result<()> {
    if let Some(directory) = &args.stats {
        return show_stats(directory);
    }
    let settings = Settings::of(args)?;
    let location = Location::parse(args.location.as_deref())?;
    if args.serve {
        return serve_in_background(&settings, &location);
    }
    prepare(&settings.directory, &location.repository)?;
    if args.foreground {
        server::begin_anew();
        endure_pressure();
        let (path, secrets) = (&location.repository, &settings.secrets);
        let found = Found::within(path, secrets, secrets.is_given(), settings.patience())?;
        let opened = found.ask_and_unlock(path, secrets)?;
        return serve(&settings, &location, opened)?.wait_for_end();
    }
    let found = Found::at(&location.repository, &settings.secrets, settings.secrets.is_given())?;
    let secret = if found.needs_secret() { Some(settings.secrets.get(&location.repository)?) } else { None };
    start_server(secret.as_ref())
}

/// Asks the server of a mount.
fn show_stats(directory: &Path) -> anyhow::Result<()> {
    let path = directory.join(STATS_DIRECTORY).join(STATS_FILE);
    let text = std::fs::read(&path).with_context(|| {
        format!(
            "{} is not where a repository is mounted: {} cannot be read",
            directory.display(),
            path.display()
        )
    })?;
    let stats: Stats = serde_json::from_slice(&text)
        .with_context(|| format!("{} was written by another version of Copal", path.display()))?;
    output::lines(stats.to_string().lines().map(str::to_owned))
}

/// Whether the options are well-formed.
pub(in crate::cli) fn understands(args: &MountArgs) -> bool {
    Settings::of(args).is_ok()
}

/// Arguments and `-o` options together.
#[derive(Debug, Clone)]
struct Settings {
    directory: PathBuf,
    /// What the mount table shows.
    source: String,
    access: Access,
    owner: Ownership,
    cache_size: u64,
    /// In seconds.
    storage_timeout: u64,
    secrets: SecretArgs,
    extra: Vec<String>,
    overlay: Option<OverlayOptions>,
}

impl Settings {
    fn of(args: &MountArgs) -> anyhow::Result<Self> {
        let access = match (args.allow_other, args.allow_root) {
            (true, _) => Access::Other,
            (_, true) => Access::Root,
            _ => Access::Owner,
        };
        let uid = args.uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        let gid = args.gid.unwrap_or_else(|| rustix::process::getegid().as_raw());
        let owner = Ownership { uid, gid, mode: args.mode };
        let secrets = args.secrets.clone();
        let source = String::from_utf8_lossy(args.location.as_deref().unwrap_or_default().as_bytes());
        let mut settings = Self {
            directory: args.directory.clone().unwrap_or_default(),
            source: source.into_owned(),
            access,
            owner,
            cache_size: args.cache_size,
            storage_timeout: args.storage_timeout,
            secrets,
            extra: Vec::new(),
            overlay: args.overlay.then(|| OverlayOptions {
                directory: args.overlay_dir.clone(),
                size: args.overlay_size,
                keep: args.keep_overlay.clone(),
            }),
        };
        for option in &args.options {
            settings.add(option).with_context(|| format!("mount option {option:?}"))?;
        }
        if settings.storage_timeout == 0 {
            bail!("a storage timeout of 0 seconds would fail every read");
        }
        if settings.storage_timeout > MOST_PATIENCE {
            bail!("a storage timeout is at most {MOST_PATIENCE} seconds, a day");
        }
        if settings.overlay.as_ref().is_some_and(|overlay| overlay.size < MIN_OVERLAY) {
            bail!("an overlay that small takes no journal; give --overlay-size at least 1M");
        }
        if settings.cache_size < MIN_CACHE {
            bail!("a cache of {} bytes is too small; give at least 16M", settings.cache_size);
        }
        Ok(settings)
    }

    /// How long a read of storage may take. A kernel that gives up requests would give up the whole mount: a request of it may have to wait
    /// for storage more than once.
    fn patience(&self) -> Duration {
        let asked = Duration::from_secs(self.storage_timeout);
        let limits = ["default", "max"].map(|which| format!("/proc/sys/fs/fuse/{which}_request_timeout"));
        let limits = limits.iter().filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
        let shortest = limits.filter(|seconds: &u64| *seconds > 0).min();
        shortest.map_or(asked, |seconds| asked.min(Duration::from_secs(seconds) / KERNEL_SHARE))
    }

    fn add(&mut self, option: &str) -> anyhow::Result<()> {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "allow_other" => self.access = Access::Other,
            "allow_root" => self.access = Access::Root,
            "uid" => self.owner.uid = value.parse()?,
            "gid" => self.owner.gid = value.parse()?,
            "mode" => self.owner.mode = mode_option(value).map_err(anyhow::Error::msg)?,
            "cache_size" => self.cache_size = parse_size(value).map_err(anyhow::Error::msg)?,
            "storage_timeout" => self.storage_timeout = value.parse()?,
            "passphrase_file" => self.secrets.passphrase_file = Some(value.into()),
            "key_file" => self.secrets.key_file = Some(value.into()),
            "" => {}
            // A mount is read-only whatever fstab's default says.
            "rw" => {}
            _ => self.extra.push(option.to_owned()),
        }
        Ok(())
    }
}

/// Starts this program again, with the arguments that it was given.
fn start_server(secret: Option<&crate::codec::slot_key::Secret>) -> anyhow::Result<()> {
    let words = crate::cli::args::from_mount_helper(std::env::args_os().collect());
    match server::start(words.into_iter().skip(1), secret)? {
        Start::Ready(_) => Ok(()),
        Start::Ended(code) => std::process::exit(code),
    }
}

/// The server: a session of its own, without terminal, current directory or standard streams once it is ready.
fn serve_in_background(settings: &Settings, location: &Location) -> anyhow::Result<()> {
    endure_pressure();
    let secret = secret::receive(std::io::stdin())?;
    let (path, patience) = (&location.repository, settings.patience());
    let found = Found::within(path, &settings.secrets, secret.is_some(), patience)?;
    let opened = found.unlock(secret.as_ref())?;
    drop(secret);
    let server = serve(settings, location, opened)?;
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    logger::to_syslog();
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    let mut stdout = std::io::stdout();
    stdout.write_all(READY)?;
    stdout.flush()?;
    rustix::stdio::dup2_stdout(&null)?;
    server.wait_for_end()
}

/// A served mount and the signals that end it.
struct Server {
    mounted: Mounted,
    signals: Signals,
}

fn serve(settings: &Settings, location: &Location, opened: Opened) -> anyhow::Result<Server> {
    opened.warn_of_lost();
    let path = prepare(&settings.directory, &location.repository)?;
    let options = MountOptions {
        scope: scope(location.reference.as_deref(), &opened.archives, settings.overlay.is_some())?,
        owner: settings.owner,
        access: settings.access,
        cache_size: usize::try_from(settings.cache_size)?,
        source: settings.source.clone(),
        extra: settings.extra.clone(),
        overlay: settings.overlay.clone(),
    };
    check_apart(&options, &location.repository)?;
    // Before the mount, so that a signal in between ends it too.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])?;
    let mounted = mount(&opened.repository, (opened.archives, opened.mark), &path, &options)
        .map_err(|error| explain(error, &options.extra))?;
    Ok(Server { mounted, signals })
}

/// Readers of the mount hang if its server does: where it may, it is served when memory is short, and not chosen to make room. Before the
/// repository is opened: that starts threads, which inherit this.
fn endure_pressure() {
    const OOM_SCORE: &str = "-500";
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        log::debug!("this process gets memory like any other: {error}");
    }
    // Each thread has a buffer that is long and hardly used.
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        log::debug!("this process may get huge pages: {error}");
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        log::debug!("this process may be ended when memory runs out: {error}");
    }
}

fn explain(error: crate::fuse::session::MountError, options: &[String]) -> anyhow::Error {
    let refused = format!("{:?}", std::error::Error::source(&error));
    let error = anyhow::Error::from(error);
    if refused.contains("user_allow_other") {
        return error.context("an ordinary user may use --allow-other and --allow-root only if /etc/fuse.conf says user_allow_other");
    }
    if refused.contains("EINVAL") || refused.contains("InvalidInput") || refused.contains("code: 22") {
        return error.context(format!("the system refuses one of the mount options {:?}", options.join(",")));
    }
    error
}

/// Refuses to write into the repository.
fn check_apart(options: &MountOptions, repository: &Path) -> anyhow::Result<()> {
    let Some(overlay) = &options.overlay else { return Ok(()) };
    let place = match &overlay.keep {
        Some(file) => file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        None => &overlay.directory,
    };
    let path =
        std::fs::canonicalize(place).map_err(|source| OverlayError::Io { path: place.to_owned(), source })?;
    if path.starts_with(std::fs::canonicalize(repository)?) {
        return Err(OverlayError::InRepository { path }.into());
    }
    Ok(())
}

/// What is shown; just one archive, the newest of its name, if it is to be writable.
fn scope(reference: Option<&str>, archives: &[Archive], writable: bool) -> anyhow::Result<Scope> {
    let Some(text) = reference else { return Ok(Scope::All) };
    let reference = Reference::parse(text)?;
    match reference.plain_name() {
        Some(name) if !writable && !reference.is_one_archive() => {
            reference.matches(archives)?;
            Ok(Scope::Name(name.to_owned()))
        }
        _ => Ok(Scope::Archive(reference.resolve(archives)?.id())),
    }
}

impl Server {
    /// Serves until the mount is gone. A signal takes the mount away; who still uses it after a time gets errors.
    fn wait_for_end(mut self) -> anyhow::Result<()> {
        let path = self.mounted.path().to_owned();
        let handle = self.signals.handle();
        let end = self.mounted.ender();
        let (serving, over) = channel();
        let files = self.mounted.files();
        let watcher = std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in self.signals.forever() {
                if signal != SIGUSR1 {
                    return end_on_signal(&path, signal, end, &over, &files);
                }
                logger::note(&files.stats().to_string());
            }
        })?;
        let ended = self.mounted.wait();
        drop(serving);
        handle.close();
        let _ = watcher.join();
        ended.context("serving the mount failed")
    }
}

/// Takes the mount away and waits until serving is `over`, which its channel's hanging up tells, or the users' time is.
fn end_on_signal(
    path: &Path,
    signal: i32,
    end: impl Fn() -> io::Result<()>,
    over: &Receiver<()>,
    files: &Files,
) {
    log::info!("signal {signal}: the mount on {} ends", path.display());
    let held_by = holders(path);
    if let Err(error) = end() {
        log::warn!("cannot unmount {}: {error}", path.display());
    }
    if over.recv_timeout(GRACE) == Err(RecvTimeoutError::Disconnected) {
        return;
    }
    log::warn!("{} is still in use by {}; they get errors from now on", path.display(), held_by.join(", "));
    files.sync_all();
    std::process::exit(0);
}
