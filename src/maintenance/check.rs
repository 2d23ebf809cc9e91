//! Checking: whether everything that is stored is what it should be, and which archives suffer where it is not. Writes nothing.
//!
//! Order: archives are listed, then packs and what is in them, then forwardings; so whatever a create publishes meanwhile is not missed, and
//! what a compaction moves is followed. Whatever is suspicious is looked at once more at the end, the way a reader would, before it is
//! reported: objects that vanish while a check runs are no damage.
//!
//! Memory: 4 bytes and a bit for each blob, some bytes for each map, and what is damaged; never a set of all ids.

pub mod archives;
pub mod index;
pub mod objects;
pub mod packs;
pub mod report;
pub mod subset;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::archives::Damage;
use self::index::{Index, Known, check_index};
use self::objects::{Ailing, Form, Objects, check_objects, recheck};
use self::packs::{AilingPack, BadBlob, Packs, Verified, check_packs, copies, verify};
use self::report::{DamagedArchive, Fault, Finding, Report, UnconfirmedArchive};
use self::subset::Subset;
use super::error::Result;
use super::live::Live;
use crate::codec::keys::BlobKind;
use crate::format::location::Location;
use crate::format::pack::PackKind;
use crate::format::record::ArchiveRecord;
use crate::id::{ArchiveId, BlobId, PackId, SessionId};
use crate::repository::Repository;
use crate::repository::archives::{Archive, Listing, LostArchive, chain, is_deleted, list_all, record_name};
use crate::repository::liveness::{ListedSession, Liveness, list_sessions};
use crate::repository::packs::{pack_name, reason};
use crate::repository::session::listed_packs;
use crate::storage::Storage;
use crate::task::{Monitor, Stop};

/// How long a put of the second of two copies may follow that of the first, where a session is running.
const BETWEEN_COPIES: Duration = Duration::from_secs(1);

/// Blobs, and a place of each.
pub type Places = BTreeMap<(BlobKind, BlobId), Location>;

/// What to check.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// Open every blob and recompute its id.
    pub verify_data: bool,
    /// Only a part of the packs has its blobs opened.
    pub subset: Option<Subset>,
    /// Only these archives, and of the blobs only what they need.
    pub archives: Option<Vec<ArchiveId>>,
}

/// All that a check found, a part of which only a repair needs.
#[derive(Debug)]
pub(super) struct Examined {
    pub(super) report: Report,
    pub(super) objects: Objects,
    pub(super) packs: Packs,
    /// Blobs that do not open in any copy of their pack.
    pub(super) bad: Vec<BadBlob>,
    /// Blobs that do not open in one copy of their pack.
    pub(super) bad_copies: Vec<BadBlob>,
    /// Blobs that are not where maps say, nor forwarded from there; and where they should be.
    pub(super) astray: Places,
    /// What archives lost, and where it should be.
    pub(super) lost: Places,
    /// Blobs that were missed, or given up earlier, and that the index leads to.
    pub(super) found: Places,
}

