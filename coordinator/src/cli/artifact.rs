//! `artifact`: makes, lists, checks and removes what is published.
//!
//! Owns the commands' arguments, their answers and what goes wrong. Main invariant: a version is listed only after
//! its pack is whole on disk; it is unlisted before its pack goes.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use lunar_artifact::archive::{ArchiveError, ArchiveReader, Kind, NotKept};
use lunar_artifact::build::{BuildError, Progress};
use lunar_artifact::{Pack, PackError, PackReader, build, measure};
use lunar_common::ids::{ArtifactId, ArtifactName, Version};
use lunar_common::manifest::{Content, Manifest};
use lunar_common::time::WallTime;
use lunar_host::clock;
use lunar_host::exit::{Exit, Failure, OrExit};
use serde::Serialize;

use super::{CommandResult, Common, Output, Table};
use crate::catalogue::{Catalogue, CatalogueError, Release};

/// Makes, lists, checks and removes artifacts.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ArtifactCommand {
    /// Makes an artifact of a directory or a file and publishes it under a name and version.
    ///
    /// A directory becomes one canonical archive: the same tree gives the same id on any machine. Owners
    /// (as numbers), modes, links, names of any bytes, file capabilities and user.* attributes are kept; times are
    /// not, and other extended attributes are named in a warning. Devices, pipes, sockets and links that leave
    /// the directory are refused.
    #[command(
        after_help = "Examples:\n  lunar-coordinator artifact add ./web --name web --version 2.0\n  lunar-coordinator artifact add ./web --name web --version 2.0 --dry-run"
    )]
    Add {
        /// The directory or file.
        source: PathBuf,
        /// What it is called.
        #[arg(long)]
        name: ArtifactName,
        /// Which version it is.
        #[arg(long)]
        version: Version,
        /// Tell the id and the sizes; write nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Lists what is published.
    #[command(
        after_help = "Examples:\n  lunar-coordinator artifact list\n  lunar-coordinator artifact list --output json"
    )]
    List,
    /// Shows one artifact.
    #[command(after_help = "Examples:\n  lunar-coordinator artifact show web@2.0")]
    Show {
        /// NAME@VERSION, or the beginning of an id.
        which: String,
    },
    /// Reads artifacts through and checks every byte against its manifest.
    #[command(
        after_help = "Examples:\n  lunar-coordinator artifact verify\n  lunar-coordinator artifact verify web@2.0"
    )]
    Verify {
        /// NAME@VERSION, or the beginning of an id; everything if not given.
        which: Vec<String>,
    },
    /// Takes a version away, and its bytes if no other version has the same.
    #[command(
        after_help = "Examples:\n  lunar-coordinator artifact remove web@1.0 --dry-run\n  lunar-coordinator artifact remove web@1.0"
    )]
    Remove {
        /// NAME@VERSION, or the beginning of an id.
        which: String,
        /// Tell what would go; remove nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

impl ArtifactCommand {
    pub(super) fn run(self, common: &Common) -> CommandResult {
        let output = common.output;
        match self {
            Self::Add { source, name, version, dry_run } => {
                add(&common.home, &source, name, version, dry_run, output)
            }
            Self::List => list(&open(&common.home)?, output),
            Self::Show { which } => show(&open(&common.home)?, &which, output),
            Self::Verify { which } => verify(&open(&common.home)?, &which, output),
            Self::Remove { which, dry_run } => remove(&open(&common.home)?, &which, dry_run, output),
        }
    }
}

#[derive(Serialize)]
struct Added {
    #[serde(flatten)]
    release: Release,
    /// Whether the name and version are new.
    new: bool,
    dry_run: bool,
    /// Extended attributes of the source that are not in it: `PATH: NAME`, the first ones.
    attributes_not_kept: Vec<String>,
}

fn add(
    home: &Path,
    source: &Path,
    name: ArtifactName,
    version: Version,
    dry_run: bool,
    output: Output,
) -> CommandResult {
    let bar = Bar::new("packing", output);
    let progress = |progress: Progress| bar.at(progress.done, progress.total);
    let (built, catalogue) = if dry_run {
        // Nothing is made, not even the directory that a first `add` would make.
        let catalogue = home.join("artifacts").is_dir().then(|| open(home)).transpose()?;
        (measure(source, progress).map_err(building)?, catalogue)
    } else {
        let catalogue = open(home)?;
        (build(source, catalogue.packs(), progress).map_err(building)?, Some(catalogue))
    };
    bar.done();
    let release = Release::of(&built, name, version, clock::wall());
    let new = match &catalogue {
        Some(catalogue) if dry_run => {
            catalogue.refuse_other(&release).map_err(cataloguing)?;
            catalogue.find(&release.name, &release.version).map_err(cataloguing)?.is_none()
        }
        Some(catalogue) => catalogue.add(&release).map_err(|error| taken(catalogue, &release, error))?,
        None => true,
    };
    let NotKept { first, count } = &built.not_kept;
    let attributes_not_kept: Vec<String> =
        first.iter().map(|(path, name)| format!("{}: {name}", path.display())).collect();
    for attribute in &attributes_not_kept {
        tracing::warn!(%attribute, "an extended attribute is not kept");
    }
    if *count > first.len() {
        tracing::warn!(count = count - first.len(), "more extended attributes are not kept");
    }
    output.print(&Added { release, new, dry_run, attributes_not_kept }, |added| {
        let Release { name, version, id, bytes, frame_bytes, chunks, .. } = &added.release;
        let what = match (added.dry_run, added.new) {
            (true, true) => "would publish",
            (true, false) => "is published already:",
            (false, true) => "published",
            (false, false) => "was published already:",
        };
        format!(
            "{what} {name} {version}\nid      {id}\ncontent {}\nframes  {} in {chunks} chunks",
            HumanBytes(*bytes),
            HumanBytes(*frame_bytes)
        )
    })?;
    Ok(Exit::Ok)
}

/// A pack that was just made under a name that is taken goes again, unless a release has it.
fn taken(catalogue: &Catalogue, release: &Release, error: CatalogueError) -> Failure {
    if matches!(error, CatalogueError::Taken { .. }) {
        let used = catalogue.list().map_or(true, |all| all.iter().any(|other| other.id == release.id));
        if !used {
            // Bytes that nobody names are only room that is lost; `list` shows them.
            let _ = catalogue.packs().remove(release.id);
        }
    }
    cataloguing(error)
}

/// One line of `list`: a release, or a pack that no release names.
#[derive(Serialize)]
struct Listed {
    name: Option<ArtifactName>,
    version: Option<Version>,
    id: ArtifactId,
    bytes: Option<u64>,
    frame_bytes: Option<u64>,
    chunks: Option<usize>,
    added: Option<WallTime>,
    /// Whether every chunk is there.
    complete: bool,
}

impl Listed {
    fn of(release: Release, complete: bool) -> Self {
        Self {
            name: Some(release.name),
            version: Some(release.version),
            id: release.id,
            bytes: Some(release.bytes),
            frame_bytes: Some(release.frame_bytes),
            chunks: Some(release.chunks),
            added: Some(release.added),
            complete,
        }
    }

    fn unnamed(id: ArtifactId, complete: bool) -> Self {
        let (name, version, bytes, frame_bytes, chunks, added) = (None, None, None, None, None, None);
        Self { name, version, id, bytes, frame_bytes, chunks, added, complete }
    }
}

fn listed(catalogue: &Catalogue) -> Result<Vec<Listed>, Failure> {
    let releases = catalogue.list().map_err(cataloguing)?;
    let held = catalogue.packs().list().map_err(packing)?;
    let complete = |id| held.iter().any(|held| held.id == id && held.complete);
    let unnamed: Vec<Listed> = held
        .iter()
        .filter(|held| releases.iter().all(|release| release.id != held.id))
        .map(|held| Listed::unnamed(held.id, held.complete))
        .collect();
    let named = releases.into_iter().map(|release| {
        let complete = complete(release.id);
        Listed::of(release, complete)
    });
    Ok(named.chain(unnamed).collect())
}

fn list(catalogue: &Catalogue, output: Output) -> CommandResult {
    output.print(&listed(catalogue)?, |all| {
        if all.is_empty() {
            return "nothing is published: see `artifact add --help`".to_owned();
        }
        let mut table = Table::new(&["name", "version", "id", "content", "frames", "chunks", "added", ""]);
        for line in all {
            table.row([
                or_dash(line.name.as_ref()),
                or_dash(line.version.as_ref()),
                format!("{:.16}", line.id),
                or_dash(line.bytes.map(HumanBytes)),
                or_dash(line.frame_bytes.map(HumanBytes)),
                or_dash(line.chunks),
                or_dash(line.added),
                if line.complete { String::new() } else { "incomplete".to_owned() },
            ]);
        }
        table.to_string()
    })?;
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Shown {
    id: ArtifactId,
    names: Vec<Release>,
    content: Content,
    bytes: u64,
    frame_bytes: u64,
    chunks: usize,
    pack: PathBuf,
    complete: bool,
    /// Frame bytes it shares with each other artifact here: what an upgrade from that one need not fetch.
    shared: Vec<Shared>,
}

#[derive(Serialize)]
struct Shared {
    with: ArtifactId,
    names: Vec<String>,
    frame_bytes: u64,
}

fn show(catalogue: &Catalogue, which: &str, output: Output) -> CommandResult {
    let id = resolve(catalogue, which)?.id;
    let releases = catalogue.list().map_err(cataloguing)?;
    let manifest = manifest_of(catalogue, id)?;
    let mut shared = Vec::new();
    for held in catalogue.packs().list().map_err(packing)? {
        if held.id != id {
            let frame_bytes = shared_bytes(&manifest, &manifest_of(catalogue, held.id)?);
            shared.push(Shared { with: held.id, names: names_of(&releases, held.id), frame_bytes });
        }
    }
    shared.retain(|shared| shared.frame_bytes > 0);
    let shown = Shown {
        id,
        names: releases.into_iter().filter(|release| release.id == id).collect(),
        content: manifest.content,
        bytes: manifest.bytes,
        frame_bytes: manifest.frame_bytes(),
        chunks: manifest.chunks.len(),
        pack: catalogue.packs().path().join(format!("{id}.pack")),
        complete: catalogue
            .packs()
            .list()
            .map_err(packing)?
            .iter()
            .any(|held| held.id == id && held.complete),
        shared,
    };
    output.print(&shown, |shown| {
        let mut lines = vec![format!("id       {}", shown.id)];
        for release in &shown.names {
            lines.push(format!("name     {} {}, added {}", release.name, release.version, release.added));
        }
        lines.push(format!(
            "content  {} of {}",
            HumanBytes(shown.bytes),
            match shown.content {
                Content::Tree => "archived tree",
                Content::File => "one file",
            }
        ));
        lines.push(format!("frames   {} in {} chunks", HumanBytes(shown.frame_bytes), shown.chunks));
        let state = if shown.complete { "" } else { " (incomplete)" };
        lines.push(format!("pack     {}{state}", shown.pack.display()));
        for shared in &shown.shared {
            let with = shared.names.first().cloned().unwrap_or_else(|| format!("{:.16}", shared.with));
            lines.push(format!("shares   {} of frames with {with}", HumanBytes(shared.frame_bytes)));
        }
        lines.join("\n")
    })?;
    Ok(Exit::Ok)
}

fn shared_bytes(of: &Manifest, with: &Manifest) -> u64 {
    let known: std::collections::BTreeSet<_> = with.chunks.iter().map(|chunk| chunk.frame).collect();
    let shared = of.chunks.iter().filter(|chunk| known.contains(&chunk.frame));
    shared.map(|chunk| u64::from(chunk.frame_bytes)).sum()
}

#[derive(Serialize)]
struct Verified {
    id: ArtifactId,
    names: Vec<String>,
    /// Whether every byte is what the manifest says.
    intact: bool,
    /// Chunks that are damaged.
    damaged: Vec<u32>,
    /// What else is wrong.
    problem: Option<String>,
    entries: usize,
}

fn verify(catalogue: &Catalogue, which: &[String], output: Output) -> CommandResult {
    let releases = catalogue.list().map_err(cataloguing)?;
    let mut ids = Vec::new();
    if which.is_empty() {
        ids.extend(catalogue.packs().list().map_err(packing)?.into_iter().map(|held| held.id));
        ids.extend(releases.iter().map(|release| release.id));
        ids.sort_unstable();
        ids.dedup();
    }
    for which in which {
        ids.push(resolve(catalogue, which)?.id);
    }
    let mut verified = Vec::new();
    for id in ids {
        verified.push(verify_one(catalogue, id, names_of(&releases, id), output)?);
    }
    let intact = verified.iter().all(|one| one.intact);
    output.print(&verified, |all| {
        let lines = all.iter().map(|one| {
            let name = one.names.first().cloned().unwrap_or_else(|| format!("{:.16}", one.id));
            match (&one.problem, one.damaged.len()) {
                (Some(problem), _) => format!("{name}: {problem}"),
                (None, 0) => format!("{name}: intact"),
                (None, damaged) => format!("{name}: {damaged} chunks are damaged: `artifact add` it again"),
            }
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(if intact { Exit::Ok } else { Exit::NotHeld })
}

fn verify_one(
    catalogue: &Catalogue,
    id: ArtifactId,
    names: Vec<String>,
    output: Output,
) -> Result<Verified, Failure> {
    let mut verified = Verified { id, names, intact: false, damaged: Vec::new(), problem: None, entries: 0 };
    let pack = match catalogue.packs().get_complete(id) {
        Ok(pack) => pack,
        Err(
            error @ (PackError::NotThere { .. } | PackError::Incomplete { .. } | PackError::Manifest { .. }),
        ) => {
            verified.problem = Some(Failure::new(Exit::NotHeld, error).to_string());
            return Ok(verified);
        }
        Err(error) => return Err(packing(error)),
    };
    let bar = Bar::new("verifying", output);
    verified.damaged = pack.damaged(|read| bar.at(read, pack.frame_bytes())).map_err(packing)?;
    if verified.damaged.is_empty() {
        match read_through(&pack) {
            Ok(entries) => verified.entries = entries,
            Err(error) => verified.problem = Some(Failure::new(Exit::NotHeld, error).to_string()),
        }
    }
    bar.done();
    verified.intact = verified.damaged.is_empty() && verified.problem.is_none();
    Ok(verified)
}

/// Reads the content of a pack to its end, and if it is a tree, checks that it could be unpacked. Returns
/// how many entries it has.
fn read_through(pack: &Pack) -> Result<usize, ArchiveError> {
    let mut reader = PackReader::new(pack).map_err(ArchiveError::Stream)?;
    match pack.manifest().content {
        Content::File => {
            io::copy(&mut reader, &mut io::sink()).map_err(ArchiveError::Stream)?;
            Ok(1)
        }
        Content::Tree => {
            let mut archive = ArchiveReader::new(reader);
            let mut entries = 0;
            while let Some(entry) = archive.next_entry()? {
                entries += usize::from(entry.kind != Kind::Directory);
            }
            Ok(entries)
        }
    }
}

#[derive(Serialize)]
struct Removed {
    id: ArtifactId,
    names: Vec<String>,
    /// Whether the bytes went too.
    pack: bool,
    dry_run: bool,
}

fn remove(catalogue: &Catalogue, which: &str, dry_run: bool, output: Output) -> CommandResult {
    let found = resolve(catalogue, which)?;
    let releases = catalogue.list().map_err(cataloguing)?;
    let (going, staying): (Vec<_>, Vec<_>) =
        releases.into_iter().filter(|release| release.id == found.id).partition(|release| {
            found
                .release
                .as_ref()
                .is_none_or(|(name, version)| (&release.name, &release.version) == (name, version))
        });
    let removed = Removed {
        id: found.id,
        names: going.iter().map(full_name).collect(),
        pack: staying.is_empty(),
        dry_run,
    };
    if !dry_run {
        for release in &going {
            catalogue.forget(release).map_err(cataloguing)?;
        }
        if removed.pack {
            catalogue.packs().remove(found.id).map_err(packing)?;
        }
    }
    output.print(&removed, |removed| {
        let would = if removed.dry_run { "would remove" } else { "removed" };
        let names = match removed.names.as_slice() {
            [] => format!("{:.16}", removed.id),
            names => names.join(", "),
        };
        let kept = if removed.pack { "" } else { "; its bytes stay, another version has the same" };
        format!("{would} {names}{kept}")
    })?;
    Ok(Exit::Ok)
}

/// What an argument means: an artifact, and the release if it named one.
struct Found {
    id: ArtifactId,
    release: Option<(ArtifactName, Version)>,
}

fn resolve(catalogue: &Catalogue, which: &str) -> Result<Found, Failure> {
    let unknown = |what: String| {
        Failure::new(Exit::BadInput, anyhow::anyhow!("{what}")).advise("`artifact list` shows what there is")
    };
    if let Some((name, version)) = which.split_once('@') {
        let name: ArtifactName = name.parse().or_exit(Exit::BadInput)?;
        let version: Version = version.parse().or_exit(Exit::BadInput)?;
        return match catalogue.find(&name, &version).map_err(cataloguing)? {
            Some(release) => Ok(Found { id: release.id, release: Some((name, version)) }),
            None => Err(unknown(format!("{name} {version} is not published"))),
        };
    }
    let mut ids: Vec<ArtifactId> = listed(catalogue)?.into_iter().map(|line| line.id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.retain(|id| which.len() >= ID_PREFIX_MIN && id.to_string().starts_with(which));
    match ids.as_slice() {
        [id] => Ok(Found { id: *id, release: None }),
        [] => Err(unknown(format!(
            "{which:?} is neither NAME@VERSION nor the first {ID_PREFIX_MIN} or more digits of an id here"
        ))),
        several => Err(unknown(format!("{which:?} begins {} ids: give more digits", several.len()))),
    }
}

fn manifest_of(catalogue: &Catalogue, id: ArtifactId) -> Result<Manifest, Failure> {
    let missing = || PackError::NotThere { id, directory: catalogue.packs().path().to_owned() };
    catalogue.packs().manifest(id).and_then(|manifest| manifest.ok_or_else(missing)).map_err(packing)
}

fn names_of(releases: &[Release], id: ArtifactId) -> Vec<String> {
    releases.iter().filter(|release| release.id == id).map(full_name).collect()
}

fn full_name(release: &Release) -> String {
    format!("{}@{}", release.name, release.version)
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn open(home: &Path) -> Result<Catalogue, Failure> {
    Catalogue::open(home).map_err(cataloguing)
}

fn building(error: BuildError) -> Failure {
    match error {
        BuildError::Pack(error) => packing(error),
        BuildError::Compress(_) => Failure::new(Exit::Environment, error),
        BuildError::Manifest(_) => Failure::new(Exit::Internal, error),
        BuildError::Archive(ArchiveError::Tree { .. }) => Failure::new(Exit::Environment, error)
            .advise("make the whole tree readable for the user who packs it, or pack it as its owner"),
        BuildError::Source { .. } => {
            Failure::new(Exit::BadInput, error).advise("give a directory or a file that can be read")
        }
        BuildError::Archive(_)
        | BuildError::Kind { .. }
        | BuildError::Changed { .. }
        | BuildError::TooLong { .. }
        | BuildError::TooManyChunks => Failure::new(Exit::BadInput, error),
    }
}

fn packing(error: PackError) -> Failure {
    let exit = if error.is_damage() { Exit::Damaged } else { Exit::Environment };
    match &error {
        PackError::NotThere { .. } | PackError::Incomplete { .. } => {
            Failure::new(Exit::BadInput, error).advise("`artifact add` it again")
        }
        PackError::Io { source, .. }
            if matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
            ) =>
        {
            Failure::new(exit, error).advise("free some room: `artifact list` and `artifact remove`")
        }
        PackError::NoSpace { .. } => Failure::new(exit, error).advise("free some room, then try again"),
        PackError::Manifest { .. } | PackError::Corrupt { .. } => {
            Failure::new(exit, error).advise("`artifact add` it again: that replaces what is damaged")
        }
        PackError::Io { .. }
        | PackError::Refused { .. }
        | PackError::NoSuchChunk { .. }
        | PackError::Missing { .. } => Failure::new(exit, error),
    }
}

fn cataloguing(error: CatalogueError) -> Failure {
    match error {
        CatalogueError::Pack(error) => packing(error),
        CatalogueError::File(_) | CatalogueError::Io { .. } => Failure::new(Exit::Environment, error),
        CatalogueError::Damaged { .. } => {
            Failure::new(Exit::Damaged, error).advise("remove that file and `artifact add` the version again")
        }
        CatalogueError::Taken { .. } => Failure::new(Exit::BadInput, error)
            .advise("a version never changes: choose another, or `artifact remove` that one first"),
    }
}

/// A bar for people, on a terminal, from the second second on.
struct Bar(ProgressBar);

impl Bar {
    fn new(what: &'static str, output: Output) -> Self {
        let bar = ProgressBar::hidden();
        let style =
            ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        bar.set_style(style.expect("a constant template"));
        bar.set_message(if output == Output::Human && io::stderr().is_terminal() { what } else { "" });
        Self(bar)
    }

    fn at(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
        if self.0.is_hidden() && !self.0.message().is_empty() && self.0.elapsed() > Duration::from_secs(1) {
            self.0.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    fn done(self) {
        self.0.finish_and_clear();
    }
}

/// Fewest digits that name an artifact: 32 bits, which two artifacts of one coordinator hardly share.
const ID_PREFIX_MIN: usize = 8;
