//! The command line: raw arguments → checked options → a call of the library. The only code that prints.

mod apart;
mod args;
mod commands;
mod disk;
mod exit;
mod inside;
mod location;
mod logger;
mod output;
mod private;
mod progress;
mod repository;
mod secret;
mod selection;
mod server;
mod signals;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use exit::Exit;

/// Runs the program with these arguments, the program's name first.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    logger::start();
    forbid_core_dumps();
    let cli = match Cli::try_parse_from(args::from_mount_helper(args.collect())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let failed = error.use_stderr();
            let _ = error.print();
            return if failed { Exit::Failed.into() } else { Exit::Done.into() };
        }
    };
    let result = match cli.command {
        Command::Init(args) => commands::init::run(&args),
        Command::Create(args) => commands::create::run(&args),
        Command::Copy(args) => commands::copy::run(&args),
        Command::List(args) => commands::list::run(&args),
        Command::Ls(args) => commands::ls::run(&args),
        Command::Cp(args) => commands::cp::run(&args),
        Command::Info(args) => commands::info::run(&args),
        Command::Diff(args) => commands::diff::run(&args),
        Command::Check(args) => commands::check::run(&args),
        Command::Extract(args) => commands::extract::run(&args),
        Command::Compact(args) => commands::compact::run(&args),
        Command::Mount(args) => commands::mount::run(&args),
        Command::Attach(args) => commands::attach::run(&args),
        Command::Attached(args) => commands::attached::run(&args),
        Command::Detach(args) => commands::detach::run(&args),
        Command::Umount(args) => commands::umount::run(&args),
        Command::Delete(args) => commands::delete::run(&args),
        Command::Undelete(args) => commands::undelete::run(&args),
        Command::Prune(args) => commands::prune::run(&args),
        Command::Rename(args) => commands::rename::run(&args),
        Command::Tag(args) => commands::tag::run(&args),
        Command::Key(args) => commands::key::run(&args),
    };
    match result {
        Ok(()) if logger::warnings() > 0 => Exit::Warnings.into(),
        Ok(()) => Exit::Done.into(),
        Err(error) => exit::report(&error).into(),
    }
}

/// Whether a command line with its location and mount options is well-formed; nothing is done or printed. For tests with hostile arguments.
#[doc(hidden)]
#[must_use]
pub fn understands(args: Vec<OsString>) -> bool {
    let Ok(cli) = Cli::try_parse_from(args::from_mount_helper(args)) else { return false };
    let parse =
        |argument: Option<&OsString>| location::Location::parse(argument.map(OsString::as_os_str)).is_ok();
    match cli.command {
        Command::Mount(args) => commands::mount::understands(&args) && parse(args.location.as_ref()),
        Command::Create(args) => parse(Some(&args.location)),
        Command::List(args) => parse(args.list.location.as_ref()),
        Command::Ls(args) => inside::Inside::parse(&args.location).is_ok(),
        Command::Cp(args) => args.words.first().is_some_and(|word| inside::Inside::parse(word).is_ok()),
        _ => true,
    }
}

/// Keys and passphrases must not end in a core file.
fn forbid_core_dumps() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}