/// Checks a repository.
///
/// # Errors
/// [`Error`](super::Error) if it cannot be listed, or a signal came. Damage is part of the report.
pub fn check(
    repository: &Arc<Repository>,
    options: &CheckOptions,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<Report> {
    Ok(examine(repository, options, stop, monitor)?.report)
}

/// An archive and what its record says, where that can be read.
struct Listed {
    archive: Archive,
    record: std::result::Result<ArchiveRecord, String>,
}

pub(super) fn examine(
    repository: &Arc<Repository>,
    options: &CheckOptions,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<Examined> {
    let mut report = Report::default();
    let mut objects = check_objects(repository, stop)?;
    let Listing { archives: all, lost: missed, .. } = list_all(repository.objects())?;
    let listed = read_records(repository, &all, options)?;
    let packs = check_packs(repository, stop)?;
    let inventory = &packs.inventory;

    let mut live = Live::new(repository, inventory)?;
    let mut suspects: BTreeSet<(BlobKind, BlobId)> = BTreeSet::new();
    let mut broken = false;
    for record in listed.iter().filter_map(|listed| listed.record.as_ref().ok()) {
        stop.check()?;
        broken |= !live.add(record)?.is_empty();
    }
    suspects.extend(live.astray().keys());

    let verified = verify_data(repository, options, &packs, &live, &mut report, stop, monitor)?;
    let bad = bad_everywhere(repository, &packs, &verified.bad);
    let bad_places: HashSet<(PackId, u32)> =
        bad.iter().map(|blob| (inventory.packs()[blob.pack].id, blob.offset)).collect();
    suspects.extend(bad.iter().map(|blob| (blob.kind, blob.id)));
    broken |= !suspects.is_empty();
    let given_up = given_up(&objects);
    let wanted: BTreeSet<_> = suspects.iter().chain(given_up.iter()).copied().collect();

    let known = Known { inventory, suspects: &wanted, bad: &bad_places };
    let index = check_index(repository, &known, stop)?;

    let sessions = list_sessions(repository.objects())?;
    let mut lost = BTreeMap::new();
    if broken {
        let damage = || Damage::new(repository, inventory, &suspects, &index.found, &bad_places);
        (report.damaged, lost) = suffering(repository, &listed, &sessions, &damage, stop)?;
    } else {
        report.damaged.extend(listed.iter().filter_map(unreadable_record));
    }
    report.given_up.healed = given_up.iter().filter(|blob| index.found.contains_key(blob)).count() as u64;
    report.given_up.lost = given_up.len() as u64 - report.given_up.healed;

    let chosen = |id: &ArchiveId| options.archives.as_ref().is_none_or(|ids| ids.contains(id));
    for LostArchive { id, known, reason } in missed.into_iter().filter(|lost| chosen(&lost.id)) {
        let Some(known) = known else { continue };
        report.damaged.push(DamagedArchive { reason: Some(reason), ..damaged_archive(&known) });
        let reason = "an archive's record is gone; nothing says that the archive was deleted".to_owned();
        let fault = Fault::Object;
        report.findings.push(Finding { object: record_name(id), fault, reason, repairable: false });
    }
    confirm(repository, &sessions, &mut report, &mut objects, &listed)?;
    let judge = Judge { repository, sessions: &sessions, archives: &all, live: &live, packs: &packs };
    judge.objects(&objects, &mut report)?;
    let news: Places =
        lost.iter().filter(|(blob, _)| !given_up.contains(blob)).map(|(b, at)| (*b, *at)).collect();
    judge.packs(&verified, &bad, &news, &mut report)?;
    judge.index(index_findings(&index, &judge), &mut report);
    notes(&judge, &objects, &index, options, &mut report);
    report.checked.archives = listed.len() as u64;
    report.checked.objects.count = objects.checked.count + index.checked.count;
    report.checked.objects.bytes = objects.checked.bytes + index.checked.bytes;
    report.findings.sort();
    let found = index.found;
    let (astray, bad_copies) = (live.astray().clone(), verified.bad);
    Ok(Examined { report, objects, packs, bad, bad_copies, astray, lost, found })
}

fn read_records(repository: &Repository, all: &[Archive], options: &CheckOptions) -> Result<Vec<Listed>> {
    let wanted = |archive: &&Archive| options.archives.as_ref().is_none_or(|ids| ids.contains(&archive.id()));
    let mut listed = Vec::new();
    for archive in all.iter().filter(wanted) {
        let record = match repository.record(archive.id()) {
            // Deleted since it was listed.
            Err(error) if error.is_missing() => continue,
            Err(error) => Err(chain(&error)),
            Ok(record) => Ok(record),
        };
        listed.push(Listed { archive: archive.clone(), record });
    }
    Ok(listed)
}

/// Blobs that earlier repairs gave up, each once.
fn given_up(objects: &Objects) -> BTreeSet<(BlobKind, BlobId)> {
    let kind = |tag| BlobKind::from_tag(tag);
    objects.lost.iter().filter_map(|(_, blob)| Some((kind(blob.kind)?, blob.id))).collect()
}

/// Opens blobs, if that is asked for.
fn verify_data(
    repository: &Repository,
    options: &CheckOptions,
    packs: &Packs,
    live: &Live<'_>,
    report: &mut Report,
    stop: &Stop,
    monitor: &dyn Monitor,
) -> Result<Verified> {
    let inventory = &packs.inventory;
    for pack in inventory.packs() {
        report.checked.packs.add(pack.len);
    }
    if !options.verify_data {
        return Ok(Verified::default());
    }
    let limited = options.archives.is_some();
    let needed = |pack: &usize| !limited || live.of_pack(*pack).0 > 0;
    let mut numbers: Vec<usize> = (0..inventory.packs().len()).filter(needed).collect();
    let bytes = |number: &usize| {
        let pack = &inventory.packs()[*number];
        let held = if limited { live.of_pack(*number).1 } else { pack.len };
        held * copies(repository, pack.kind, pack.id).len() as u64
    };
    if let Some(subset) = options.subset {
        numbers = subset.choose(numbers, |number| (inventory.packs()[*number].id.0, bytes(number)));
    }
    // In the order of their names: neighbours in a directory are often neighbours on the disk.
    numbers.sort_by_key(|number| inventory.packs()[*number].id);
    monitor.total(numbers.iter().map(bytes).sum());
    let began = Instant::now();
    let wanted = |pack: usize, blob: usize| !limited || live.is_live(pack, blob);
    let verified = verify(repository, inventory, &numbers, &wanted, stop, monitor)?;
    report.checked.verified_packs = numbers.len() as u64;
    report.checked.verify_seconds = began.elapsed().as_secs_f64();
    report.checked.blobs.count = verified.blobs.load(Ordering::Relaxed);
    report.checked.blobs.bytes = verified.bytes.load(Ordering::Relaxed);
    Ok(verified)
}

/// Of the bad blobs those that no copy of their pack has whole; each once.
fn bad_everywhere(repository: &Repository, packs: &Packs, bad: &[BadBlob]) -> Vec<BadBlob> {
    let ailing: HashSet<PackId> = packs.ailing.iter().map(|pack| pack.id).collect();
    let mut copies_of: HashMap<(usize, u32), usize> = HashMap::new();
    for blob in bad {
        *copies_of.entry((blob.pack, blob.offset)).or_default() += 1;
    }
    let everywhere = |blob: &&BadBlob| {
        let pack = &packs.inventory.packs()[blob.pack];
        // A copy whose list cannot be read was not opened; a reader that has a hint would try it.
        let opened = copies(repository, pack.kind, pack.id).len() - usize::from(ailing.contains(&pack.id));
        copies_of.remove(&(blob.pack, blob.offset)).is_some_and(|count| count >= opened)
    };
    let mut everywhere = everywhere;
    bad.iter().filter(|blob| everywhere(blob)).copied().collect()
}

fn unreadable_record(listed: &Listed) -> Option<DamagedArchive> {
    let reason = listed.record.as_ref().err()?.clone();
    Some(DamagedArchive { reason: Some(reason), ..damaged_archive(&listed.archive) })
}

fn damaged_archive(archive: &Archive) -> DamagedArchive {
    DamagedArchive {
        id: archive.id(),
        name: Some(archive.name.clone()),
        time: Some(archive.time()),
        reason: None,
        members: Vec::new(),
    }
}

fn damaged(listed: &Listed, damage: &mut Damage<'_>) -> Result<Option<DamagedArchive>> {
    let Ok(record) = &listed.record else { return Ok(unreadable_record(listed)) };
    let members = damage.of(record)?;
    Ok((!members.is_empty()).then(|| DamagedArchive { members, ..damaged_archive(&listed.archive) }))
}

/// The damaged archives of those that are still there, and what they lost.
fn suffering<'a>(
    repository: &Repository,
    listed: &[Listed],
    sessions: &[ListedSession],
    damage: &dyn Fn() -> Damage<'a>,
    stop: &Stop,
) -> Result<(Vec<DamagedArchive>, Places)> {
    let running: HashSet<SessionId> =
        sessions.iter().filter(|session| !session.liveness.is_dead()).map(|session| session.id).collect();
    let mut there = still_there(repository, listed)?;
    loop {
        let mut damage = damage();
        let mut found = Vec::new();
        for listed in listed.iter().filter(|listed| there.contains(&listed.archive.id())) {
            stop.check()?;
            // A create that runs has not looked yet whether all it needs is still there.
            if !running.contains(&listed.archive.entry.session) {
                found.extend(damaged(listed, &mut damage)?);
            }
        }
        there = still_there(repository, listed)?;
        // Archives only go: this ends. One that went meanwhile has lost nothing.
        if found.iter().all(|damaged| there.contains(&damaged.id)) {
            return Ok((found, damage.lost()));
        }
    }
}

/// The archives that were neither deleted nor withdrawn meanwhile.
fn still_there(repository: &Repository, listed: &[Listed]) -> Result<HashSet<ArchiveId>> {
    let now: HashSet<ArchiveId> = repository.archives()?.iter().map(Archive::id).collect();
    Ok(listed.iter().map(|listed| listed.archive.id()).filter(|id| now.contains(id)).collect())
}

/// Looks once more at what is suspicious: what was deleted or finished meanwhile is no damage.
fn confirm(
    repository: &Repository,
    sessions: &[ListedSession],
    report: &mut Report,
    objects: &mut Objects,
    listed: &[Listed],
) -> Result<()> {
    if !objects.ailing.is_empty() {
        let again = |ailing: Vec<Ailing>| -> Vec<Ailing> {
            ailing.iter().filter_map(|ailing| recheck(repository, ailing)).collect()
        };
        objects.ailing = again(std::mem::take(&mut objects.ailing));
        let writing = sessions.iter().any(|session| !session.liveness.is_dead());
        if writing && objects.ailing.iter().any(|ailing| ailing.second_missing) {
            std::thread::sleep(BETWEEN_COPIES);
            objects.ailing = again(std::mem::take(&mut objects.ailing));
        }
    }
    // Records that no catalogue describes: listed only by their names.
    for ailing in objects.ailing.iter().filter(|ailing| !ailing.is_readable()) {
        let Form::Record(id) = ailing.form else { continue };
        let known = report.damaged.iter().any(|damaged| damaged.id == id);
        // Where its states cannot be read either, it may be there.
        if !known && !is_deleted(repository.objects(), id).unwrap_or(false) {
            let reason = Some(ailing.finding().reason);
            report.damaged.push(DamagedArchive { id, name: None, time: None, reason, members: Vec::new() });
        }
    }
    let liveness = |id: SessionId| sessions.iter().find(|session| session.id == id).map(|s| s.liveness);
    report.unconfirmed = listed
        .iter()
        .filter(|listed| listed.archive.unconfirmed)
        .map(|Listed { archive, .. }| {
            let session = liveness(archive.entry.session).map_or("changing", Liveness::as_str);
            UnconfirmedArchive { id: archive.id(), name: archive.name.clone(), session }
        })
        .collect();
    Ok(())
}

/// Turns what is wrong into findings, or into notes where nothing depends on it.
struct Judge<'a> {
    repository: &'a Repository,
    sessions: &'a [ListedSession],
    archives: &'a [Archive],
    live: &'a Live<'a>,
    packs: &'a Packs,
}

