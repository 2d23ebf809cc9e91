# What the scripts share; sourced by them. They run as root, in any locale.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin:${HOME:-/root}/.cargo/bin
export LC_ALL=C.UTF-8
umask 022

# Ends the script, saying why.
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# need_root WHAT_FOR
need_root() {
  (( EUID == 0 )) || die "needs root, for $1; run it as root, or with sudo -E"
}

# install COMMAND:PACKAGE... : installs the packages of those commands, or files given by their path, that are not there. What is there stays as
# it is, whatever version it is and wherever it came from.
install() {
  local pair missing=()
  for pair; do is_there "${pair%%:*}" || missing+=("${pair#*:}"); done
  (( ${#missing[@]} )) || return 0
  command -v apt-get > /dev/null || die "please install: ${missing[*]}"
  echo "installing ${missing[*]}"
  # A package list that cannot be refreshed may still be good enough.
  apt-get update -qq > /dev/null 2>&1 || echo "apt-get update failed; going on with the lists there are" >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" > /dev/null ||
    die "apt-get could not install: ${missing[*]}"
  for pair; do is_there "${pair%%:*}" || die "${pair#*:} is installed, but has no ${pair%%:*}"; done
}

is_there() { if [[ $1 == /* ]]; then [[ -e $1 ]]; else command -v "$1" > /dev/null; fi; }

# binary DIR : puts the release build into DIR. A copy, so that a later build changes nothing under a running script and so
# that the processes of this script can be told from others. $COPAL_BIN, if set, is taken instead of a build.
binary() {
  mkdir -p "$1"
  if [[ -n ${COPAL_BIN:-} ]]; then cp "$COPAL_BIN" "$1/copal"; return; fi
  command -v cargo > /dev/null || die "needs Rust; see https://rustup.rs"
  install cc:build-essential
  (cd "$root" && cargo build --release --locked)
  local target
  target=$(cd "$root" && cargo metadata --format-version 1 --no-deps --locked |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
  cp "$target/release/copal" "$1/copal"
}

# Mounts beneath DIR, newest first: type, tab, path.
mounts_under() {
  awk -v dir="$1/" '{ kind = ""; for (i = 7; i < NF; i++) if ($i == "-") { kind = $(i + 1); break } }
    index($5 "/", dir) == 1 { print kind "\t" $5 }' /proc/self/mountinfo | tac
}

# Loop devices with a backing file beneath DIR.
loops_under() {
  local file backing
  for file in /sys/block/loop*/loop/backing_file; do
    if { read -r backing < "$file"; } 2> /dev/null && [[ $backing == "$1"/* ]]; then
      file=${file#/sys/block/}; echo "/dev/${file%%/*}"
    fi
  done
}

# Processes that run a program beneath DIR.
processes_under() {
  local link program
  for link in /proc/[0-9]*/exe; do
    if program=$(readlink "$link" 2> /dev/null) && [[ $program == "$1"/* ]]; then
      link=${link#/proc/}; echo "${link%%/*}"
    fi
  done
}

# Takes mounts beneath DIR away, newest first; only those of type KIND, or with '!KIND' all others.
unmount_under() {
  local kind path
  mounts_under "$1" | while IFS=$'\t' read -r kind path; do
    case $2 in "!$kind") continue ;; "!"*) ;; "$kind") ;; *) continue ;; esac
    path=$(printf '%b' "${path//\\/\\0}")
    umount "$path" 2> /dev/null || umount -l "$path" || :
  done
}

# Takes everything away that a script left beneath DIR, and DIR itself: what is mounted from loop devices, the devices, the mounts
# they read from, the processes, the files.
clear_away() {
  local dir=$1 device pid tries signal
  cd /
  # What was attached hangs from /run; its records are here.
  if [[ -d $dir/attached && -x $dir/bin/copal ]]; then COPAL_ATTACH_STATE=$dir/attached "$dir/bin/copal" detach --all || :; fi
  unmount_under "$dir" '!fuse.copal'
  for device in $(loops_under "$dir"); do losetup -d "$device" || :; done
  unmount_under "$dir" fuse.copal
  for tries in {1..50}; do
    [[ -z $(processes_under "$dir") ]] && break
    case $tries in 20) signal=TERM ;; 40) signal=KILL ;; *) signal= ;; esac
    for pid in $(processes_under "$dir"); do [[ -z $signal ]] || kill -s "$signal" "$pid" 2> /dev/null || :; done
    sleep 0.1
  done
  rm -rf --one-file-system "$dir"
}

# Fails if something is left beneath DIR.
nothing_left() {
  local left
  left=$(mounts_under "$1"; loops_under "$1"; processes_under "$1")
  [[ -z $left && ! -e $1 ]] || { printf 'left behind:\n%s\n' "${left:-$1}" >&2; return 1; }
}

# A free loop device may still be marked read-only by whoever had it: its next user could not write to it.
loops_writable() {
  local device name
  for device in /dev/loop[0-9]*; do
    name=${device##*/}
    [[ -b $device && ! -e /sys/block/$name/loop/backing_file && $(cat "/sys/block/$name/ro" 2> /dev/null) == 1 ]] || continue
    blockdev --setrw "$device" 2> /dev/null || :
  done
}

# workspace NAME : makes a directory, $work, that is cleared away however the script ends.
workspace() {
  loops_writable
  work=$(mktemp -d "${TMPDIR:-/tmp}/copal-$1.XXXXXX")
  work=$(cd "$work" && pwd -P)
  trap 'status=$?; trap "" INT TERM HUP; clear_away "$work"; exit $status' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
}
