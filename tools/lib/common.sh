# shellcheck shell=bash
# Shell functions shared by tools/dev and the build scripts of kernel-config/ and images/.
# Sourced, never executed; the sourcing script has set `set -euo pipefail`.
#
#   cache_dir                    prints the cache folder, outside the tree; made when missing
#   say TEXT                     one progress line on stderr
#   step TEXT LOG COMMAND...     runs COMMAND with its output in LOG, shows TEXT and elapsed seconds,
#                                prints the end of LOG when COMMAND fails
#   content_hash WORD|FILE...    prints 16 hex digits over the contents of files and the words given
#   with_lock NAME COMMAND...    runs COMMAND while holding the cache lock NAME
#   debian_packages PACKAGE...   installs the missing ones of these packages of the running system
#   suite_apt SUITE              prints an APT_CONFIG file for another Debian suite, using the mirror
#                                that this machine has configured; its package lists are private

cache_dir() {
  local folder=${HUTCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hutch}
  mkdir -p "$folder"
  printf '%s\n' "$folder"
}

say() { printf 'hutch: %s\n' "$*" >&2; }

fail() { # TEXT: what is wrong and what mends it
  printf 'hutch: error: %s\n' "$*" >&2
  exit 1
}

step() {
  local text=$1 log=$2 status=0 start=$SECONDS
  shift 2
  mkdir -p "$(dirname "$log")"
  "$@" >"$log" 2>&1 </dev/null &
  local child=$! ticks=0
  [ -t 2 ] || say "$text ..."
  while kill -0 "$child" 2>/dev/null; do
    sleep 0.2
    ticks=$((ticks + 1))
    if [ -t 2 ]; then
      printf '\rhutch: %s ... %d s ' "$text" $((SECONDS - start)) >&2
    elif [ $((ticks % 150)) = 0 ]; then
      say "$text ... $((SECONDS - start)) s: $(tail -n 1 "$log" | cut -c1-100)"
    fi
  done
  wait "$child" || status=$?
  [ ! -t 2 ] || printf '\r' >&2
  if [ "$status" != 0 ]; then
    say "$text: failed after $((SECONDS - start)) s; the end of $log:"
    tail -n 20 "$log" >&2
    return "$status"
  fi
  say "$text: $((SECONDS - start)) s"
}

content_hash() {
  local item
  for item; do
    if [ -f "$item" ]; then
      sha256sum <"$item"
    else
      printf '%s\n' "$item"
    fi
  done | sha256sum | cut -c1-16
}

with_lock() {
  local name=$1 folder
  shift
  folder=$(cache_dir)
  (
    flock 9
    "$@"
  ) 9>"$folder/$name.lock"
}

debian_packages() {
  local missing=() package
  for package; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  as_root "Debian's package lists" apt-get update -q
  as_root "installing ${#missing[@]} Debian packages" \
    env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

as_root() { # TEXT COMMAND...: a step as root, by sudo where needed
  local text=$1 run=()
  shift
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "root has to run this here: $*"
    run=(sudo)
  fi
  # The running system's own apt, whatever suite the caller is working with.
  step "$text" "$(cache_dir)/log/apt.log" "${run[@]}" env -u APT_CONFIG "$@"
}

# The base address of the Debian mirror in this machine's own apt configuration.
debian_mirror() {
  local mirror
  mirror=$(configured_mirror)
  if [ -z "$mirror" ]; then
    # Apt lists only what it has fetched.
    as_root "Debian's package lists" apt-get update -q >&2
    mirror=$(configured_mirror)
  fi
  printf '%s\n' "$mirror"
}

configured_mirror() {
  # shellcheck disable=SC2016 # fields of apt, not of the shell
  apt-get indextargets --format '$(SITE) $(RELEASE) $(CREATED_BY)' |
    awk '!found && ($2 == "bookworm" || $2 == "trixie") && $3 == "Packages" { print $1; found = 1 }'
}

suite_apt() {
  local suite=$1 folder mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  folder=$(cache_dir)/apt/$suite
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || fail "apt has no Debian mirror configured; add one to /etc/apt and run: apt-get update"
  mkdir -p "$folder"/{lists/partial,archives/partial,parts}
  : >"$folder/status"
  printf 'deb [signed-by=%s arch=amd64] %s %s main\n' "$keyring" "$mirror" "$suite" >"$folder/sources.list"
  cat >"$folder/apt.conf" <<CONF
Dir::Etc::SourceList "$folder/sources.list";
Dir::Etc::SourceParts "$folder/parts";
Dir::State::Lists "$folder/lists";
Dir::State::Status "$folder/status";
Dir::Cache "$folder";
Dir::Cache::Archives "$folder/archives";
APT::Architecture "amd64";
APT::Sandbox::User "root";
CONF
  local list
  list=$(find "$folder/lists" -maxdepth 1 -name '*_Packages*' -mmin -720 | head -n 1)
  if [ -z "$list" ]; then
    step "package lists of Debian $suite" "$(cache_dir)/log/apt-$suite.log" env APT_CONFIG="$folder/apt.conf" apt-get update -q
  fi
  printf '%s\n' "$folder/apt.conf"
}