impl Judge<'_> {
    fn objects(&self, objects: &Objects, report: &mut Report) -> Result<()> {
        if objects.ailing.is_empty() {
            return Ok(());
        }
        let listed = listed_packs(self.repository.objects())?;
        for ailing in &objects.ailing {
            if ailing.second_missing && !self.is_relied_on(ailing, &listed) {
                report.notes.interrupted.push(ailing.name.to_string());
            } else {
                report.findings.push(ailing.finding());
            }
        }
        Ok(())
    }

    /// Whether something that was reported as done depends on an object whose second copy is not there. Puts and deletions that were
    /// interrupted leave such objects, and then nothing does.
    fn is_relied_on(&self, ailing: &Ailing, listed: &HashSet<PackId>) -> bool {
        let running = |id: Option<SessionId>| self.sessions.iter().any(|session| Some(session.id) == id);
        match ailing.form {
            Form::Config | Form::Slot(_) | Form::Lost => true,
            Form::Record(id) => {
                let archive = self.archives.iter().find(|archive| archive.id() == id);
                archive.is_some_and(|archive| !archive.unconfirmed)
            }
            Form::State(_) => !running(ailing.session),
            Form::Moved(pack) => !listed.contains(&pack),
            Form::Marker(_) | Form::Catalogue | Form::Session(_) | Form::Condemned | Form::Intent => false,
        }
    }

    fn packs(&self, verified: &Verified, bad: &[BadBlob], lost: &Places, report: &mut Report) -> Result<()> {
        let inventory = &self.packs.inventory;
        for pack in &self.packs.ailing {
            self.ailing_pack(pack, report);
        }
        for pack in inventory.unreadable() {
            // Swept since it was listed.
            let names = copies(self.repository, pack.kind, pack.id);
            let storage = self.repository.objects().storage();
            if names.iter().all(|name| storage.len(name).is_err_and(|error| is_gone(&error))) {
                continue;
            }
            let object = pack_name(pack.kind, pack.id).to_string();
            let reason = reason(&pack.error);
            report.findings.push(Finding { object, fault: Fault::PackList, reason, repairable: true });
        }
        self.bad_blobs(verified, bad, report);
        let listed = if lost.is_empty() { HashSet::new() } else { listed_packs(self.repository.objects())? };
        let mut missing: BTreeMap<(PackKind, PackId), u64> = BTreeMap::new();
        for ((kind, id), at) in lost {
            let pack = last_pack(self.repository, *kind, id, *at);
            if !listed.contains(&pack) {
                *missing.entry((PackKind::of(*kind), pack)).or_default() += 1;
            }
        }
        for ((kind, id), blobs) in missing {
            let object = pack_name(kind, id).to_string();
            let reason = format!("it is gone, and with it {blobs} blobs that archives need");
            report.findings.push(Finding { object, fault: Fault::PackMissing, reason, repairable: false });
        }
        Ok(())
    }

    fn ailing_pack(&self, pack: &AilingPack, report: &mut Report) {
        let objects = self.repository.objects();
        if objects.storage().len(&pack.good).is_err_and(|error| is_gone(&error)) {
            return;
        }
        let second_missing =
            pack.second_missing && objects.storage().len(&pack.copy).is_err_and(|error| is_gone(&error));
        if pack.second_missing && !second_missing {
            return;
        }
        let needed =
            self.packs.inventory.number(pack.id).is_none_or(|number| self.live.of_pack(number).0 > 0);
        if second_missing && !needed {
            report.notes.interrupted.push(pack.good.to_string());
            return;
        }
        let (object, reason) = (pack.copy.to_string(), pack.reason.clone());
        report.findings.push(Finding { object, fault: Fault::Copy, reason, repairable: true });
    }

    /// One finding for each copy of a pack that has bad blobs.
    fn bad_blobs(&self, verified: &Verified, bad: &[BadBlob], report: &mut Report) {
        let lost: HashSet<(usize, u32)> = bad.iter().map(|blob| (blob.pack, blob.offset)).collect();
        let mut copies_of: BTreeMap<(usize, usize), (u64, u64)> = BTreeMap::new();
        for blob in &verified.bad {
            let (count, lost_too) = copies_of.entry((blob.pack, blob.copy)).or_default();
            *count += 1;
            *lost_too += u64::from(lost.contains(&(blob.pack, blob.offset)));
        }
        for ((pack, copy), (count, lost_too)) in copies_of {
            let layout = &self.packs.inventory.packs()[pack];
            let names = copies(self.repository, layout.kind, layout.id);
            let Some(object) = names.get(copy).map(ToString::to_string) else { continue };
            let all = layout.blobs();
            let reason = format!("{count} of its {all} blobs are damaged");
            let fault = if lost_too == 0 { Fault::Copy } else { Fault::Blobs };
            report.findings.push(Finding { object, fault, reason, repairable: true });
        }
    }

    fn index(&self, findings: Vec<Finding>, report: &mut Report) {
        // A compaction may have replaced a segment since it was read.
        let storage = self.repository.objects().storage();
        let there = |finding: &Finding| {
            crate::storage::Name::new(&finding.object)
                .is_none_or(|name| !storage.len(&name).is_err_and(|error| is_gone(&error)))
        };
        report.findings.extend(findings.into_iter().filter(there));
    }
}

/// The pack at the end of a blob's forwardings.
fn last_pack(repository: &Repository, kind: BlobKind, id: &BlobId, at: Location) -> PackId {
    let mut seen = HashSet::from([at.pack.id]);
    let mut pack = at.pack.id;
    loop {
        let moved = repository.packs().forwardings(pack);
        let target = moved.iter().find_map(|moved| moved.forwarding.find(kind, id));
        match target.filter(|target| seen.insert(target.pack.id)) {
            Some(target) => pack = target.pack.id,
            None => return pack,
        }
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

/// What is wrong with the index, and packs that archives need and that it does not name.
fn index_findings(index: &Index, judge: &Judge<'_>) -> Vec<Finding> {
    let mut findings = index.findings.clone();
    for (number, pack) in judge.packs.inventory.packs().iter().enumerate() {
        if !index.named.contains(&pack.id) && judge.live.of_pack(number).0 > 0 {
            let object = pack_name(pack.kind, pack.id).to_string();
            let reason = "archives need it, but no index names it".to_owned();
            findings.push(Finding { object, fault: Fault::Index, reason, repairable: true });
        }
    }
    findings
}

fn notes(judge: &Judge<'_>, objects: &Objects, index: &Index, options: &CheckOptions, report: &mut Report) {
    let notes = &mut report.notes;
    notes.unknown_names = objects.unknown + index.unknown + judge.packs.unknown;
    notes.stale_entries = index.stale_entries;
    notes.interrupted.sort();
    if options.archives.is_some() {
        // Nobody knows what the other archives need.
        return;
    }
    for (number, pack) in judge.packs.inventory.packs().iter().enumerate() {
        let (live, bytes) = judge.live.of_pack(number);
        let all: u64 = (0..pack.blobs()).map(|blob| u64::from(pack.blob_len(blob))).sum();
        notes.unreferenced_blobs.count += (pack.blobs() - live) as u64;
        notes.unreferenced_blobs.bytes += all - bytes;
        if live == 0 {
            notes.unreferenced_packs.add(pack.len);
            if !index.named.contains(&pack.id) {
                notes.unindexed_packs.add(pack.len);
            }
        }
    }
    let ids: HashSet<ArchiveId> = judge.archives.iter().map(Archive::id).collect();
    let previous = judge.archives.iter().filter_map(|archive| archive.entry.previous);
    notes.broken_chains = previous.filter(|id| !ids.contains(id)).count() as u64;
}
